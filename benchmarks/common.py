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
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from alexnet_dist.threads import Team, available_cores
from alexnet_dist.workspace import empty


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


class Contender:
    """A child process that runs one piece of work when it is asked, and sleeps while others have their turn."""

    def __init__(self, name: str, program: str, *arguments: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.peak_megabytes = 0.0
        self._process = subprocess.Popen(
            [sys.executable, program, "--worker", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, counts: bool = True) -> None:
        """Lets it run once; counts: this time is one of those that are reported."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("go", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the contender {self.name} has ended early; its message is above")
        result = json.loads(answer)
        if counts:
            self.seconds.append(result["seconds"])
        self.peak_megabytes = result["peak_megabytes"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(work: Callable[[], None]) -> None:
    """The child's side of a Contender: does the work for each line on stdin, and answers with time and peak memory."""
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_megabytes": peak}), flush=True)


def race(contenders: list[Contender], rounds: int, warmup: int = 2) -> None:
    """All take turns, so that a change of the machine's speed meets all alike."""
    for number in range(-warmup, rounds):
        for contender in contenders:
            contender.turn(counts=number >= 0)
    for contender in contenders:
        contender.close()


def paired_ratio(one: Contender, other: Contender) -> float:
    """How many times as fast as `other` the first one is: the median over the rounds."""
    return median(theirs / ours for ours, theirs in zip(one.seconds, other.seconds, strict=True))


def load_average() -> str:
    """The machine's load at this moment; more than the benchmark's own means that others disturb it."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
