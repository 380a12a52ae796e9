"""What each rank did when, as a trace for chrome://tracing or Perfetto; and which rank the others wait for.

The format is Chrome's Trace Event Format: complete events ("ph": "X") with microseconds, a process for each rank, in it
one line for the phases of a step and one for the exchange of gradients.
"""

import json
import os
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from alexnet_dist.support.files import write_text

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World

MOST = 200_000  # events that a rank keeps: the latest ones
PHASES, EXCHANGE = "phases", "exchange"
LINES = {PHASES: 0, EXCHANGE: 1}
WORKING = ("data", "forward", "backward", "update")  # a rank that is slow in these makes others wait
EVEN = 0.02  # of the median: so much more work is no news


class Recorder(Protocol):
    """Takes note of what began and ended when, in seconds of time.perf_counter."""

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Any thread may call this."""
        ...


class Nothing:
    """The recorder of a run that nobody wants a timeline of."""

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Forgets it."""

    def write(self, world: "World") -> None:
        """There is nothing to write."""


class Timeline:
    """The events of one rank, and the file for those of all. Creating and writing are collective."""

    def __init__(self, path: Path, world: "World") -> None:
        self.path = path
        self._events: deque[tuple[str, float, float, str]] = deque(maxlen=MOST)
        world.sum([0])  # whoever leaves an exchange last leaves it soon after the others: one moment for all clocks
        self._zero = time.perf_counter()

    def add(self, name: str, start: float, end: float, line: str) -> None:
        """Keeps it, and forgets the oldest one if there are too many."""
        self._events.append((name, start, end, line))

    def write(self, world: "World") -> None:
        """Rank 0 writes the events of all ranks. Raises SharedError where the file can't be written."""
        everyone = world.all_texts([json.dumps(self._trace(world.rank))])
        with world.together():
            if world.rank == 0:
                events = [event for text in everyone for event in json.loads(text)]
                write_text(self.path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))

    def _trace(self, rank: int) -> list[dict[str, Any]]:
        names: list[dict[str, Any]] = [
            {"name": "process_name", "args": {"name": f"rank {rank} on {os.uname().nodename}"}},
            *({"name": "thread_name", "tid": number, "args": {"name": line}} for line, number in LINES.items()),
        ]
        spans = [
            {"name": name, "ph": "X", "ts": (start - self._zero) * 1e6, "dur": (end - start) * 1e6, "tid": LINES[line]}
            for name, start, end, line in self._events
        ]
        return [{"pid": rank, **event} for event in [*({"ph": "M", "tid": 0, **name} for name in names), *spans]]


def slowest(seconds: list[dict[str, float]], hosts: list[str]) -> str:
    """A sentence on the rank that worked longest, from each rank's seconds by phase; empty for one rank.

    Waiting is no work: in a step all ranks take equally long, and those that are fast spend the rest of it waiting.
    """
    if len(seconds) < 2:
        return ""
    work = [sum(of_rank[phase] for phase in WORKING) for of_rank in seconds]
    rank = max(range(len(work)), key=lambda index: work[index])
    middle = median(work)
    if work[rank] <= (1 + EVEN) * middle:
        return f"all ranks work equally long: {middle:.1f} s of work each, within {EVEN:.0%}"
    more = {phase: seconds[rank][phase] - median(of_rank[phase] for of_rank in seconds) for phase in WORKING}
    phase = max(more, key=lambda name: more[name])
    share = work[rank] / max(middle, 1e-9) - 1
    return (
        f"slowest: rank {rank} on {hosts[rank]}, {work[rank]:.1f} s of work, {share:.0%} more than the median; "
        f"most of it in {phase} ({more[phase]:+.1f} s)"
    )
