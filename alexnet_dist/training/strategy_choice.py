"""Which strategy a run uses: the one that was asked for, the one that a rule picks, or the fastest of those measured."""

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np

from alexnet_dist.comm.node import SLACK, nodes_of, shared_memory_room
from alexnet_dist.comm.strategy import NotPossible
from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import PIECES
from alexnet_dist.errors import SharedError
from alexnet_dist.support.memory import available_memory
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.strategies import FALLBACK, STRATEGIES, Demand, for_many_ranks

WARMUP, MEASURED = 2, 3  # steps

OpenEngine = Callable[[str], Engine]


class Choice(NamedTuple):
    """An engine, and a sentence on why it is this one."""

    engine: Engine
    why: str


def choose_engine(name: str, spec: StepSpec, world: World, open_engine: OpenEngine, reason: str = "") -> Choice:
    """Collective: an engine for `spec`, with the strategy that --sync names, which `open_engine` opens. If it isn't --sync
    that names it, `reason` says what does.

    Raises SharedError where it is to be deterministic and can't be.
    """
    if spec.deterministic:
        return _deterministic(name, spec, world, open_engine)
    if name == "auto":
        name, why = by_rule(spec, world)
        return _open_or_fall_back(name, open_engine, why)
    if name == "measure":
        return _fastest(spec, world, open_engine)
    return _open_or_fall_back(name, open_engine, reason or f"--sync {name}")


def _open_or_fall_back(name: str, open_engine: OpenEngine, why: str) -> Choice:
    try:
        return Choice(open_engine(name), why)
    except NotPossible as error:
        return Choice(open_engine(FALLBACK), f"{name} is not possible: {error} (it was chosen because: {why})")


def _deterministic(name: str, spec: StepSpec, world: World, open_engine: OpenEngine) -> Choice:
    """Those two compute fully connected layers in the same blocks, of the images of all ranks."""
    numbers = [str(number) for number in range(1, PIECES + 1) if PIECES % number == 0]
    if PIECES % world.size:
        raise SharedError(
            f"--deterministic needs {', '.join(numbers[:-1])} or {numbers[-1]} ranks, not {world.size}: mpirun -n"
        )
    if len(sizes := nodes_of(world, spec.largest_node)[0]) > 1:
        raise SharedError(f"--deterministic needs all ranks on one node, and these are on {len(sizes)}: leave it out")
    chosen = "local" if world.size == 1 and name != "hybrid" else "hybrid"
    try:
        return Choice(open_engine(chosen), f"the same bits on {', '.join(numbers)} ranks")
    except NotPossible as error:
        raise SharedError(f"--deterministic needs --sync hybrid, which isn't possible: {error}") from error


def by_rule(spec: StepSpec, world: World) -> tuple[str, str]:
    """Collective: the strategy that sends the least, and why; the same command on the same hosts gives the same.

    Inside a node everything goes through memory, where `hybrid` moves the least. Between nodes its activations grow with
    the batch, gradients don't. A strategy for which a host lacks memory, or which can't run the network, is left out.
    """
    if world.size == 1:
        return "local", "one rank has nobody to exchange gradients with"
    sizes, node = nodes_of(world, spec.largest_node)
    demand = spec.demand(sizes, node)
    sent = {name: round(world.largest(STRATEGIES[name].sent(demand)) / 1e6, 1) for name in for_many_ranks()}
    order = sorted(("hybrid", "sharded"), key=lambda name: sent[name])  # of equals the first
    rejections: list[str] = []
    needed: dict[str, float] = {}
    for name in [*order, FALLBACK]:
        reason = STRATEGIES[name].refuses(spec.network, spec.frozen)
        if not reason:
            needed[name] = world.largest(_memory_of_a_node(name, demand))
            reason = _memory_shortage(name, demand, world)
        if not reason:
            break
        rejections.append(f"not {name}: {reason}")
    else:  # none fits: the one that needs the least might yet
        name = min(needed, key=lambda name: needed[name])
        rejections.append(f"{name} needs the least")
    if len(sizes) == 1:
        why = "on one node, ranks share memory" if STRATEGIES[name].shares_memory else "what is left"
    else:
        images = spec.batch * world.size  # where each rank has the most that it can have
        amounts = ", ".join(f"{candidate} {sent[candidate]:g} MB" for candidate in order)
        why = f"each of {len(sizes)} nodes sends, in a step of up to {images} images, at most: {amounts}"
    return name, "; ".join([why, *rejections])


