"""From a configuration to a training run that is ready to begin: one record, which Trainer takes."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.sources import SourcePaths, Sources, read_sources
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.runs.folder import RunFolder, weights_in
from alexnet_dist.runs.lock import RunLock
from alexnet_dist.runs.log import log, warn
from alexnet_dist.runs.tensorboard import require_tensorboard
from alexnet_dist.runs.timeline import NullTimeline, Timeline
from alexnet_dist.support.files import check_writable
from alexnet_dist.support.plural import plural
from alexnet_dist.support.threads import Team
from alexnet_dist.support.tracking import saying_if_slow
from alexnet_dist.training.config import AUTO, TrainingConfig
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.header import first_lines
from alexnet_dist.training.not_finite import SkipNotFinite
from alexnet_dist.training.optim_wrappers import configured_optimizer
from alexnet_dist.training.origin import Origin, Start, fill, frozen_layers, read_origin
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import Report, open_report
from alexnet_dist.training.resumed_flags import state_of
from alexnet_dist.training.samples import Samples
from alexnet_dist.training.schedule import Schedule
from alexnet_dist.training.shared_tables import share_sources
from alexnet_dist.training.strategies import STRATEGIES, for_many_ranks
from alexnet_dist.training.strategy_choice import choose_engine
from alexnet_dist.training.watchdog import Watchdog


@dataclass(frozen=True)
class Memory:
    """What a run goes on from that has lost ranks; `said` is what people should know."""

    sources: Sources
    progress: Progress
    values: np.ndarray
    state: dict[str, np.ndarray]
    said: str

    def fill(self, values: np.ndarray, state: dict[str, np.ndarray]) -> None:
        """Fills parameters and the optimizer's state."""
        np.copyto(values, self.values)
        for name, array in state.items():
            np.copyto(array, self.state[name])


@dataclass(frozen=True)
class Inputs:
    """What a run reads before anything slow begins, checked and the same on all ranks."""

    config: TrainingConfig
    world: Ranks
    sources: Sources
    train_list: str  # the fingerprints of sources.train and .val
    val_list: str
    network: Network
    folder: RunFolder
    origin: Origin  # on rank 0; on the others it says nothing

    @property
    def global_batch(self) -> int:
        """Images a step over all ranks."""
        return self.config.global_batch_on(self.world.size)

    def warn(self, text: str) -> None:
        """Not collective: tells people of this rank's trouble."""
        warn(self.world.rank, self.world.size, text)


@dataclass(frozen=True)
class Run(Inputs):
    """A training run that is ready to begin."""

    team: Team
    schedule: Schedule
    nodes: list[int]  # how many ranks each has
    engine: Engine
    why_strategy: str
    progress: Progress  # where it begins
    resumed: dict[str, Any] | None  # the header of the training state that it continues
    said: str  # why it begins again, if ranks have been lost
    samples: Samples
    timeline: Timeline | NullTimeline
    report: Report


@contextmanager
def open_run(
    config: TrainingConfig,
    world: Ranks,
    sources: Sources | None = None,
    memory: Memory | None = None,
    watchdog: Watchdog | None = None,
) -> Iterator[Run]:
    """Collective: the run, whose memory, threads and files are released at the end.

    Without `sources` the images are those of the lists that the configuration names. With a `memory` the run goes on from
    that. A `watchdog` may be watching already. What is wrong with the input is raised as SharedError.
    """
    with ExitStack() as stack:
        watchdog = watchdog or stack.enter_context(Watchdog(config.stall_timeout, world))
        watchdog.meet()
        inputs = read_inputs(config, world, sources, memory)
        watchdog.begin(inputs.folder.path)
        lock = RunLock(inputs.folder.path)
        stack.callback(lock.release)
        with world.shared_errors():
            if world.rank == 0:  # raises if another run holds the folder, unless its rank 0 has been lost
                lock.acquire(take_over=memory is not None)
        team = stack.enter_context(Team(config.threads or world.node_threads(), fixed=config.deterministic))
        run = _begin(inputs, team, memory)
        try:
            yield run
            run.engine.close()  # collective: not after an error, when some ranks may not get here
        except SharedError as error:
            run.report.failed(error)
            raise
        finally:
            run.report.close()


def read_inputs(
    config: TrainingConfig, world: Ranks, sources: Sources | None = None, memory: Memory | None = None
) -> Inputs:
    """Collective: reads the lists, unless `sources` are given, and checks that the run can write. Raises SharedError."""
    folder = RunFolder(Path(config.output_dir), config.keep)
    with saying_if_slow(f"reading {config.data}", world.rank == 0):
        sources = memory.sources if memory else sources or share_sources(world, partial(open_sources, config))
    with world.shared_errors():
        if not world.has_mpi and config.sync not in ("auto", "measure"):
            raise UserError(
                f"--sync {config.sync} is for the ranks of MPI, and no MPI library was found: say --sync auto, or "
                "pip install 'alexnet_dist[mpi]'"
            )
        if len(sources.train) < world.size:
            raise UserError(
                f"{sources.train.source} has {plural(len(sources.train), 'training image')} for {plural(world.size, 'rank')}: "
                "start fewer ranks (mpirun -n) or add images"
            )
        network = make_network(config, sources.num_classes)
        share = math.ceil(config.global_batch_on(world.size) / world.size)
        if config.accumulate > share:
            raise UserError(
                f"--accumulate {config.accumulate} parts are more than the {plural(share, 'image')} of a rank in a step"
            )
        frozen_layers(network, config)
        origin = Origin()
        if world.rank == 0 and memory is None:
            folder.check(resuming=config.resume is not None)
            if config.tensorboard:
                require_tensorboard()
            for file in (config.save, config.timeline):
                if file:
                    check_writable(Path(file))
            start = _start(config, folder)
            origin = read_origin(config, start, network, sources.class_names, config.global_batch_on(world.size))
    train_list, val_list = sources.train.fingerprint(), sources.val.fingerprint()
    inputs = [train_list, val_list, sources.num_classes, asdict(config)]
    world.require_same(json.dumps(inputs), "what is read from the lists, --class-names or --config")
    return Inputs(config, world, sources, train_list, val_list, network, folder, origin)


