"""What the benchmarks share: what machine this is, and contenders that take turns, each in a process of its own."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_info

from alexnet_dist.architecture import Network
from alexnet_dist.optim import SGD
from alexnet_dist.parameters import initialize
from alexnet_dist.threads import Team, available_cores
from alexnet_dist.workspace import empty

if TYPE_CHECKING:
    from alexnet_dist.engine import Engine


def describe_machine(*packages: str) -> dict[str, Any]:
    """Processor, cores and versions."""
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    blas = next((f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}" for pool in threadpool_info()
                 if pool["user_api"] == "blas"), "unknown")  # fmt: skip
    versions = {}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": model,
        "cores": available_cores(),
        "python": platform.python_version(),
        "blas": blas,
        **versions,
    }


def sgemm_peak(threads: int) -> float:
    """GFLOP/s of a float32 matrix product of 1024 x 1024 on each of so many threads; the median of 9."""
    n = 1024
    operands = [[np.ones((n, n), np.float32), np.ones((n, n), np.float32), empty((n, n))] for _ in range(threads)]
    seconds = []
    with Team(threads) as team:
        for _ in range(9):
            start = time.perf_counter()
            team.run(lambda index, _: np.matmul(operands[index][0], operands[index][1], out=operands[index][2]))
            seconds.append(time.perf_counter() - start)
    return threads * 2 * n**3 / median(seconds) / 1e9


def memory_bandwidth(threads: int) -> float:
    """GB/s read and written by so many threads that copy between large arrays; the median of 9."""
    size = 1 << 24
    arrays = [(np.ones(size, np.float32), empty((size,))) for _ in range(threads)]
    seconds = []
    with Team(threads) as team:
        for _ in range(9):
            start = time.perf_counter()
            team.run(lambda index, _: np.copyto(arrays[index][1], arrays[index][0]))
            seconds.append(time.perf_counter() - start)
    return threads * 8 * size / median(seconds) / 1e9


def engine_and_batch(batch: int, threads: int) -> tuple["Engine", Callable[[], object]]:
    """Full-size AlexNet on one rank, and a function that trains one step on synthetic images."""
    # Not at the file's top: PyTorch's contenders shall not start MPI.
    from mpi4py import MPI

    from alexnet_dist.comm.world import World
    from alexnet_dist.engine import Engine

    engine = Engine(Network(), World(MPI.COMM_SELF), Team(threads), batch, SGD(), sync="immediate")
    initialize(engine.layout, engine.values, "he", seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 224, 224, 3), dtype=np.float32)
    labels = rng.integers(0, 1000, batch)
    return engine, lambda: engine.step(x, labels, np.arange(batch), batch, 0, 1e-4)


class Contender:
    """A child process that does pieces of work when it is asked, and sleeps while others have their turn."""

    def __init__(self, name: str, program: str, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        self.name = name
        self.seconds: dict[str, list[float]] = {}  # of each of the items that it offers
        self.peak_megabytes = 0.0
        self.latest: dict[str, Any] = {}  # all that it said after its latest turn
        self._process = subprocess.Popen(
            [*launcher, sys.executable, program, "--worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the contender {self.name} has ended early; its message is above")
        return json.loads(answer)

    def wait_until_ready(self) -> None:
        """Learns which items there are."""
        self.seconds = {item: [] for item in self._answer()}

    def turn(self, item: str, counts: bool = True) -> None:
        """Lets it do one item once; counts: this time is one of those that are reported."""
        assert self._process.stdin is not None
        print(item, file=self._process.stdin, flush=True)
        result = self.latest = self._answer()
        if counts:
            self.seconds[item].append(result["seconds"])
        self.peak_megabytes = result["peak_megabytes"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(work: dict[str, Callable[[], object]], at_least: float = 0.0) -> None:
    """The child's side of a Contender: offers items; does each line's on stdin, answers with time and peak memory.

    An item that was quicker than `at_least` seconds in its second turn is repeated in the following ones until they take
    about so long, and the mean is given. What an item returns, if a dict, is put into the answer.
    """
    print(json.dumps(list(work)), flush=True)
    turns, repeats = dict.fromkeys(work, 0), dict.fromkeys(work, 1)
    for line in sys.stdin:
        item = line.strip()
        start = time.perf_counter()
        for _ in range(repeats[item]):
            result = work[item]()
        seconds = (time.perf_counter() - start) / repeats[item]
        turns[item] += 1
        if turns[item] == 2:
            repeats[item] = max(1, round(at_least / seconds))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        more = result if isinstance(result, dict) else {}
        print(json.dumps({"seconds": seconds, "peak_megabytes": peak, **more}), flush=True)


def race(contenders: list[Contender], rounds: int, warmup: int = 2, items: list[str] | None = None) -> None:
    """All take turns with each item, so that a change of the machine's speed meets all alike.

    They are left running if only some items are asked for.
    """
    for contender in contenders:
        contender.wait_until_ready()
    for item in items or list(contenders[0].seconds):
        for number in range(-warmup, rounds):
            for contender in contenders:
                contender.turn(item, counts=number >= 0)
    for contender in contenders if items is None else []:
        contender.close()


def paired_ratio(one: Contender, other: Contender, item: str) -> float:
    """How many times as fast as `other` the first one is: the median over the rounds."""
    return median(theirs / ours for ours, theirs in zip(one.seconds[item], other.seconds[item], strict=True))


def load_average() -> str:
    """The machine's load at this moment; more than the benchmark's own means that others disturb it."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
