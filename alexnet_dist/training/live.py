"""The live view of a run: a few lines at the bottom of the terminal, drawn anew once a second by a thread of rank 0.

The log's lines scroll by above it, through the same console: mpirun hands stdout on at a time of its own.
"""

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from alexnet_dist.runs.log import log
from alexnet_dist.runs.timeline import WORK_PHASES
from alexnet_dist.support.duration import duration
from alexnet_dist.support.plural import plural
from alexnet_dist.support.terminal import columns_of, find_terminal
from alexnet_dist.training.screen import Screen, Status, is_no_progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REFRESHES = 1.0  # a second: each takes some milliseconds from the step
EVENTS = 3  # the latest ones are shown
GONE = (OSError, ValueError)  # what is raised of a terminal that is gone, or closed


def open_screen(mode: str) -> Screen:
    """What --progress asks for; plain lines where a view isn't possible, which people are told if they asked for it."""
    terminal = find_terminal() if mode in ("auto", "live") else None
    if terminal is not None:
        return LiveScreen(terminal)
    if mode == "live":
        print("--progress live: no terminal can be found here, so there are plain lines", flush=True)
    return Screen(progress=mode != "none")


class LiveScreen(Screen):
    """Shows the latest status on a terminal, which it closes in the end."""

    def __init__(self, terminal: TextIO) -> None:
        # Imported here, where it is needed: other ranks, and those without a terminal, don't pay for it.
        from rich.console import Console

        self._terminal = terminal
        self._console: Console = Console(
            file=terminal, force_terminal=True, width=columns_of(terminal), highlight=False
        )
        self._live: Live | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="live view", daemon=True)
        self._status: Status | None = None
        self._between: tuple[str, int, int] | None = None
        self._best = ""
        self._ranks: dict[int, dict[str, Any]] = {}  # their rows of the latest epoch
        self._events: deque[str] = deque(maxlen=EVENTS)
        self.handler = ConsoleHandler(self._console)
        self.handler.addFilter(is_no_progress)

    def step(self, status: Status) -> None:
        """Shows it with the next refresh."""
        self._status, self._between = status, None
        self._start()

    def between_steps(self, what: str, done: int, images: int) -> None:
        """Shows it with the next refresh, until the next step."""
        self._between = (what, done, images)
        self._start()

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Takes what it shows from the metrics: the ranks' work, the best epoch, events."""
        if table == "ranks":
            self._ranks = {rank: old for rank, old in self._ranks.items() if old["epoch"] == row["epoch"]}
            self._ranks[row["rank"]] = row
        elif table == "epochs" and row["best"]:
            self._best = f"best so far: epoch {row['epoch']}, validation top-1 {row['val_top1']:.2%}"
        elif table == "events" and row["event"] not in ("start", "complete"):
            self._events.append(f"{time.strftime('%H:%M:%S')}  {row['event']} after step {row['step']}")

    def close(self) -> None:
        """Takes the picture away; the log's lines stay, and the terminal is as it was."""
        self._closing.set()
        if self._live is not None:
            self._thread.join()
            with suppress(*GONE):
                self._live.stop()
            self._live = None
        log.removeHandler(self.handler)
        with suppress(*GONE):
            self._terminal.close()

    def _start(self) -> None:
        """Begins to draw, if it hasn't yet."""
        if self._live is not None:
            return
        from rich.live import Live

        self._live = Live(
            get_renderable=self._picture,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with suppress(*GONE):
            self._live.start()
            self._console.show_cursor(True)  # if the run is killed, nobody brings it back
        self._thread.start()

    def _draw(self) -> None:
        """The thread: draws anew until the end, or until the terminal is gone."""
        while self._live is not None and not self._closing.wait(1 / REFRESHES):
            try:
                self._live.refresh()
            except GONE:
                return

    def _picture(self) -> "RenderableType":
        """What is drawn, from the status of this moment."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.rule import Rule
        from rich.table import Table
        from rich.text import Text

        self._console.width = columns_of(self._terminal)
        status, between = self._status, self._between
        where, what, done, total, lines = "", "", 0, 1, []
        if status is not None:
            place, means, speed = status.place, status.means, status.speed
            accuracies = "  ".join(f"top-{k} {means[f'top{k}']:.1%}" for k in (1, 5) if f"top{k}" in means)
            where = f"epoch {place.epoch} of {place.epochs}, "
            lines = [
                f"loss {means['loss']:.4f}  {accuracies}  lr {status.lr:.3g}",
                f"{speed.now:.1f} images/s now, {speed.mean:.1f} on average  ETA {duration(speed.left)}",
            ]
            what, done, total = "step", place.step, place.steps
        if between is not None:
            what, done, total = between
        bar = Table.grid()  # for the line break after it
        bar.add_row(ProgressBar(total=total, completed=done, width=min(60, self._console.width)))
        notes = [note for note in (self._best, self._balance(), *self._events) if note]
        told = (*map(Text, lines), *(Text(note, style="dim") for note in notes))
        return Group(Rule(style="dim"), Text(f"{where}{what} {done} of {total}", style="bold"), bar, *told)

    def _balance(self) -> str:
        """How evenly the ranks worked in the latest epoch."""
        rows = dict(self._ranks)
        work = {rank: sum(row[f"seconds_{phase}"] for phase in WORK_PHASES) for rank, row in rows.items()}
        if len(work) < 2:
            return ""
        slowest = max(work, key=lambda rank: work[rank])
        least, most = f"{min(work.values()):.1f}", f"{work[slowest]:.1f}"
        ranks = plural(len(work), "rank")
        if least == most:
            return f"{ranks}: {most} s of work each"
        return f"{ranks}: {least} to {most} s of work, rank {slowest} the most"


class ConsoleHandler(logging.Handler):
    """Writes the log's lines above the view."""

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; a terminal that is gone doesn't end the run."""
        try:
            style = "yellow" if record.levelno >= logging.WARNING else None
            self._console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)
        except GONE:
            log.removeHandler(self)
