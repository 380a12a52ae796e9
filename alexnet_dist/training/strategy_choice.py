"""Which strategy a run uses: the one that was asked for, or the fastest of those measured."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np

from alexnet_dist.comm.strategy import NotPossible
from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.strategies import FALLBACK, STRATEGIES, Demand, for_many_ranks

WARMUP, MEASURED = 2, 3  # steps

OpenEngine = Callable[[str], Engine]


class Choice(NamedTuple):
    """An engine, and a sentence on why it is this one."""

    engine: Engine
    why: str


def choose_engine(name: str, spec: StepSpec, world: World, open_engine: OpenEngine) -> Choice:
    """Collective: an engine for `spec`, with the strategy that --sync names, which `open_engine` opens.

    `auto` lets each strategy do some steps on noise, takes the fastest and opens it anew. Where ranks can't share memory
    it is FALLBACK. Where others are possible, FALLBACK is measured only if the memory for its replicas is there.
    """
    if name != "auto":
        return _as_asked(name, open_engine)
    if world.size == 1:
        return Choice(open_engine("local"), "one rank has nobody to exchange gradients with")
    seconds: dict[str, float] = {}
    troubles = []
    # Those that share memory first: what comes after may be left out.
    for candidate in sorted(for_many_ranks(), key=lambda candidate: not STRATEGIES[candidate].shares_memory):
        if seconds and (trouble := _lacks_memory(candidate, spec, world)):
            troubles.append(f"not {candidate}: {trouble}")
            continue
        try:
            engine = open_engine(candidate)
        except NotPossible as error:
            troubles.append(f"not {candidate}: {error}")
            continue
        seconds[candidate] = world.largest(seconds_of_a_step(engine))
        engine.close()
        del engine
    best = min(seconds, key=lambda candidate: seconds[candidate])
    measured = ", ".join(f"{candidate} {1e3 * value:.0f} ms" for candidate, value in seconds.items())
    return Choice(open_engine(best), "; ".join([f"measured a step: {measured}", *troubles]))


def _as_asked(name: str, open_engine: OpenEngine) -> Choice:
    try:
        return Choice(open_engine(name), "as asked for")
    except NotPossible as error:
        return Choice(open_engine(FALLBACK), f"{name} is not possible: {error}")


def _lacks_memory(name: str, spec: StepSpec, world: World) -> str:
    """Where a host has no memory for what all its ranks would hold for themselves; else empty. Collective."""
    hosts = world.all_hosts()
    host = hosts[world.rank]
    ranks = hosts.count(host)
    demand = Demand(spec.network, spec.optimizer, spec.batch, (ranks,), 0)
    need, available = ranks * STRATEGIES[name].memory_of_a_rank(demand), available_memory()
    short = f"its replicas take {need / 1e6:.0f} MB of the {available / 1e6:.0f} MB available on {host}"
    return next(iter(world.all_texts([short] if need > available else [])), "")


def available_memory() -> int:
    """Bytes that this host can still give to programs."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def seconds_of_a_step(engine: Engine) -> float:
    """The median of some steps on noise, of as many images as this rank has at most. Their learning rate is 0."""
    size, count = engine.spec.network.image_size, engine.spec.batch
    images = np.random.default_rng(engine.world.rank).standard_normal((count, size, size, 3), dtype=np.float32)
    batch = Batch(images, np.zeros(count, np.int64), np.arange(count), [])
    seconds = []
    for index in range(WARMUP + MEASURED):
        start = time.perf_counter()
        engine.step(batch, count * engine.world.size, index, lr=0.0)
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARMUP:])
