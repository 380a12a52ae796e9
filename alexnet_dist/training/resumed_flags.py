"""The flags of a run that is continued: what its state has, where the command line doesn't say otherwise."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder, naming_whole_states
from alexnet_dist.training.config import AUTO, TrainingConfig
from alexnet_dist.training.flags import layered, parsed
from alexnet_dist.training.optim import hyperparameter_owners

# What belongs to a start and its machine, not to the run.
OF_A_START = {"resume", "threads", "workers", "timeline", "output_dir", "progress", "summary", "print_freq"}
INPUTS = ("data", "val", "class_names")
FILES = (*INPUTS, "load_pretrained", "save")

Flags = Mapping[str, object]


def state_of(resume: str, output_dir: str) -> Path:
    """The training state that --resume means: a file, or the latest one of a run's folder. Raises UserError."""
    if resume and not Path(resume).is_dir():
        return Path(resume)
    folder = RunFolder(Path(resume or output_dir), keep=1)
    latest = folder.latest_state()
    if latest is None:
        raise folder.missing()
    return latest


def flags_before(given: Flags, ranks: int) -> dict[str, object]:
    """The flags of the run that `given` ones continue, for so many ranks; none with --resume auto, or for a new run.

    Raises UserError for a state that can't be read, and where the run's images aren't there any more.
    """
    resume = given.get("resume")
    if resume is None or resume == AUTO:
        return {}
    path = state_of(str(resume), str(given.get("output_dir", TrainingConfig.output_dir)))
    with naming_whole_states(path):
        training = checkpoint.read_header(path).training
    if training is None or not isinstance(training.get("config"), dict):
        return {}  # which is said where the state is read
    known = {field.name for field in fields(TrainingConfig)} - OF_A_START
    stored = {name: value for name, value in training["config"].items() if name in known}
    each, all_together = stored.get("batch_size"), training.get("global-batch")
    if isinstance(each, int) and each * ranks != all_together:  # other ranks than before
        stored |= {"batch_size": None, "global_batch": all_together}
    try:
        flags = parsed(stored)
    except UserError as error:
        raise UserError(f"{path} has a training state that this program can't read ({error})") from error
    flags = _from_here(flags, training.get("started in"))
    _require_inputs({name: flags[name] for name in INPUTS if name in flags and name not in given}, path)
    return flags | {"output_dir": str(path.parent)} if resume else flags


def continued(before: Flags, given: Flags) -> TrainingConfig:
    """The configuration of a run: its flags before, if it is continued, and those that are given, which win.

    Raises UserError.
    """
    if given.get("opt", before.get("opt")) != before.get(
        "opt"
    ):  # refused later, for that and not for the old one's own
        others = hyperparameter_owners()
        before = {name: value for name, value in before.items() if name not in others}
    return TrainingConfig.from_flags(layered(before, given))


def _from_here(flags: dict[str, object], folder: object) -> dict[str, object]:
    """Paths are relative to the folder in which the run was started; states of version 0.1 don't say which that was."""
    if not isinstance(folder, str) or folder == os.getcwd():
        return flags
    moved: dict[str, object] = {name: os.path.join(folder, str(flags[name])) for name in FILES if name in flags}
    if isinstance(sample := flags.get("sample"), list):
        moved["sample"] = [os.path.join(folder, image) for image in sample]
    return flags | moved


def _require_inputs(inputs: Flags, state: Path) -> None:
    for name, value in inputs.items():
        if not os.path.exists(str(value)):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is {value} in {state}, and isn't there (any more, or from here): give {flag}")
