"""What a run leaves for people to look at: its report, and TensorBoard's files."""

from pathlib import Path

import pytest
from launcher import SMALL, Job, needs_mpirun, start, steps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_images import Pictures

pytestmark = needs_mpirun

# In the place of the package for charts.
MISSING = "raise ModuleNotFoundError(name='altair')"
BROKEN = "raise RuntimeError('no charts today')"
SLOW = "import os, time\nwhile not os.path.exists('go on'):\n    time.sleep(0.01)\nraise RuntimeError('no charts')"


@pytest.fixture
def training(pictures: Pictures, tmp_path: Path):
    """training(*flags, altair=...) starts a run of 2 ranks, with a report at its end."""
    pictures.write_lists(tmp_path, train=8, val=6)

    def training(*flags: str, altair: str = "") -> Job:
        env = {}
        if altair:
            (tmp_path / "fake").mkdir(exist_ok=True)
            (tmp_path / "fake" / "altair.py").write_text(altair)
            env = {"PYTHONPATH": f"{tmp_path / 'fake'}:{Path(__file__).parent.parent.parent}"}
        lists = ("--data", "train.list", "--val", "val.list", "--global-batch", "4", "--output-dir", "run")
        return start(2, ["-m", "alexnet_dist.train", *SMALL, "--report", *lists, *flags], tmp_path, env)

    return training


def test_a_report_and_tensorboard_s_files(training, tmp_path: Path) -> None:
    with training("--epochs", "1", "--tensorboard") as job:
        job.wait().ok()
    assert job.out.splitlines()[-1] == "report: run/report.html"
    assert job.err == ""
    assert (tmp_path / "run" / "train.log").read_text().splitlines()[-1][
        20:
    ] == "report: run/report.html"  # after the time
    first = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert first.count("data:image/jpeg") == 6
    with training("--epochs", "2", "--tensorboard", "--resume") as job:
        job.wait().ok()
    second = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "1 of 1" in first
    assert "of 2" in second
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    losses = {one.step: one.value for one in accumulator.Scalars("steps/loss")}
    assert losses == pytest.approx(steps(tmp_path / "run"), rel=1e-6)
    assert sorted(losses) == [1, 2, 3, 4]
    # The state at the first epoch's end, from which the run goes on, was written before its validation.
    assert {one.step for one in accumulator.Scalars("epochs/val_top1")} == {2, 4}


@pytest.mark.parametrize(
    ("altair", "said"),
    [(MISSING, "a report needs the package altair"), (BROKEN, "no charts today")],
    ids=["missing", "broken"],
)
def test_without_a_report_the_run_is_whole(training, tmp_path: Path, altair: str, said: str) -> None:
    with training("--epochs", "1", altair=altair) as job:
        job.wait().ok()
    assert (job.out + job.err).count(said) == 1
    assert (tmp_path / "run" / "train.log").read_text().count(said) == 1
    assert "Traceback" not in job.err
    assert (tmp_path / "run" / "complete").exists()
    assert not (tmp_path / "run" / "report.html").exists()


def test_the_other_ranks_don_t_wait_for_the_report(training, tmp_path: Path) -> None:
    with training("--epochs", "1", altair=SLOW) as job:
        job.until((tmp_path / "run" / "complete").exists, "the run is complete")
        first, *_ = job.ranks()
        job.until(lambda: job.ranks() == [first], "rank 0 is alone")
        (tmp_path / "go on").touch()
        job.wait().ok()
    assert "no charts" in job.out


def test_no_report_if_none_is_wanted(training, tmp_path: Path) -> None:
    with training("--epochs", "1", "--no-report", altair=BROKEN) as job:
        job.wait().ok()
    assert "report" not in job.out + job.err
    assert not (tmp_path / "run" / "report.html").exists()
