"""Storage that goes away while a run reads from it: the run waits, goes on or stops, and loses nothing."""

import signal
import time

import numpy as np
import pytest
from launcher import needs_mpirun, rows, start_training, steps, train, while_paused
from safetensors.numpy import load_file

pytestmark = needs_mpirun

IMAGES, EPOCH = 40, 10
PAUSE = f"pause@{EPOCH + 3}"  # in the second of three epochs: besides this step's images, those of the next may be read
OUTAGE = 30  # seconds


@pytest.fixture
def site(pictures, tmp_path):
    """A folder with `data`, which can be moved away, and lists in it."""
    (tmp_path / "data").mkdir()
    for number in range(IMAGES):
        file = pictures.files[number % len(pictures.files)][1]
        (tmp_path / "data" / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    lines = [f"{pictures.files[n % len(pictures.files)][0]} {n}{pictures.files[n % len(pictures.files)][1].suffix}\n"
             for n in range(IMAGES)]  # fmt: skip
    (tmp_path / "data" / "train.list").write_text("".join(lines))
    (tmp_path / "data" / "val.list").write_text("".join(lines[:6]))
    return tmp_path


def flags(output, *more):
    lists = ["--data", "data/train.list", "--val", "data/val.list", "--num-classes", 10, "--global-batch", 4]
    return [*lists, "--epochs", 3, "--lr", "0.001", "--momentum", "0.9", "--output-dir", output, *more]


def test_an_outage_is_waited_for(site):
    train(2, flags("whole"), site).ok()
    with start_training(2, flags("waits", "--io-patience", 60), site, PAUSE) as job:
        with while_paused(job, site):
            (site / "data").rename(site / "away")
        job.until(lambda: "Trying again for up to 60 s" in job.out + job.err, "the outage is said")
        time.sleep(OUTAGE)
        assert job.alive(), str(job)
        (site / "away").rename(site / "data")
        job.wait().ok()
    assert (job.out + job.err).count("Trying again") <= 2  # once by each rank that noticed
    assert "skipped" not in job.out
    assert steps(site / "waits") == steps(site / "whole")


def test_an_outage_that_does_not_end_stops_the_run_and_loses_nothing(site):
    train(2, flags("whole"), site).ok()
    with start_training(2, flags("stops", "--io-patience", 1), site, PAUSE) as job:
        with while_paused(job, site):
            (site / "data").rename(site / "away")
        job.wait()
    (site / "away").rename(site / "data")
    assert job.code == 75, str(job)
    assert "is its file system mounted?" in job.out
    assert "to go on: the same command with --resume stops" in job.out
    assert not (site / "stops" / "complete").exists()
    train(2, flags("stops", "--resume"), site).ok()
    assert steps(site / "stops") == steps(site / "whole")


def test_a_signal_stops_a_run_that_waits_for_its_images(site):
    with start_training(2, flags("signal", "--io-patience", 300), site, PAUSE) as job:
        with while_paused(job, site):
            (site / "data").rename(site / "away")
        job.until(lambda: "Trying again" in job.out + job.err, "the outage is said")
        job.signal(signal.SIGUSR1)
        job.wait()
    assert job.code == 75, str(job)
    assert "stopped by a signal" in job.out


def test_a_signal_stops_a_run_whose_storage_does_not_answer(site):
    """As a hard mount does: the read neither fails nor returns."""
    train(2, flags("whole"), site).ok()
    with start_training(2, flags("hangs", "--io-patience", 300), site, fault="hang@33") as job:
        job.until((site / "struck").exists, "an image is being read")
        job.signal(signal.SIGUSR1)
        job.wait()
    assert job.code == 75, str(job)
    assert "stopped by a signal" in job.out
    train(2, flags("hangs", "--resume"), site).ok()
    assert steps(site / "hangs") == steps(site / "whole")


@pytest.mark.parametrize(("ranks", "sync"), [(1, "auto"), (2, "allreduce"), (2, "sharded"), (2, "hybrid")])
def test_a_step_without_any_readable_image_changes_nothing(site, ranks, sync):
    """Momentum and weight decay would, also without a gradient."""
    lines = (site / "data" / "train.list").read_text().splitlines(keepends=True)[:12]
    for line in lines[: 8 if ranks == 2 else 2]:
        (site / "data" / line.split()[1]).write_bytes(b"broken")
    (site / "data" / "few.list").write_text("".join(lines))
    (site / "data" / "val.list").write_text(lines[-1])
    more = ["--data", "data/few.list", "--global-batch", ranks, "--max-bad", 0.9, "--sync", sync]
    job = train(ranks, [*flags("run", *more), "--epochs", 2, "--save-every", 1, "--keep", 99], site).ok()
    last = 2 * len(lines) // ranks
    void = sorted(set(range(2, last + 1)) - {entry["step"] for entry in rows(site / "run", "steps")})
    assert void, str(job)
    assert "changed nothing" in job.out
    for step in void:
        before, after = (load_file(site / "run" / f"checkpoint-{number:08}.safetensors") for number in (step - 1, step))
        assert all(np.array_equal(before[name], after[name]) for name in before)
