"""How far a command has come: a bar on a terminal, else a line now and then."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from alexnet_dist.support.terminal import STDERR, STDOUT, columns_of, find_terminal

INTERVAL = 10.0  # seconds between lines
SLOW = 2.0  # seconds after which people wonder

Item = TypeVar("Item")


class Tracker(Protocol):
    """Is told how far a command has come."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def tracking(what: str, shown: bool = True) -> Iterator[Tracker]:
    """Shows, if `shown`, how many of how many things are done: a bar where stderr is a terminal, also that of mpirun;
    else a line on stderr now and then. What is printed meanwhile scrolls by above the bar."""
    if not shown:
        yield lambda done, total: None
        return
    terminal = find_terminal(STDERR)
    if terminal is None:
        yield _Lines(what)
        return
    with terminal:
        # Imported here, where it is needed: the import takes longer than some commands.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # With soft_wrap, what is printed is broken by the terminal alone, and is whole where it is copied from there.
        console = Console(file=terminal, force_terminal=True, width=columns_of(terminal), soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Results go to stdout as they are, unless they appear on the same terminal.
        same = os.isatty(STDOUT) and os.path.sameopenfile(STDOUT, terminal.fileno())
        with Progress(*columns, console=console, transient=True, refresh_per_second=4, redirect_stdout=same) as bar:
            console.show_cursor(True)  # if the command is killed, nobody brings it back
            task: Any = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def track(items: Sequence[Item], what: str, shown: bool = True) -> Iterator[Item]:
    """The items, one after the other; shows how many have been taken, if `shown`."""
    with tracking(what, shown) as tracker:
        for number, item in enumerate(items):
            tracker(number, len(items))
            yield item


@contextmanager
def saying_if_slow(what: str, shown: bool = True) -> Iterator[None]:
    """Says on stdout what is being done, if `shown`, when it has taken some seconds: people need not hear of what is quick."""
    timer = threading.Timer(SLOW, lambda: print(what, flush=True))
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Lines:
    """A line on stderr, when so much time has passed."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= INTERVAL:
            print(f"{self._what}: {done} of {total}", file=sys.stderr, flush=True)
            self._last = time.monotonic()
