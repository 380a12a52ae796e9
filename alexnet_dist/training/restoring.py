"""Back to the latest checkpoint of a run that has diverged (--on-nan restore), or to its beginning if there is none yet.

The run goes on from there with a lower learning rate, since order, crops and masks are those of before: with the same rate
it would fail at the same step again. The number of restorations, which the rate depends on, is part of the progress that
checkpoints hold; so a run that is resumed after one has the lower rate, too.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from alexnet_dist.runs import checkpoint
from alexnet_dist.training.not_finite import RESTORED_RATE, RESTORES
from alexnet_dist.training.origin import fill, without_state
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.schedule import Schedule
from alexnet_dist.training.setup import Run


def lowered(rate: float, progress: Progress) -> float:
    """The learning rate after the restorations so far."""
    return rate * RESTORED_RATE**progress.restores


def rate(schedule: Schedule, progress: Progress, done: float) -> float:
    """The learning rate after this share of the epoch."""
    return lowered(schedule.rate(progress.epoch + done, progress.plateau), progress)


def may_restore(progress: Progress) -> bool:
    """Whether another restoration could help."""
    return progress.restores < RESTORES


def restore(run: Run, progress: Progress, saved: bool) -> Progress:
    """Collective: parameters, state and progress are again those of the latest checkpoint, if the run has `saved` one;
    else those that it began with. Raises SharedError for a file that can't be read."""
    latest = run.folder.latest_state() or run.folder.latest
    header: dict[str, Any] | None = None
    with run.world.shared_errors():
        if saved and run.world.rank == 0:
            header = checkpoint.read_header(latest).training
    header = run.world.broadcast_json(header)

    def write(values: np.ndarray, state: dict[str, np.ndarray]) -> None:
        for array in (values, *state.values()):
            array.fill(0)
        if header is None:
            fill(run.origin, run.config, run.network, values, state)
        else:
            skip = without_state(run.network, run.config, state)
            checkpoint.load(latest, run.engine.parameters, values, state, skip=skip)

    run.engine.fill(write)
    before = run.progress if header is None else Progress.from_json(header["progress"])
    return replace(before, restores=progress.restores + 1)
