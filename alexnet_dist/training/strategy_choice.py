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

    `auto` measures some steps of each strategy on noise, takes the fastest and opens it anew. Strategies that aren't
    possible here are left out, and so is FALLBACK if others are possible and there is no memory for its replicas.
    """
    if name != "auto":
        return _as_asked(name, open_engine)
    if world.size == 1:
        return Choice(open_engine("local"), "one rank has nobody to exchange gradients with")
    seconds: dict[str, float] = {}
    rejections = []
    # Those that share memory first: if one works, the others may be left out.
    for candidate in sorted(for_many_ranks(), key=lambda candidate: not STRATEGIES[candidate].shares_memory):
        if seconds and (reason := _memory_shortage(candidate, spec, world)):
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
    best = min(seconds, key=lambda candidate: seconds[candidate])
    measured = ", ".join(f"{candidate} {1e3 * value:.0f} ms" for candidate, value in seconds.items())
    return Choice(open_engine(best), "; ".join([f"measured a step: {measured}", *rejections]))


def _as_asked(name: str, open_engine: OpenEngine) -> Choice:
    try:
        return Choice(open_engine(name), "as asked for")
    except NotPossible as error:
        return Choice(open_engine(FALLBACK), f"{name} is not possible: {error}")


def _memory_shortage(name: str, spec: StepSpec, world: World) -> str:
    """Collective: why a host lacks memory for what its ranks would hold privately; empty if none does."""
    hosts = world.all_hosts()
    host = hosts[world.rank]
    ranks = hosts.count(host)
    demand = Demand(spec.network, spec.optimizer, spec.batch, (ranks,), 0)
    need, available = ranks * STRATEGIES[name].memory_of_a_rank(demand), available_memory()
    message = f"its replicas take {need / 1e6:.0f} MB of the {available / 1e6:.0f} MB available on {host}"
    return next(iter(world.all_texts([message] if need > available else [])), "")


def available_memory() -> int:
    """Bytes of memory that are available to programs on this host."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


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
