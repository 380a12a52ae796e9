"""The rows of a run's files as the points of curves: on one axis, and no more of them than a screen can show."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.runs.metrics import PHASES, RunRecord

POINTS = 400  # of a curve; with more steps, each point is the mean of several
FALLING = ("plateau", "step")  # learning-rate schedulers whose rate falls at once, where a mark says so
PHASE = "seconds_"

Rows = list[dict[str, Any]]


def steps_an_epoch(run: RunRecord) -> float:
    """How many steps an epoch has: the axis of the curves counts epochs, so that runs with other batches compare."""
    for row in run.epochs:
        return float(max(row["step"], 1)) / row["epoch"]
    return float(max(int((run.steps["epoch"] == 1).sum()), 1))


def step_points(run: RunRecord) -> Rows:
    """The steps, at most POINTS of them: means over so many steps each, as `steps` of a row says, and the learning rate of the
    last of them. `at` is in epochs."""
    each, epoch = -(-len(run.steps) // POINTS), steps_an_epoch(run)
    points = []
    for start in range(0, len(run.steps), max(each, 1)):
        part = run.steps[start : start + each]
        step = int(part["step"][-1])
        means = {name: _mean(part[name]) for name in ("loss", "images_per_second")}
        points.append({"at": step / epoch, "step": step, "steps": len(part), **means, "lr": _mean(part["lr"][-1:])})
    return points


def epoch_points(run: RunRecord) -> Rows:
    """The epochs, each where it ends."""
    epoch = steps_an_epoch(run)
    return [{"at": row["step"] / epoch, **row} for row in run.epochs]


def lr_drops(run: RunRecord) -> Rows:
    """Where the learning rate has fallen at once."""
    if run.info.get("flags", {}).get("lr_scheduler") not in FALLING:
        return []
    epoch, step, rate = steps_an_epoch(run), run.steps["step"], run.steps["lr"]
    return [
        {
            "at": step[last] / epoch,
            "step": int(step[last + 1]),
            "lr": float(rate[last + 1]),
            "before": float(rate[last]),
        }
        for last in np.flatnonzero(rate[1:] < 0.99 * rate[:-1])
    ]


def rank_seconds(run: RunRecord) -> Rows:
    """A row for each rank and phase: the seconds of all epochs together. Until an epoch has ended, rank 0's steps."""
    totals: dict[tuple[int, str], dict[str, float]] = {}
    sums = {name: float(np.nansum(run.steps[name])) for name in PHASES if not np.isnan(run.steps[name]).all()}
    for row in run.ranks or ([{"rank": 0, "host": "", **sums}] if sums else []):
        phases = totals.setdefault((row["rank"], str(row.get("host", ""))), {})
        for name, value in row.items():
            if name.startswith(PHASE):
                phases[name.removeprefix(PHASE)] = phases.get(name.removeprefix(PHASE), 0.0) + value
    return [
        {"rank": rank, "host": host, "phase": phase, "seconds": seconds}
        for (rank, host), phases in sorted(totals.items())
        for phase, seconds in phases.items()
    ]


def step_seconds(run: RunRecord) -> float:
    """What all steps took together."""
    images, speed = _timed(run)
    return float((images / speed).sum())


def images_per_second(run: RunRecord) -> float | None:
    """The mean over all steps: images through seconds."""
    images, _ = _timed(run)
    return float(images.sum()) / step_seconds(run) if len(images) else None


def best_epoch(run: RunRecord) -> dict[str, Any] | None:
    """The last epoch whose weights became the best, or None before the first validation."""
    return next((row for row in reversed(run.epochs) if row.get("best")), None)


def _timed(run: RunRecord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Images and images a second of the steps of which that is known."""
    known = run.steps["images_per_second"] > 0
    return run.steps["images"][known], run.steps["images_per_second"][known]


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
