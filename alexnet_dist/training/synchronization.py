"""Which strategy keeps the ranks' parameters the same: the one that was asked for, or the fastest of those measured."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np

from alexnet_dist.comm.node import NoSharedMemory
from alexnet_dist.comm.world import World
from alexnet_dist.training.config import SYNCS
from alexnet_dist.training.engine import Engine

FALLBACK = "allreduce"  # needs nothing but messages
WARMUP, MEASURED = 2, 3  # steps

Make = Callable[[str], Engine]


class Choice(NamedTuple):
    """An engine, and a sentence on why it is this one."""

    engine: Engine
    why: str


def open_engine(make: Make, world: World, name: str, floats: int, share: int, total: int) -> Choice:
    """Collective: the engine of the strategy `name` of SYNCS, which `make` opens for `floats` parameters.

    `auto` lets each strategy do some steps on noise, with `share` images of this rank and `total` of all, and takes the
    fastest; parameters and momentum are zero afterwards as before. Where ranks can't share memory it is FALLBACK. Where
    others are possible, FALLBACK is measured only if the memory for its replicas is there.
    """
    if name != "auto":
        return _open(make, name)
    if world.size == 1:
        return Choice(make("immediate"), "one rank has nobody to exchange gradients with")
    seconds: dict[str, float] = {}
    troubles = []
    for candidate in reversed(SYNCS[1:]):
        if candidate == FALLBACK and seconds and (trouble := _lacks_memory(world, floats)):
            troubles.append(f"not {candidate}: {trouble}")
            continue
        try:
            engine = make(candidate)
        except NoSharedMemory as error:
            troubles.append(f"not {candidate}: {error}")
            continue
        seconds[candidate] = world.largest(seconds_of_a_step(engine, world, share, total))
        engine.close()
        del engine
    best = min(seconds, key=lambda candidate: seconds[candidate])
    measured = ", ".join(f"{candidate} {1e3 * value:.0f} ms" for candidate, value in seconds.items())
    return Choice(make(best), "; ".join([f"measured a step: {measured}", *troubles]))


def _lacks_memory(world: World, floats: int) -> str:
    """Where a host has no memory for replicas of parameters, momentum and gradients of all its ranks; else empty."""
    hosts = world.all_hosts()
    need = 3 * 4 * floats * hosts.count(hosts[world.rank])
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    short = f"its replicas take {need / 1e6:.0f} MB of the {available / 1e6:.0f} MB available on {hosts[world.rank]}"
    return next(iter(world.all_texts([short] if need > available else [])), "")


def _open(make: Make, name: str) -> Choice:
    try:
        return Choice(make(name), "as asked for")
    except NoSharedMemory as error:
        return Choice(make(FALLBACK), f"{name} is not possible: {error}")


def seconds_of_a_step(engine: Engine, world: World, share: int, total: int) -> float:
    """The median of some steps that change nothing: their learning rate is 0."""
    size = engine.net.network.image_size
    images = np.random.default_rng(world.rank).standard_normal((share, size, size, 3), dtype=np.float32)
    labels, positions = np.zeros(share, np.int64), np.arange(share)
    seconds = []
    for number in range(WARMUP + MEASURED):
        start = time.perf_counter()
        engine.step(images, labels, positions, total, number, lr=0.0)
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARMUP:])
