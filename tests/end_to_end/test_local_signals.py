"""launch/local.sh: a signal is heeded whenever it comes, and nothing trains on after the script is gone."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from launcher import SMALL, Job, needs_mpirun, open_mpi, rows
from proc import heeds

pytestmark = needs_mpirun

LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"
PROMPT = 90  # seconds; a start takes some of them on a busy machine


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("local"), 40, 6)


def start(site, name):
    """A run that would take hours."""
    data = ["--data", "train.list", "--val", "val.list", "--num-classes", "10", "--global-batch", "4", "--lr", "0.0001"]
    flags = [*SMALL, *data, "--epochs", "100000", "--output-dir", name]
    env = {"ALEXNET_VENV": sys.prefix, "ALEXNET_MPI": "system"}
    return Job([str(LOCAL), "2", *flags], site, env)


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.6, 0.8, 1.0, 1.5])
def test_a_signal_in_the_start_is_not_lost(site, delay):
    with start(site, f"after-{delay}") as job:
        with pytest.raises(TimeoutError):
            wait(job, delay)
        # Before its first lines, which say what a signal does, bash itself may be just starting.
        job.until(lambda: heeds(job.process.pid, signal.SIGTERM), "the script heeds signals")
        job.signal(signal.SIGTERM)
        job.wait(PROMPT)
    assert job.code == 75, str(job)
    folder = site / f"after-{delay}"
    assert (folder / "latest.safetensors").exists() != ("there is nothing to save" in job.err), str(job)
    assert not (folder / "complete").exists()
    assert job.err.count("Traceback") <= 2, str(job)  # of a Python that was just starting


def wait(job, seconds):
    """Raises TimeoutError if it hasn't ended after so long."""
    try:
        job.process.wait(seconds)
    except Exception as error:
        raise TimeoutError from error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_a_run_leaves_a_checkpoint(site, number):
    name = f"run-{number}"
    with start(site, name) as job:
        job.until(lambda: rows(site / name, "steps"), "a step")
        job.signal(number)
        job.wait(PROMPT)
    assert job.code == 75, str(job)
    assert (site / name / "latest.safetensors").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
@pytest.mark.skipif(open_mpi(), reason="Open MPI's mpirun ends its ranks in its own way")
def test_when_the_script_is_killed_the_run_stops(site):
    with start(site, "killed") as job:
        job.until(lambda: rows(site / "killed", "steps"), "a step")
        os.kill(job.process.pid, signal.SIGKILL)
        job.until(lambda: not job.alive(), "all its processes have ended", PROMPT)
    assert (site / "killed" / "latest.safetensors").exists()
