"""What rank 0 shows while it trains: lines on stdout. `live.py` is the other kind, a view that is drawn anew."""

import logging
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from alexnet_dist.support.duration import duration

WIDTH = 80  # columns of a terminal that nobody has made wider
PROGRESS = {"progress": True}  # marks the records of lines that a view, or --progress none, makes needless
SCREENS = ("auto", "live", "plain", "none")


class Place(NamedTuple):
    """Where a run is; epochs, and steps within one, count from 1."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Speed(NamedTuple):
    """Images a second in the latest steps and in all, and how many seconds are left."""

    now: float
    mean: float
    left: float


@dataclass(frozen=True)
class Status:
    """A run after a step: means are those of the step's images. As text, a line that fits a terminal."""

    place: Place
    means: dict[str, float]
    lr: float
    speed: Speed

    def __str__(self) -> str:
        place, means = self.place, self.means
        start = f"epoch {place.epoch}/{place.epochs} step {place.step}/{place.steps}"
        start += f"  loss {means['loss']:.3f}  top-1 {means['top1']:.1%}"
        end = f"{self.speed.now:.{1 if self.speed.now < 100 else 0}f} images/s  ETA {duration(self.speed.left)}"
        line = f"{start}  lr {self.lr:.3g}  {end}"
        return line if len(line) <= WIDTH else f"{start}  {end}"


class Screen:
    """Lines on stdout, those of progress only if `progress`."""

    def __init__(self, progress: bool = True) -> None:
        self.handler: logging.Handler = logging.StreamHandler(sys.stdout)
        if not progress:
            self.handler.addFilter(is_no_progress)

    def step(self, status: Status) -> None:
        """A step has been made."""

    def between_steps(self, what: str, done: int, images: int) -> None:
        """What a run does before or after the steps of an epoch, and for how many images it has done it."""

    def row(self, table: str, row: dict[str, Any]) -> None:
        """A row has been added to the metrics: a listener of RunLog."""

    def close(self) -> None:
        """Nothing is shown any more, and the terminal is as it was."""


def is_no_progress(record: logging.LogRecord) -> bool:
    """A filter for what is to be said in any case."""
    return not getattr(record, "progress", False)
