"""What a run starts from: its images, its network, and the parameters of a pretrained file, a checkpoint, or chance."""

from pathlib import Path
from typing import Any

from alexnet_dist.data.sources import Sources, read_sources
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, rows
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.engine import Engine


def open_sources(config: TrainingConfig, ranks: int) -> Sources:
    """The lists of images. Raises UserError for lists that can't be used, or have fewer images than there are ranks."""
    sources = read_sources(
        Path(config.data),
        Path(config.val) if config.val else None,
        config.val_fraction,
        Path(config.class_names) if config.class_names else None,
        config.num_classes,
        config.seed,
    )
    if len(sources.train) < ranks:
        raise UserError(
            f"{config.data} has {len(sources.train)} training images for {ranks} ranks: "
            "start fewer ranks (mpirun -n) or add images"
        )
    return sources


def make_network(config: TrainingConfig, num_classes: int) -> Network:
    """The network. Raises UserError for images too small for it."""
    network = Network(num_classes, config.image_size, config.dropout, config.width)
    try:
        rows(network)
    except ValueError as error:
        raise UserError(f"--image-size {config.image_size}: {error}") from error
    return network


def read_state(config: TrainingConfig, folder: RunFolder, batch: int) -> dict[str, Any] | None:
    """The training state of the run that is resumed, if one is. Raises UserError where this run can't continue it."""
    if config.resume is None:
        return None
    path = _resumed(config, folder)
    state = checkpoint.read_header(path).training
    if state is None:
        raise UserError(f"{path} holds no training state. Start from it with --load-pretrained")
    for name, value in (("seed", config.seed), ("global-batch", batch)):
        if state[name] != value:
            raise UserError(
                f"{path} was trained with a {name.replace('-', ' ')} of {state[name]}, not {value}, and continues only "
                f"with the same: give --{name} {state[name]}"
            )
    return state


def sync_of(config: TrainingConfig, state: dict[str, Any] | None, ranks: int) -> str:
    """The strategy to use: a run that is resumed on as many ranks keeps its own, so that it continues to the bit."""
    if config.sync == "auto" and state is not None and state.get("ranks") == ranks:
        return str(state["sync"])
    return config.sync


def fill(config: TrainingConfig, folder: RunFolder, engine: Engine, state: dict[str, Any] | None) -> None:
    """Fills the parameters, and the momentum if a run is resumed. Raises UserError for a file that doesn't fit."""
    if state is not None:
        checkpoint.load(_resumed(config, folder), engine.layout, engine.values, engine.momentum)
    elif config.load_pretrained:
        checkpoint.load(Path(config.load_pretrained), engine.layout, engine.values, None)
    else:
        initialize(engine.layout, engine.values, config.init, config.seed)


def _resumed(config: TrainingConfig, folder: RunFolder) -> Path:
    path = Path(config.resume or folder.latest)
    return path / folder.latest.name if path.is_dir() else path
