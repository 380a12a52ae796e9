"""What a run's parameters begin with: a state to continue, weights to start from, or chance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_dist.data.class_names import class_order
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.parameters import initialize, reorder_classes_
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import followed, naming_whole_states
from alexnet_dist.support.plural import plural
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.progress import Progress

SAID = {"seed": "a seed of", "global-batch": "a global batch of", "opt": "the optimizer"}


class Start(NamedTuple):
    """The file that a run begins with, if there is one, and whether it continues the run that wrote it."""

    path: Path | None
    resuming: bool


@dataclass(frozen=True)
class Origin:
    """What a file's header says of it; `fill` reads the rest. Without a `path` the parameters are drawn at random."""

    path: Path | None = None
    training: dict[str, Any] | None = None  # of the run that is resumed
    new: tuple[str, ...] = ()  # parameters that the file can't give: those of the last layer, for other classes
    classes: int = 0  # in the file
    order: list[int] | None = None  # which of the file's classes is each of ours, if not the same

    def lines(self, network: Network) -> list[str]:
        """What people should know of it before training begins."""
        if self.path is None:
            return []
        if self.training is not None:
            return [f"resuming from {self.path}"]
        lines = [f"weights: {self.path}"]
        if self.new:
            lines.append(
                f"a new last layer, for {plural(network.num_classes, 'class', 'classes')}: the file's is for {self.classes}"
            )
        if self.order:
            lines.append("the file's classes are put into this list's order, by their names")
        return lines


def fill(
    origin: Origin, config: TrainingConfig, network: Network, values: np.ndarray, state: dict[str, np.ndarray]
) -> None:
    """Fills parameters and the optimizer's state. Raises UserError for a file that doesn't fit."""
    table = layer_table(network)
    if origin.path is None:
        initialize(table.parameters, values, config.init, config.seed)
        return
    read = state if origin.training is not None else {}
    initialize(table.parameters, values, config.init, config.seed, only=origin.new)
    skip = {*origin.new, *without_state(network, config, read)}
    with naming_whole_states(origin.path):
        checkpoint.load(origin.path, table.parameters, values, read, skip=skip)
    if origin.order:
        for flat in (values, *read.values()):
            reorder_classes_(table.parameters, flat, origin.order)


def frozen_layers(network: Network, config: TrainingConfig) -> int:
    """How many layers with parameters --freeze names, from the first on. Raises UserError."""
    table = layer_table(network)
    features, everything = (sum(bool(layer.parameters) for layer in part) for part in (table.features, table.layers))
    match config.freeze:
        case None:
            return 0
        case "features":
            return features
        case "all-but-last":
            return everything - 1
        case number if number.isdecimal() and 0 < int(number) < everything:
            return int(number)
    raise UserError(
        f"--freeze is {config.freeze}, but must be features, all-but-last, or how many of the {everything} layers with "
        f"parameters stay as they are, from the first on: 1 to {everything - 1}"
    )


def without_state(network: Network, config: TrainingConfig, state: dict[str, np.ndarray]) -> set[str]:
    """The names of the tensors that a file of this run leaves out: frozen layers have no state."""
    layers = [layer for layer in layer_table(network).layers if layer.parameters]
    frozen = [spec.name for layer in layers[: frozen_layers(network, config)] for spec in layer.parameters]
    return {f"{prefix}.{name}" for prefix in state for name in frozen}


def read_origin(
    config: TrainingConfig, start: Start, network: Network, names: list[str] | None, global_batch: int
) -> Origin:
    """Looks into the file to start from. Raises UserError where a run can't continue a state, or for other classes.

    `names` are those of this run's classes, if they are known.
    """
    path = followed(start.path) if start.path else None  # `fill` reads the file that this is now
    if path is None:
        if config.freeze:
            raise UserError(
                f"--freeze {config.freeze} would keep random weights: give trained ones with --load-pretrained"
            )
        return Origin()
    with naming_whole_states(path):
        header = checkpoint.read_header(path)
    training = _training(path, header, config, global_batch) if start.resuming else None
    if training is None and header.network.num_classes != network.num_classes:
        new = tuple(spec.name for spec in layer_table(network).parameters.specs if spec.last)
        return Origin(path, new=new, classes=header.network.num_classes)
    order = None if config.ignore_class_names else class_order(header.class_names, names, path)
    return Origin(path, training, order=order)


def _check_state(path: Path, training: dict[str, Any]) -> None:
    """Raises UserError where a header isn't one that a run has written."""
    try:
        Progress.from_json(training["progress"])
        frozen, averaged = (training["config"].get(name) for name in ("freeze", "ema_decay"))
        missing = {"seed", "global-batch", "train list", "sync"} - training.keys()
        if missing or not isinstance(frozen, str | None) or not isinstance(averaged, float | None):
            raise ValueError(f"{sorted(missing) or 'config'} is missing or of another type")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} has a training state that this program can't read ({error!r})") from error


def _training(path: Path, header: checkpoint.Header, config: TrainingConfig, global_batch: int) -> dict[str, Any]:
    """The state of a run that this one can continue. Raises UserError."""
    if header.training is None:
        raise UserError(f"{path} holds no training state. Start from it with --load-pretrained")
    _check_state(path, header.training)
    stored = {"opt": "sgd", **header.training}  # states of version 0.1 don't name it: there was only SGD
    for name, value in (("seed", config.seed), ("global-batch", global_batch), ("opt", config.opt)):
        if stored[name] != value:
            raise UserError(
                f"{path} was trained with {SAID[name]} {stored[name]}, not {value}, and continues only "
                f"with the same: give --{name} {stored[name]}"
            )
    progress = Progress.from_json(header.training["progress"])
    if (begun := progress.epoch + (progress.step_in_epoch > 0)) > config.epochs:
        raise UserError(
            f"{path} is of epoch {begun}, but --epochs is {config.epochs}: give {begun} or more, or leave it out"
        )
    before = header.training["config"]
    averaged = before.get("ema_decay")
    if (averaged is None) != (config.ema_decay is None):
        advice = "leave --ema-decay out" if averaged is None else f"give --ema-decay {averaged:g}"
        raise UserError(f"{path} was trained {'with' if averaged else 'without'} --ema-decay: {advice}")
    if before.get("freeze") != config.freeze:
        advice = f"give --freeze {before['freeze']}" if before.get("freeze") else "leave --freeze out"
        raise UserError(f"{path} has no state of other layers than it was trained with: {advice}")
    return header.training
