"""From a configuration to a training run that is ready to begin: one record, which Trainer takes."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.comm.world import World
from alexnet_dist.data.sources import SourcePaths, Sources, read_sources
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network, layer_table, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.log import RunLog
from alexnet_dist.runs.timeline import NullTimeline, Timeline
from alexnet_dist.support.files import check_writable
from alexnet_dist.support.threads import Team
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.not_finite import SkipNotFinite
from alexnet_dist.training.optim import make_optimizer
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import Report
from alexnet_dist.training.samples import Samples
from alexnet_dist.training.schedule import Schedule
from alexnet_dist.training.strategy_choice import choose_engine


@dataclass(frozen=True)
class Inputs:
    """What a run reads before anything slow begins, checked and the same on all ranks."""

    config: TrainingConfig
    world: World
    sources: Sources
    train_list: str  # the fingerprint of sources.train
    network: Network
    folder: RunFolder

    @property
    def global_batch(self) -> int:
        """Images a step over all ranks."""
        return self.config.global_batch_on(self.world.size)


@dataclass(frozen=True)
class Run(Inputs):
    """A training run that is ready to begin."""

    team: Team
    schedule: Schedule
    engine: Engine
    why_strategy: str
    progress: Progress  # where it begins
    resumed: dict[str, Any] | None  # the header of the training state that it continues
    samples: Samples
    timeline: Timeline | NullTimeline
    report: Report


@contextmanager
def open_run(config: TrainingConfig, world: World, sources: Sources | None = None) -> Iterator[Run]:
    """Collective: the run, whose memory, threads and files are released at the end.

    Without `sources` the images are those of the lists that the configuration names. What is wrong with the input is
    raised as SharedError.
    """
    inputs = read_inputs(config, world, sources)
    with Team(config.threads or world.node_threads()) as team:
        run = _begin(inputs, team)
        try:
            yield run
            run.engine.close()  # collective: not after an error, when some ranks may not get here
        finally:
            run.report.close()


def read_inputs(config: TrainingConfig, world: World, sources: Sources | None = None) -> Inputs:
    """Collective: reads the lists, unless `sources` are given, and checks that the run can write. Raises SharedError."""
    folder = RunFolder(Path(config.output_dir), config.keep)
    with world.shared_errors():
        sources = sources or open_sources(config)
        if len(sources.train) < world.size:
            raise UserError(
                f"{sources.train.source} has {len(sources.train)} training images for {world.size} ranks: "
                "start fewer ranks (mpirun -n) or add images"
            )
        network = make_network(config, sources.num_classes)
        if world.rank == 0:
            folder.check(resuming=config.resume is not None)
            for file in (config.save, config.timeline):
                if file:
                    check_writable(Path(file))
    train_list = sources.train.fingerprint()
    inputs = [train_list, sources.val.fingerprint(), sources.num_classes, asdict(config)]
    world.require_same(json.dumps(inputs), "what is read from the lists, --class-names or --config")
    return Inputs(config, world, sources, train_list, network, folder)


def open_sources(config: TrainingConfig) -> Sources:
    """The lists of images. Raises UserError for lists that can't be used."""
    paths = SourcePaths(
        Path(config.data),
        Path(config.val) if config.val else None,
        config.val_fraction,
        Path(config.class_names) if config.class_names else None,
        config.num_classes,
    )
    return read_sources(paths, config.seed)


def make_network(config: TrainingConfig, num_classes: int) -> Network:
    """The network. Raises UserError for images too small for it."""
    network = Network(num_classes, config.image_size, config.dropout, config.width)
    try:
        layer_table(network)
    except ValueError as error:
        raise UserError(f"--image-size {config.image_size}: {error}") from error
    return network


