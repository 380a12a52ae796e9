"""What a run has left is read as one record: each step once, of the attempt that counts."""

import json
import tracemalloc

import numpy as np
import pandas
import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.runs.log import RunLog
from alexnet_dist.runs.metrics import read_run

pytestmark = pytest.mark.usefixtures("package_logger")


def attempt(folder, event, begin, steps, ranks=2):
    """One start of a run, after step `begin`, that makes some steps of epochs of three."""
    out = RunLog(folder, enabled=True)
    out.metrics("events", epoch=begin // 3, step=begin, event=event)
    out.describe({"ranks": ranks, "class_names": ["Rosé", "caf\udce9"]}, {"step": begin})
    for step in steps:
        go(out, step, ranks)
    return out


def go(out, step, ranks=2):
    epoch = (step + 2) // 3
    out.metrics("steps", epoch=epoch, step=step, loss=100 * out.attempt + step)
    if step % 3 == 0:
        out.metrics("epochs", epoch=epoch, step=step, train_loss=100.0 * out.attempt + epoch)
        for rank in range(ranks):
            out.metrics("ranks", epoch=epoch, step=step, rank=rank, seconds_data=1.0)


def test_steps_that_were_made_again_count_once(tmp_path):
    attempt(tmp_path, "start", 0, range(1, 9)).close()
    attempt(tmp_path, "resume", 4, [5, 7, 8, 9], ranks=1).close()  # the sixth changed nothing, and has no row
    run = read_run(tmp_path)
    assert [(row["step"], row["loss"]) for row in run.steps] == [
        *((step, 100 + step) for step in (1, 2, 3, 4)),
        *((step, 200 + step) for step in (5, 7, 8, 9)),
    ]
    assert [(row["epoch"], row["train_loss"]) for row in run.epochs] == [(1, 101), (3, 203)]
    assert [(row["epoch"], row["rank"]) for row in run.ranks] == [(1, 0), (1, 1), (3, 0)]
    assert [event["event"] for event in run.events] == ["start", "resume"]
    assert [(start["attempt"], start["step"]) for start in run.info["starts"]] == [(1, 0), (2, 4)]


def test_steps_are_columns_of_numbers(tmp_path):
    attempt(tmp_path, "start", 0, range(1, 4)).close()
    steps = read_run(tmp_path).steps
    assert steps["loss"].tolist() == [101, 102, 103]
    assert np.isnan(steps["top5"]).all()  # there is none
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert [f"{time}Z" for time in steps["time"]] == [json.loads(line)["time"] for line in lines]
    assert [(row["attempt"], row["epoch"], row["step"]) for row in steps] == [(1, 1, 1), (1, 1, 2), (1, 1, 3)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "low"}, r"steps\.jsonl: the row of step 1 has .* no number"),
        ({"time": "today"}, r"steps\.jsonl: the row of step 1 has no time"),
        ({"attempt": "1"}, r"steps\.jsonl:1 is no JSON object with time, attempt"),
    ],
    ids=["loss", "time", "attempt"],
)
def test_a_value_of_another_kind_is_named(tmp_path, wrong, message):
    attempt(tmp_path, "start", 0, [1]).close()
    row = json.loads((tmp_path / "steps.jsonl").read_text())
    (tmp_path / "steps.jsonl").write_text(json.dumps(row | wrong) + "\n")
    with pytest.raises(UserError, match=message):
        read_run(tmp_path)


def test_a_long_run_takes_little_memory(tmp_path):
    attempt(tmp_path, "start", 0, [1]).close()
    row, count = json.loads((tmp_path / "steps.jsonl").read_text()), 10_000
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.writelines(json.dumps({**row, "step": step}) + "\n" for step in range(2, count + 1))
    tracemalloc.start()
    try:
        steps = read_run(tmp_path).steps
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(steps) == count
    assert peak < 200 * count  # bytes; a dict has some 2,000


def test_without_the_events_the_later_row_of_a_step_counts(tmp_path):
    attempt(tmp_path, "start", 0, range(1, 5)).close()
    attempt(tmp_path, "resume", 2, [3, 4, 5]).close()
    (tmp_path / "events.jsonl").unlink()
    assert read_run(tmp_path).steps["loss"].tolist() == [101, 102, 203, 204, 205]


def test_a_run_that_went_back_by_itself(tmp_path, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("alexnet_dist.runs.log.now", lambda: f"2026-11-28T00:00:{next(times):02}.000Z")
    out = attempt(tmp_path, "start", 0, range(1, 6))
    out.metrics("events", epoch=1, step=3, event="restored")
    go(out, 4)
    out.close()
    assert [row["step"] for row in read_run(tmp_path).steps] == [1, 2, 3, 4]


def test_a_run_that_began_anew(tmp_path):
    attempt(tmp_path, "start", 0, range(1, 4)).close()
    attempt(tmp_path, "start", 0, [1]).close()
    run = read_run(tmp_path)
    assert [row["loss"] for row in run.steps] == [201]
    assert run.epochs == run.ranks == []


def test_a_torn_last_line_is_left_out(tmp_path):
    attempt(tmp_path, "start", 0, [1, 2]).close()
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_run(tmp_path).steps] == [1, 2]


def test_what_is_no_row_is_named_by_its_line(tmp_path):
    attempt(tmp_path, "start", 0, [1, 2]).close()
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.write("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match=r"steps\.jsonl:3 is no JSON object.*HEAD"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run's folder: it has no run\.json"):
        read_run(tmp_path / "nothing")
    (tmp_path / "run.json").write_text("[]")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="earlier version"):
        read_run(tmp_path)


def test_names_are_readable_and_numbers_are_json(tmp_path):
    out = attempt(tmp_path, "start", 0, [])
    out.metrics("epochs", epoch=1, step=3, val_loss=float("inf"), train_loss=float("nan"))
    out.close()
    assert "Rosé" in (tmp_path / "run.json").read_text()
    assert read_run(tmp_path).info["class_names"] == ["Rosé", "caf\udce9"]
    assert [row["val_loss"] for row in read_run(tmp_path).epochs] == [None]


def test_pandas_reads_them_in_one_line(tmp_path):
    attempt(tmp_path, "start", 0, range(1, 7)).close()
    steps = pandas.read_json(tmp_path / "steps.jsonl", lines=True)
    assert steps["loss"].tolist() == [101, 102, 103, 104, 105, 106]
    assert pandas.to_datetime(steps["time"]).is_monotonic_increasing


def test_listeners_are_told_of_each_row(tmp_path):
    out, told = RunLog(tmp_path, enabled=True), []
    out.listeners.append(lambda table, row: told.append((table, row["step"])))
    go(out, 3)
    out.close()
    assert told == [("steps", 3), ("epochs", 3), ("ranks", 3), ("ranks", 3)]
    RunLog(tmp_path / "other", enabled=False).metrics("steps", step=1)
    assert not (tmp_path / "other").exists()
