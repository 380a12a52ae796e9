"""A run's metrics in TensorBoard's files, read by TensorBoard's own reader."""

import sys
from io import FileIO
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_dist.errors import UserError
from alexnet_dist.runs.log import RunLog
from alexnet_dist.runs.tensorboard import EventFile, require_tensorboard


@pytest.fixture
def started(tmp_path: Path, package_logger: None):
    """started(event, step) is a run's log after a start or a resumption after so many steps, with its event file."""
    logs = []

    def started(event: str, step: int) -> RunLog:
        out = RunLog(tmp_path, enabled=True)
        logs.append(out)
        out.listeners.append(EventFile(tmp_path, out.attempt).add)
        out.metrics("events", epoch=0, step=step, event=event)
        return out

    yield started
    for out in logs:
        out.close()


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return [(one.step, pytest.approx(one.value, rel=1e-6)) for one in accumulator.Scalars(tag)]


def step(out: RunLog, number: int, loss: float | None) -> None:
    out.metrics("steps", epoch=1, step=number, loss=loss, lr=0.01, seconds_forward=0.5)


def test_steps_and_epochs_are_read_back(started, tmp_path: Path) -> None:
    out = started("start", 0)
    for number in (1, 2, 3):
        step(out, number, 1 / number)
    out.metrics("epochs", epoch=1, step=3, train_loss=0.6, val_loss=None, best=True)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    tags = {"steps/loss", "steps/lr", "steps/seconds_forward", "epochs/train_loss"}
    assert set(accumulator.Tags()["scalars"]) == tags
    assert scalars(tmp_path, "steps/loss") == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert scalars(tmp_path, "epochs/train_loss") == [(3, 0.6)]


def test_a_resumed_run_goes_on_where_it_was(started, tmp_path: Path) -> None:
    first = started("start", 0)
    for number in range(1, 6):
        step(first, number, 1.0)
    first.close()
    second = started("resume", 3)  # steps 4 and 5 are made again
    step(second, 4, 2.0)
    assert scalars(tmp_path, "steps/loss") == [(1, 1), (2, 1), (3, 1), (4, 2)]
    second.metrics("events", epoch=1, step=2, event="restored", lr=0.001)
    step(second, 3, 3.0)
    assert scalars(tmp_path, "steps/loss") == [(1, 1), (2, 1), (3, 3)]


def test_what_can_t_be_written_is_said_once_and_training_goes_on(started, tmp_path: Path, capsys) -> None:
    out = started("start", 0)
    step(out, 1, 1.0)
    full = FileIO("/dev/full", "w")
    event_file = out.listeners[0].__self__
    event_file._writer._py_recordio_writer._writer = full
    for number in (2, 3):
        step(out, number, 1.0)
    assert capsys.readouterr().out.count("TensorBoard's events can't be written: No space left on device") == 1
    assert scalars(tmp_path, "steps/loss") == [(1, 1)]
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 3


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    require_tensorboard()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'alexnet_dist\[tensorboard\]'"):
        require_tensorboard()
