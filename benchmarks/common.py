"""What the benchmarks share: the machine's description and speed, and contenders that take turns, each in a process."""

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

from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.processor import processor
from alexnet_dist.support.threads import Team, available_cores
from alexnet_dist.support.workspace import empty
from alexnet_dist.training.optim import SGD

if TYPE_CHECKING:
    from alexnet_dist.training.engine import Engine

BLOCKS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3")  # of full-size AlexNet, as in net.blocks
PAUSE = 0.02  # seconds between turns: PyTorch's OpenMP threads spin for 10 ms after their work before they sleep
DISTURBED = 0.05  # of the processors' time: figures measured while others used more are marked


def describe_machine(*packages: str) -> dict[str, Any]:
    """Processor, cores and versions."""
    blas = next((f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}" for pool in threadpool_info()
                 if pool["user_api"] == "blas"), "unknown")  # fmt: skip
    versions = {}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": processor(),
        "cores": available_cores(),
        "python": platform.python_version(),
        "blas": blas,
        **versions,
    }


def sgemm_peak(threads: int) -> float:
    """GFLOP/s of a float32 matrix product of 1024 x 1024 on each of `threads` threads; the median of 9."""
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
    """GB/s read and written by `threads` threads that copy between large arrays; the median of 9."""
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
    # Imported here, because PyTorch's contenders must not start MPI.
    from mpi4py import MPI

    from alexnet_dist.comm.world import World
    from alexnet_dist.training.engine import Engine, StepSpec

    engine = Engine(StepSpec(Network(), batch, SGD()), World(MPI.COMM_SELF), Team(threads), "local")
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=0))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 224, 224, 3), dtype=np.float32)
    labels = rng.integers(0, 1000, batch)
    images = Batch(x, labels, np.arange(batch))
    return engine, lambda: engine.step(images, batch, 0, 1e-4)


class Contender:
    """A child process that runs items of work on request, and sleeps while others have their turn."""

    def __init__(self, name: str, program: str, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        self.name = name
        self.seconds: dict[str, list[float]] = {}  # by item
        self.peak_megabytes = 0.0
        self.latest: dict[str, Any] = {}  # the whole answer of its latest turn
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
        """Reads which items it offers."""
        self.seconds = {item: [] for item in self._answer()}

    def turn(self, item: str, counts: bool = True) -> None:
        """Runs one item once; `counts`: the time is one of those reported."""
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
    """The child's side of a Contender: prints its items; runs that of each line on stdin, prints its time and peak memory.

    Each turn begins with `at_least` seconds of the same work that don't count: threads that have slept may share a core for
    a while. An item that took less than that in its second turn is repeated for about that long from then on, and the mean is
    reported. If an item returns a dict, it is added to the answer.
    """
    print(json.dumps(list(work)), flush=True)
    turns, repeats = dict.fromkeys(work, 0), dict.fromkeys(work, 1)
    for line in sys.stdin:
        item = line.strip()
        settled = time.perf_counter() + at_least
        while time.perf_counter() < settled:
            work[item]()
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
    """All take turns with each item, so that a change of the machine's speed affects all equally.

    They are left running if `items` names only some.
    """
    for contender in contenders:
        contender.wait_until_ready()
    for item in items or list(contenders[0].seconds):
        for number in range(-warmup, rounds):
            for contender in contenders:
                time.sleep(PAUSE)
                contender.turn(item, counts=number >= 0)
    for contender in contenders if items is None else []:
        contender.close()


def paired_ratio(one: Contender, other: Contender, item: str) -> float:
    """How many times as fast as `other` the first one is: the median over the rounds."""
    return median(theirs / ours for ours, theirs in zip(one.seconds[item], other.seconds[item], strict=True))


def fastest(contenders: list[Contender], item: str) -> Contender:
    """The one with the lowest median: of PyTorch's two memory formats, the one to compare with."""
    return min(contenders, key=lambda contender: median(contender.seconds[item]))


class OtherLoad:
    """How much of the processors other programs use. Make it before the contenders, and ask when they have been closed.

    Medians of pairs don't correct for it: a core that is shared with other programs delays most a contender whose threads
    wait for each other at barriers, as PyTorch's do, so that the ratios are wrong, too.
    """

    def __init__(self) -> None:
        self._before = self._times()

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Seconds of the clock, of all processors' work on this machine, and of this process's and its children's."""
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        own = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        ticks = user + nice + system + irq + softirq + steal
        return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), own

    def share(self) -> float:
        """Of all processors' time since it was made; 0: the machine is idle otherwise. Stolen time counts, too."""
        clock, busy, own = (after - before for before, after in zip(self._before, self._times(), strict=True))
        return max(0.0, busy - own) / (clock * (os.cpu_count() or 1))

    def __str__(self) -> str:
        share = self.share()
        return f"others used {share:.0%} of the processors" + (": DISTURBED" if share > DISTURBED else "")


def load_average() -> str:
    """The machine's load at this moment; more than the benchmark's own means that other programs run."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
