"""What each rank did when, as a trace for chrome://tracing or Perfetto; and which rank the others wait for.

The format is Chrome's Trace Event Format: complete events ("ph": "X") with microseconds, a process for each rank, in it
one line for the phases of a step and one for the exchange of gradients.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from alexnet_dist.support.files import replacing

MAX_EVENTS = 200_000  # events that a rank keeps: the latest ones
PHASES, EXCHANGE = "phases", "exchange"
LINES = {PHASES: 0, EXCHANGE: 1}
WORK_PHASES = ("data", "forward", "backward", "update")  # a rank that is slow in these makes others wait
# A rank whose work exceeds the median by no more than this is not called slow:
SLOW_MARGIN = 0.02  # of the median
SLOW_SECONDS = 0.1  # or so many, which are noise


class Recorder(Protocol):
    """Records when something began and ended, in seconds of time.perf_counter."""

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Any thread may call this."""
        ...


class NullTimeline:
    """The recorder of a run without a timeline."""

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Keeps nothing."""


class Timeline:
    """The latest MAX_EVENTS events of one rank. Its clock starts when it is made: make it on all ranks at the same time."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, float, float, str]] = deque(maxlen=MAX_EVENTS)
        self._zero = time.perf_counter()

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Keeps the event, and drops the oldest one if there are too many."""
        self._events.append((name, start, end, line))

    def trace(self, rank: int) -> str:
        """The events as those of this rank: JSON for write_trace."""
        names: list[dict[str, Any]] = [
            {"name": "process_name", "args": {"name": f"rank {rank} on {os.uname().nodename}"}},
            *({"name": "thread_name", "tid": number, "args": {"name": line}} for line, number in LINES.items()),
        ]
        spans = [
            {"name": name, "ph": "X", "ts": (start - self._zero) * 1e6, "dur": (end - start) * 1e6, "tid": LINES[line]}
            for name, start, end, line in self._events
        ]
        events = [*({"ph": "M", "tid": 0, **name} for name in names), *spans]
        return json.dumps([{"pid": rank, **event} for event in events])


def write_trace(path: Path, traces: Iterable[str]) -> None:
    """Writes the results of all ranks' Timeline.trace to one file, each before it takes the next. Raises UserError where it
    can't be written."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for number, trace in enumerate(traces):
            file.write(", " * (number > 0) + trace.removeprefix("[").removesuffix("]"))
        file.write("]}")


def slowest(seconds: list[dict[str, float]], hosts: list[str]) -> str:
    """A sentence on the rank that worked longest, from each rank's seconds by phase; empty for one rank.

    Waiting isn't counted as work: in a step all ranks take equally long, and the faster ones spend part of it waiting.
    """
    if len(seconds) < 2:
        return ""
    work = [sum(by_phase[phase] for phase in WORK_PHASES) for by_phase in seconds]
    rank = max(range(len(work)), key=lambda index: work[index])
    median_work = median(work)
    margin = max(SLOW_MARGIN * median_work, SLOW_SECONDS)
    if work[rank] - median_work <= margin:
        within = f"{SLOW_MARGIN:.0%}" if margin > SLOW_SECONDS else f"{SLOW_SECONDS} s"
        return f"all ranks work equally long: {median_work:.1f} s of work each, within {within}"
    more = {phase: seconds[rank][phase] - median(by_phase[phase] for by_phase in seconds) for phase in WORK_PHASES}
    phase = max(more, key=lambda name: more[name])
    share = work[rank] / max(median_work, 1e-9) - 1
    return (
        f"slowest: rank {rank} on {hosts[rank]}, {work[rank]:.1f} s of work, {share:.0%} more than the median; "
        f"most of it in {phase} ({more[phase]:+.1f} s)"
    )
