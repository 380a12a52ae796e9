"""What people are told at the end of a run: its best epoch, every file it has written, and how to go on."""

import shlex
from contextlib import suppress
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.metrics import INFO, PREDICTIONS, TABLES, read_info, read_rows
from alexnet_dist.runs.tensorboard import FOLDER as TENSORBOARD
from alexnet_dist.training.config import TrainingConfig


def what_is_left(folder: Path, config: TrainingConfig) -> list[str]:
    """Lines for the end of the run in this folder."""
    best = RunFolder(folder, config.keep).best
    lines = [line for line in (_best_epoch(folder),) if line]
    files = _files(folder, config)
    width = max(len(str(path)) for path, _ in files if path.parent == folder)
    lines += ["written:", *(f"  {path!s:{width}}  {what}" for path, what in files)]
    if best.exists():
        weights = shlex.quote(str(best))
        lines += [
            "to go on:",
            f"  alexnet-evaluate --load {weights} --data {_evaluated(folder)}",
            f"  alexnet-inference --load {weights} --input IMAGE",
        ]
    return lines


def _evaluated(folder: Path) -> str:
    """The list of validation images, if they have one of their own; else a word for one."""
    with suppress(UserError, KeyError, TypeError):
        training, validation = (read_info(folder)["images"][kind]["source"] for kind in ("training", "validation"))
        if validation != training:
            return shlex.quote(validation)
    return "LIST"


def _best_epoch(folder: Path) -> str:
    """The epoch that the best weights are of, as far as the metrics say; else ""."""
    with suppress(UserError, KeyError, TypeError):
        found = [row for row in read_rows(folder, "epochs") if row["best"]]
        if found:
            best = found[-1]
            top5 = f"top-5 {best['val_top5']:.2%}, " if "val_top5" in best else ""
            return f"best: epoch {best['epoch']}, validation top-1 {best['val_top1']:.2%}, {top5}loss {best['val_loss']:.4f}"
    return ""


def _files(folder: Path, config: TrainingConfig) -> list[tuple[Path, str]]:
    """The files that are there, each with what it is."""
    run = RunFolder(folder, config.keep)
    files = [
        (run.best, "the weights of the best epoch"),
        (run.latest, "a link to the last checkpoint, for --resume"),
        (run.latest_name, "the name of the last checkpoint, for --resume"),
        *((path, "a checkpoint") for path in run.states()),
        (Path(config.save) if config.save else None, "the final weights"),
        (folder / PREDICTIONS, "what the best weights say of each validation image"),
        (folder / "train.log", "this log"),
        *((folder / f"{table}.jsonl", f"a row for each {WHAT[table]}") for table in TABLES),
        (folder / TENSORBOARD if config.tensorboard else None, "the same for TensorBoard (--logdir)"),
        (folder / INFO, "flags, versions, machines, data"),
        (Path(config.timeline) if config.timeline else None, "what each rank did when"),
        (run.complete, "says that the run has come to its end"),
    ]
    return [(path, what) for path, what in files if path is not None and path.exists()]


WHAT = {"steps": "step", "epochs": "epoch", "ranks": "rank and epoch", "events": "checkpoint, diagnosis, ..."}