def open_sources(config: TrainingConfig) -> Sources[ImageTable]:
    """The lists of images, or shards. Raises UserError for lists that can't be used."""
    paths = SourcePaths(
        Path(config.data),
        Path(config.val) if config.val else None,
        config.val_fraction,
        Path(config.class_names) if config.class_names else None,
        config.num_classes,
        config.ignore_class_names,
    )
    return read_sources(paths, config.seed)


def make_network(config: TrainingConfig, num_classes: int) -> Network:
    """The network. Raises UserError for images too small for it."""
    network = Network(num_classes, config.image_size, config.dropout, config.width, config.interpolation)
    try:
        layer_table(network)
    except ValueError as error:
        raise UserError(f"--image-size {config.image_size}: {error}") from error
    return network


def step_spec(config: TrainingConfig, network: Network, ranks: int) -> StepSpec:
    """What each of `ranks` ranks computes in a step."""
    optimizer = configured_optimizer(config)
    return StepSpec(
        network,
        batch=math.ceil(config.global_batch_on(ranks) / ranks),
        optimizer=SkipNotFinite(optimizer) if config.on_nan == "skip" else optimizer,
        parts=config.accumulate,
        frozen=frozen_layers(network, config),
        head_lr_factor=config.head_lr_factor,
        smoothing=config.label_smoothing,
        seed=config.seed,
        conv=config.conv,
        deterministic=config.deterministic,
    )


def _begin(inputs: Inputs, team: Team, memory: Memory | None) -> Run:
    """The slow part: opens an engine and fills its parameters."""
    config, world, origin = inputs.config, inputs.world, inputs.origin
    with world.shared_errors():
        samples = Samples(config.sample, inputs.network, world.rank)
    said = [] if memory else [*first_lines(inputs, team.size), *origin.lines(inputs.network)]
    for line in said:
        print(line, flush=True)
    state = world.broadcast_json(origin.training)
    timeline: Timeline | NullTimeline = NullTimeline()
    if config.timeline:
        world.sum([0])  # all ranks leave a reduction at nearly the same time: their clocks start together
        timeline = Timeline()
    spec = step_spec(config, inputs.network, world.size)

    def open_engine(strategy: str) -> Engine:
        return Engine(spec, world, team, strategy, timeline)

    nodes = world.nodes()[0]
    before = _strategy_before(config, state, nodes) if world.has_mpi else None
    sync = "allreduce" if config.elastic else before or config.sync
    if sync == "measure" and world.rank == 0:
        print("measuring some steps of each strategy (--sync measure)", flush=True)
    reason = "what --elastic needs" if config.elastic else "as before" if before else ""
    engine, why = choose_engine(sync, spec, world, open_engine, reason)
    engine.fill(memory.fill if memory else partial(fill, origin, config, inputs.network))
    with world.shared_errors():
        if world.rank == 0:
            inputs.folder.begin()
            if origin.training is not None and origin.path is not None:  # before the report adds to it
                inputs.folder.take_from(origin.path, origin.training["progress"]["step"])
        report = open_report(inputs, said)
    return Run(
        **vars(inputs),
        team=team,
        schedule=config.schedule(inputs.global_batch),
        nodes=nodes,
        engine=engine,
        why_strategy=why,
        progress=memory.progress if memory else _progress_before(inputs, state),
        resumed=state,
        said=memory.said if memory else "",
        samples=samples,
        timeline=timeline,
        report=report,
    )


def _progress_before(inputs: Inputs, state: dict[str, Any] | None) -> Progress:
    """Where the run goes on; its best result so far counts only on the same validation images."""
    if state is None:
        return Progress()
    progress = Progress.from_json(state["progress"])
    plateau = progress.plateau.resumed(inputs.config.schedule(inputs.global_batch))
    if state.get("val list", inputs.val_list) != inputs.val_list:
        log.warning("the validation images are others than before: the best result so far doesn't count for them")
        plateau = replace(plateau, best=math.inf, bad_epochs=0)
    return replace(progress, plateau=plateau)


def _strategy_before(config: TrainingConfig, state: dict[str, Any] | None, nodes: list[int]) -> str | None:
    """The stored strategy if a run resumes on the same nodes, so that it continues bit for bit; else None."""
    same = state is not None and state.get("ranks") == sum(nodes) and state.get("nodes", nodes) == nodes
    if config.sync == "auto" and state is not None and same:
        stored = str(state["sync"])
        name = {"immediate": "local"}.get(stored, stored)  # its name in files of version 0.1
        return name if name in (STRATEGIES if sum(nodes) == 1 else for_many_ranks()) else None
    return None


def _start(config: TrainingConfig, folder: RunFolder) -> Start:
    """The file that the run continues or starts from, if there is one. Raises UserError if it isn't there."""
    if config.resume == AUTO:
        path, problems = folder.newest_whole()
        for problem in problems:
            print(f"--resume auto: {problem}", flush=True)
        if path:
            return Start(path, resuming=True)
    elif config.resume is not None:
        return Start(state_of(config.resume, config.output_dir), resuming=True)
    return Start(weights_in(Path(config.load_pretrained)) if config.load_pretrained else None, resuming=False)