def _memory_of_a_node(name: str, demand: Demand) -> int:
    entry, ranks = STRATEGIES[name], demand.ranks
    shared, private = entry.shared_memory_of_a_node(demand), ranks * entry.memory_of_a_rank(demand)
    return shared + private + entry.memory_of_a_checkpoint(demand)


def _memory_shortage(name: str, demand: Demand, world: World) -> str:
    """Collective: why a host lacks memory for what a strategy keeps there; empty if none does."""
    entry, host = STRATEGIES[name], world.all_hosts()[world.rank]
    shared, room, available = entry.shared_memory_of_a_node(demand), shared_memory_room(), available_memory()
    needed = _memory_of_a_node(name, demand)
    messages = []
    if demand.ranks > 1 and entry.shares_memory and shared + SLACK > room:
        messages.append(
            f"it takes {shared / 1e6:.0f} MB of shared memory on {host}, which has {room / 1e6:.0f} MB left"
        )
    if needed > available:
        messages.append(f"it takes {needed / 1e6:.0f} MB of the {available / 1e6:.0f} MB available on {host}")
    return next(iter(world.all_texts(messages[:1])), "")


def _fastest(spec: StepSpec, world: World, open_engine: OpenEngine) -> Choice:
    """Collective: the engine whose steps on noise are the fastest; of those that are possible and fit into memory, opened
    anew. Where none does, the one that the rule takes."""
    if world.size == 1:
        return Choice(open_engine("local"), "one rank has nobody to exchange gradients with")
    sizes, node = nodes_of(world, spec.largest_node)
    demand = spec.demand(sizes, node)
    seconds: dict[str, float] = {}
    rejections = []
    # Those that share memory first: they take the least.
    for candidate in sorted(for_many_ranks(), key=lambda candidate: not STRATEGIES[candidate].shares_memory):
        reason = STRATEGIES[candidate].refuses(spec.network, spec.frozen) or _memory_shortage(candidate, demand, world)
        if reason:
            rejections.append(f"not {candidate}: {reason}")
            continue
        try:
            engine = open_engine(candidate)
        except NotPossible as error:
            rejections.append(f"not {candidate}: {error}")
            continue
        seconds[candidate] = world.largest(seconds_of_a_step(engine))
        engine.close()
        del engine
        gc.collect()  # an engine and its strategy know each other: their buffers would stay until some later time
    if not seconds:
        name, why = by_rule(spec, world)
        return _open_or_fall_back(name, open_engine, f"nothing could be measured; {why}")
    best = min(seconds, key=lambda candidate: seconds[candidate])
    measured = ", ".join(f"{candidate} {1e3 * value:.0f} ms" for candidate, value in seconds.items())
    warning = "another run may find another one the fastest, and then differs in rounding"
    return Choice(open_engine(best), "; ".join([f"measured a step: {measured}", warning, *rejections]))


def seconds_of_a_step(engine: Engine) -> float:
    """The median of some steps on noise, with learning rate 0 and the largest number of images that this rank can have."""
    size, count = engine.spec.network.image_size, engine.spec.batch
    images = np.random.default_rng(engine.world.rank).standard_normal((count, size, size, 3), dtype=np.float32)
    batch = Batch(images, np.zeros(count, np.int64), np.arange(count), [])
    seconds = []
    for index in range(WARMUP + MEASURED):
        start = time.perf_counter()
        engine.step(batch, count * engine.world.size, index, lr=0.0)
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARMUP:])
