"""What it costs to see a run: steps with metrics, log, live view and TensorBoard's events, against steps with none of them.

    python benchmarks/observing.py --batch 128 --threads 2 [--run RUNFOLDER]

One process trains full-size AlexNet on synthetic images and takes turns: some steps that are reported as a run reports them,
the view drawn on a terminal of its own, then as many that nobody hears of, in the other order in the next round. Turns are
short and many, since a machine's speed drifts by more than what is measured. Costs are medians of the rounds' pairs with their
standard errors, by the clock and by processor time, which counts the view's thread; and the share of the time that was spent
in the report's calls, by the clock, and in the view's thread, which says it without the drift. TensorBoard's events are written
if tensorboardX is installed. With --run, the report of that run is made as well, once, as at the end of a run, and its seconds
are said. The last line is JSON.
"""

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from math import pi, sqrt
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import OtherLoad, describe_machine, engine_and_batch

from alexnet_dist.runs.log import RunLog
from alexnet_dist.runs.tensorboard import EventFile
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.live import LiveScreen
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import Report

KINDS = ("on", "off")


@contextmanager
def terminal() -> Iterator[int]:
    """A terminal whose other end somebody reads, in a process of its own."""
    main, other = pty.openpty()
    with subprocess.Popen(["cat"], stdin=main, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
        os.close(main)
        yield other
        os.close(other)
        reader.kill()


@contextmanager
def reported(batch: int, tensorboard: bool) -> Iterator[Report]:
    """The report of a run that writes all that can be had."""
    with tempfile.TemporaryDirectory() as folder, terminal() as handle:
        screen = LiveScreen(os.fdopen(os.dup(handle), "w"))
        out = RunLog(Path(folder), enabled=True, screen=screen.handler)
        if tensorboard:
            out.listeners.append(EventFile(Path(folder), 1).add)
        report = Report(out, TrainingConfig(output_dir=folder), batch, 1000, screen)
        yield report
        report.close()


class Turns:
    """Takes turns of so many steps, and keeps what each has cost."""

    def __init__(self, args: argparse.Namespace, tensorboard: bool) -> None:
        self._args, self._tensorboard = args, tensorboard
        self._engine, self._step = engine_and_batch(args.batch, args.threads)
        self._progress = Progress()
        self.wall: dict[str, list[float]] = {kind: [] for kind in KINDS}  # seconds a step
        self.processor: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.spent = 0.0  # seconds in all calls of the report, and of the view's thread on a processor

    def turn(self, kind: str, counts: bool) -> None:
        """One turn, after a step that doesn't count, with which the view begins."""
        if kind == "off":
            self._steps(kind, None, counts)
            return
        with reported(self._args.batch, self._tensorboard) as report:
            self._steps(kind, report, counts)
            if counts:
                self.spent += processor_seconds("live view")

    def _steps(self, kind: str, report: Report | None, counts: bool) -> None:
        if report:
            report.start_clock()
        for number in range(self._args.steps + 1):
            if number == 1:
                wall, processor = time.perf_counter(), time.process_time()
            sums: Any = self._step()
            seconds = self._engine.watch.take()
            self._progress = replace(self._progress, step=self._progress.step + 1, step_in_epoch=number + 1)
            if report:
                start = time.perf_counter()
                report.step(self._progress, sums, 0.01, seconds, 10_000)
                self.spent += (time.perf_counter() - start) * (counts and number > 0)
        if counts:
            self.wall[kind].append((time.perf_counter() - wall) / self._args.steps)
            self.processor[kind].append((time.process_time() - processor) / self._args.steps)


def processor_seconds(name: str) -> float:
    """The processor time of this process's thread of that name."""
    (ident,) = (thread.ident for thread in threading.enumerate() if thread.name == name and thread.ident)
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def cost(of_kind: dict[str, list[float]]) -> dict[str, Any]:
    """By how much, as a share of 1, steps that are seen take longer: the median of the pairs, its standard error as of a
    normal distribution with their quartiles, and all."""
    shares = [on / off - 1 for on, off in zip(of_kind["on"], of_kind["off"], strict=True)]
    first, middle, third = quantiles(shares, n=4, method="inclusive")
    error = (third - first) / 1.349 * sqrt(pi / 2 / len(shares))
    return {"cost": round(middle, 5), "error": round(error, 5), "pairs": [round(share, 5) for share in shares]}


def seconds_of_a_report(run: Path) -> float:
    """How long alexnet-report takes for a run, the start of Python included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "alexnet_dist.report", str(run), "--output", f"{folder}/report.html"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="of a turn (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=40, metavar="N", help="counted pairs, at least 2 (default: %(default)s)"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a finished run, whose report is made as well")
    args = parser.parse_args()
    tensorboard = find_spec("tensorboardX") is not None
    parts = ["metrics", "log", "live view", *["TensorBoard's events"] * tensorboard]
    other_load = OtherLoad()
    turns = Turns(args, tensorboard)
    for number in range(-1, args.rounds):
        for kind in KINDS if number % 2 else reversed(KINDS):
            turns.turn(kind, counts=number >= 0)
    result = {"wall": cost(turns.wall), "processor": cost(turns.processor)}
    speed = args.batch / median(turns.wall["off"])
    by_clock, by_processor = (f"{one['cost']:+.2%} +- {one['error']:.2%}" for one in result.values())
    print(f"batch {args.batch}, {args.threads} threads, {speed:.1f} images/s unseen ({other_load})")
    spent = turns.spent / (args.steps * sum(turns.wall["on"]))
    print(f"{', '.join(parts)}: {by_clock} by the clock, {by_processor} by processor time; spent in them: {spent:.2%}")
    facts: dict[str, Any] = {"batch": args.batch, "threads": args.threads, "steps": args.steps, "parts": parts}
    if args.run:
        facts["report_seconds"] = round(seconds_of_a_report(args.run), 2)
        print(f"the report, once a run: {facts['report_seconds']} s")
    facts |= {
        "images_per_second": round(speed, 2),
        "others_share": round(other_load.share(), 3),
        "spent": round(spent, 5),
        **result,
    }
    print(json.dumps({"machine": describe_machine("rich", "tensorboardX"), **facts}))


if __name__ == "__main__":
    main()