def step_spec(config: TrainingConfig, network: Network, ranks: int) -> StepSpec:
    """What each of `ranks` ranks computes in a step."""
    optimizer = make_optimizer(config.opt, config)
    return StepSpec(
        network,
        batch=math.ceil(config.global_batch_on(ranks) / ranks),
        optimizer=SkipNotFinite(optimizer) if config.on_nan == "skip" else optimizer,
        smoothing=config.label_smoothing,
        seed=config.seed,
        conv=config.conv,
    )


def _begin(inputs: Inputs, team: Team) -> Run:
    """The slow part: reads the training state, opens an engine and fills its parameters."""
    config, world, folder = inputs.config, inputs.world, inputs.folder
    with world.shared_errors():
        samples = Samples(config.sample, config.image_size, world.rank)
        state = _read_state(inputs) if world.rank == 0 else None
    state = world.broadcast_json(state)
    timeline: Timeline | NullTimeline = NullTimeline()
    if config.timeline:
        world.sum([0])  # all ranks leave a reduction at nearly the same time: their clocks start together
        timeline = Timeline()
    spec = step_spec(config, inputs.network, world.size)

    def open_engine(strategy: str) -> Engine:
        return Engine(spec, world, team, strategy, timeline)

    before = _strategy_before(config, state, world.size)
    engine, why = choose_engine(before or config.sync, spec, world, open_engine)
    engine.fill(partial(restore_or_initialize, inputs, state))
    with world.shared_errors():
        out = RunLog(folder.path, enabled=world.rank == 0)
        if world.rank == 0:
            folder.begin()
    return Run(
        **vars(inputs),
        team=team,
        schedule=config.schedule(inputs.global_batch),
        engine=engine,
        why_strategy="as before" if before == engine.strategy_name else why,
        progress=Progress.from_json(state["progress"]) if state else Progress(),
        resumed=state,
        samples=samples,
        timeline=timeline,
        report=Report(out, config, inputs.global_batch),
    )


def _read_state(inputs: Inputs) -> dict[str, Any] | None:
    """The header of the run that is resumed, if one is. Raises UserError where this run can't continue it."""
    config = inputs.config
    if config.resume is None:
        return None
    path = _resumed_file(config, inputs.folder)
    state = checkpoint.read_header(path).training
    if state is None:
        raise UserError(f"{path} holds no training state. Start from it with --load-pretrained")
    stored = {"opt": "sgd", **state}  # states of version 0.1 don't name it: there was only SGD
    phrases = {"seed": "a seed of", "global-batch": "a global batch of", "opt": "the optimizer"}
    for name, value in (("seed", config.seed), ("global-batch", inputs.global_batch), ("opt", config.opt)):
        if stored[name] != value:
            raise UserError(
                f"{path} was trained with {phrases[name]} {stored[name]}, not {value}, and continues only "
                f"with the same: give --{name} {stored[name]}"
            )
    return state


def _strategy_before(config: TrainingConfig, state: dict[str, Any] | None, ranks: int) -> str | None:
    """The stored strategy if a run resumes on the same number of ranks, so that it continues bit for bit; else None."""
    if config.sync == "auto" and state is not None and state.get("ranks") == ranks:
        stored = str(state["sync"])
        return {"immediate": "local"}.get(stored, stored)  # its name in files of version 0.1
    return None


def restore_or_initialize(
    inputs: Inputs, header: dict[str, Any] | None, values: np.ndarray, state: dict[str, np.ndarray]
) -> None:
    """Fills the parameters, and the optimizer's state: from the run that is resumed if there is a header of it.

    Raises UserError for a file that doesn't fit.
    """
    config, parameters = inputs.config, parameter_map(inputs.network)
    if header is not None:
        checkpoint.load(_resumed_file(config, inputs.folder), parameters, values, state)
        return
    if config.load_pretrained:
        checkpoint.load(Path(config.load_pretrained), parameters, values, {})
    else:
        initialize(parameters, values, config.init, config.seed)


def _resumed_file(config: TrainingConfig, folder: RunFolder) -> Path:
    path = Path(config.resume or folder.latest)
    return path / folder.latest.name if path.is_dir() else path
