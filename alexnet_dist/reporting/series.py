"""The rows of a run's files as the points of curves: on one axis, and no more of them than a screen can show."""

from collections.abc import Sequence
from typing import Any

from alexnet_dist.runs.metrics import RunRecord

POINTS = 400  # of a curve; with more steps, each point is the mean of several
STEP_VALUES = ("loss", "top1", "top5", "lr", "images_per_second")
FALLING = ("plateau", "step")  # learning-rate schedulers whose rate falls at once, where a mark says so
PHASE = "seconds_"

Rows = list[dict[str, Any]]


def steps_an_epoch(run: RunRecord) -> float:
    """How many steps an epoch has: the axis of the curves counts epochs, so that runs with other batches compare."""
    for row in run.epochs:
        return float(max(row["step"], 1)) / row["epoch"]
    first = [row for row in run.steps if row["epoch"] == 1]
    return float(max(len(first), 1))


def step_points(run: RunRecord) -> Rows:
    """The steps, at most POINTS of them: means over so many steps each, as `steps` of a row says. `at` is in epochs."""
    each, epoch = -(-len(run.steps) // POINTS), steps_an_epoch(run)
    points = []
    for start in range(0, len(run.steps), max(each, 1)):
        part = run.steps[start : start + each]
        means = {name: _mean(part, name) for name in STEP_VALUES if name in part[-1]}
        points.append({"at": part[-1]["step"] / epoch, "step": part[-1]["step"], "steps": len(part), **means})
    return points


def epoch_points(run: RunRecord) -> Rows:
    """The epochs, each where it ends."""
    epoch = steps_an_epoch(run)
    return [{"at": row["step"] / epoch, **row} for row in run.epochs]


def lr_drops(run: RunRecord) -> Rows:
    """Where the learning rate has fallen at once."""
    if run.info.get("flags", {}).get("lr_scheduler") not in FALLING:
        return []
    epoch = steps_an_epoch(run)
    return [
        {"at": before["step"] / epoch, "step": after["step"], "lr": after["lr"], "before": before["lr"]}
        for before, after in zip(run.steps, run.steps[1:], strict=False)
        if after["lr"] < 0.99 * before["lr"]
    ]


def rank_seconds(run: RunRecord) -> Rows:
    """A row for each rank and phase: the seconds of all epochs together. Until an epoch has ended, rank 0's steps."""
    totals: dict[tuple[int, str], dict[str, float]] = {}
    for row in run.ranks or ({"rank": 0, "host": "", **step} for step in run.steps):
        phases = totals.setdefault((row["rank"], str(row.get("host", ""))), {})
        for name, value in row.items():
            if name.startswith(PHASE):
                phases[name.removeprefix(PHASE)] = phases.get(name.removeprefix(PHASE), 0.0) + value
    return [
        {"rank": rank, "host": host, "phase": phase, "seconds": seconds}
        for (rank, host), phases in sorted(totals.items())
        for phase, seconds in phases.items()
    ]


def images_per_second(run: RunRecord) -> float | None:
    """The mean over all steps: images through seconds."""
    timed = [row for row in run.steps if row.get("images_per_second")]
    seconds = sum(row["images"] / row["images_per_second"] for row in timed)
    return sum(row["images"] for row in timed) / seconds if seconds else None


def best_epoch(run: RunRecord) -> dict[str, Any] | None:
    """The last epoch whose weights became the best, or None before the first validation."""
    return next((row for row in reversed(run.epochs) if row.get("best")), None)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None
