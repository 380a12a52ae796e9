"""What a run tells: a log for people on stdout and in a file, and metrics for programs, one JSON object a line.

Only rank 0 speaks. On the other ranks the same calls do nothing, so that the loop has one path. stdout is often no
terminal under mpirun: there are no progress bars, only whole lines.
"""

import json
import logging
import math
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from alexnet_dist.support.files import writing
from alexnet_dist.training.evaluation import Evaluation
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.schedule import Plateau

STUCK_AFTER = 2000  # steps in which even ImageNet should have begun to move

log = logging.getLogger("alexnet_dist")


class Report:
    """The log and the metrics of a run in `folder`, both appended to; silent unless `speaks`."""

    def __init__(self, folder: Path, speaks: bool) -> None:
        self._metrics: TextIO | None = None
        self._losses: deque[float] = deque(maxlen=20)  # of the latest steps
        self._step_mark = self._line_mark = time.perf_counter()
        self._line_images = 0.0
        log.handlers.clear()
        log.propagate = False
        log.setLevel(logging.INFO if speaks else logging.CRITICAL + 1)
        if not speaks:
            return
        logging.raiseExceptions = False  # a full disk must not print a stack for each line
        with writing(folder):
            self._open(folder)

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamped = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log", encoding="utf-8")):
            handler.setFormatter(
                stamped if isinstance(handler, logging.FileHandler) else logging.Formatter("%(message)s")
            )
            log.addHandler(handler)
        self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def metrics(self, event: str, **values: Any) -> None:
        """Appends one line of metrics. Raises UserError where that can't be written."""
        if self._metrics is not None:
            with writing(Path(self._metrics.name)):
                self._metrics.write(json.dumps({"event": event, **values}) + "\n")
                self._metrics.flush()

    def step(
        self,
        progress: Progress,
        sums: Sums,
        lr: float,
        seconds: dict[str, float],
        steps: int,
        global_batch: int,
        epochs: int,
        every: int,
    ) -> None:
        """A line of metrics for each step, and a line of progress for every `every`-th and an epoch's last."""
        now = time.perf_counter()
        took, self._step_mark = now - self._step_mark, now
        speed = sums.images / took
        self.metrics(
            "step",
            epoch=progress.epoch,
            step=progress.step,
            **sums.means(),
            lr=lr,
            images_per_second=speed,
            seconds={phase: round(value, 6) for phase, value in seconds.items()},
        )
        self._losses.append(sums.means()["loss"])
        self._line_images += sums.images
        if progress.step_in_epoch % every and progress.step_in_epoch != steps:
            return
        speed = self._line_images / (now - self._line_mark)
        left = (steps * (epochs - progress.epoch) - progress.step_in_epoch) * global_batch / max(speed, 1e-9)
        means = sums.means()
        log.info(
            "epoch %d/%d  step %d/%d  loss %.4f  top-1 %.1f%%  lr %.3g  %.1f images/s  ETA %s",
            progress.epoch + 1, epochs, progress.step_in_epoch, steps,
            means["loss"], 100 * means["top1"], lr, speed, duration(left),
        )  # fmt: skip
        self._line_mark, self._line_images = now, 0.0

    def epoch(self, progress: Progress, result: Evaluation, seconds: float, epochs: int, skipped: int) -> None:
        """What an epoch has brought: `result` of its validation, which took `seconds`."""
        train = progress.sums.means()
        log.info(
            "epoch %d/%d  train loss %.4f top-1 %.2f%%  validation %s  (%s)",
            progress.epoch + 1, epochs, train["loss"], 100 * train["top1"], result, duration(seconds),
        )  # fmt: skip
        if skipped:
            log.warning("%d images could not be read in this epoch and were skipped", skipped)
        self.metrics(
            "epoch",
            epoch=progress.epoch,
            step=progress.step,
            train=train,
            validation={**result.sums.means(), "images": result.images},
            skipped=skipped,
        )

    def plateau(self, before: Plateau, after: Plateau) -> None:
        """What the validation error has led to."""
        if after.reductions > before.reductions:
            log.info("the validation error has stopped improving: reduction %d of the learning rate", after.reductions)
        if after.finished:
            log.info("the validation error has stopped improving at the last learning rate: training ends")

    def start_clock(self) -> None:
        """Called where steps begin, so that their speed leaves out what came before."""
        self._step_mark = self._line_mark = time.perf_counter()
        self._line_images = 0.0

    def warn_if_stuck(self, num_classes: int) -> None:
        """Says early that a run does not learn: its latest losses are still no better than guessing."""
        loss, guessing = sum(self._losses) / max(len(self._losses), 1), math.log(num_classes)
        if loss > 0.99 * guessing:
            log.warning(
                "WARNING: not learning so far: the latest losses, %.4f, are no better than guessing, ln(%d) = %.4f. Try "
                "--init he, another --lr, or some epochs of warmup (--lr-warmup-epochs)", loss, num_classes, guessing,
            )  # fmt: skip

    def close(self) -> None:
        """Closes the files."""
        for handler in log.handlers:
            handler.close()
        log.handlers.clear()
        if self._metrics is not None:
            with suppress(OSError):  # of what could not be written it has been said already
                self._metrics.close()


def duration(seconds: float) -> str:
    """Seconds for people: 47s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
