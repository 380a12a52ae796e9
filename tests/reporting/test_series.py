"""Curves from the rows of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folder import EPOCHS, STEPS

from alexnet_dist.reporting import series
from alexnet_dist.runs.metrics import RunRecord, read_run


@pytest.fixture
def run(runs: list[Path]) -> RunRecord:
    return read_run(runs[0])


def test_every_step_is_a_point_at_its_place_in_the_epochs(run: RunRecord) -> None:
    points = series.step_points(run)
    assert [point["at"] for point in points] == pytest.approx([step / STEPS for step in range(1, EPOCHS * STEPS + 1)])
    assert [point["at"] for point in series.epoch_points(run)] == [1, 2, 3, 4]


def test_many_steps_become_means(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "POINTS", 6)
    points = series.step_points(run)
    assert [point["steps"] for point in points] == [7] * 5 + [5]
    assert points[0]["loss"] == pytest.approx(sum(row["loss"] for row in run.steps[:7]) / 7)
    assert points[-1]["step"] == EPOCHS * STEPS
    assert {point["lr"] for point in points} == set(
        run.steps["lr"]
    )  # a mean over a drop would be a rate that never was


def test_a_loss_that_was_not_finite_is_no_number(run: RunRecord) -> None:
    steps = run.steps.copy()
    steps["loss"] = np.nan
    assert series.step_points(replace(run, steps=steps))[0]["loss"] is None


def test_the_learning_rate_s_drops(run: RunRecord) -> None:
    (drop,) = series.lr_drops(run)
    assert (drop["at"], drop["step"], drop["before"]) == (2, 2 * STEPS + 1, 0.01)
    assert drop["lr"] == pytest.approx(0.001)
    cosine = replace(run, info={"flags": {"lr_scheduler": "cosine"}})
    assert series.lr_drops(cosine) == []


def test_each_rank_s_seconds_are_added_up(run: RunRecord) -> None:
    seconds = {(row["rank"], row["phase"]): row["seconds"] for row in series.rank_seconds(run)}
    assert seconds[1, "forward"] == 21 * EPOCHS
    assert seconds[0, "wait"] == EPOCHS
    first_epoch = replace(run, ranks=[])  # before it has ended
    assert series.rank_seconds(first_epoch)[0] == {
        "rank": 0, "host": "", "phase": "data", "seconds": pytest.approx(0.01 * EPOCHS * STEPS),
    }  # fmt: skip


def test_the_mean_speed_is_images_through_seconds(run: RunRecord) -> None:
    steps = run.steps[:3].copy()
    steps["images"], steps["images_per_second"] = (10, 30, 0), (10.0, 10.0, 0.0)  # in the last, no image was readable
    assert series.images_per_second(replace(run, steps=steps)) == 10
    assert series.step_seconds(replace(run, steps=steps)) == 4
    steps["images_per_second"][0] = 1.0
    assert series.images_per_second(replace(run, steps=steps)) == pytest.approx(40 / 13)
    assert series.images_per_second(replace(run, steps=steps[:0])) is None


def test_the_best_epoch_is_the_last_that_became_it(run: RunRecord) -> None:
    epochs = [{**row, "best": row["epoch"] in (1, 3)} for row in run.epochs]
    best = series.best_epoch(replace(run, epochs=epochs))
    assert best is not None
    assert best["epoch"] == 3
    assert series.best_epoch(replace(run, epochs=[])) is None
