"""launch/slurm.sbatch on a real Slurm: jobs go on after their time limit, and end as if there had been none."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hosts import Impossible
from launcher import DATA, SMALL, latest_step, needs_mpirun, open_mpi, rows, steps, train
from safetensors.numpy import load_file
from slurm import Slurm

pytestmark = needs_mpirun

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"
AN_EPOCH = 10  # steps
HOURS = 1_000_000  # epochs
END = 240  # seconds that a job may take; each takes a few


@pytest.fixture(scope="module")
def slurm(hosts, tmp_path_factory):
    try:
        return Slurm(hosts, tmp_path_factory.mktemp("slurm"))
    except Impossible as error:
        pytest.skip(f"only a real Slurm shows when it stops and requeues a job, and it can't be had here: {error}")


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("site"), 4 * AN_EPOCH, 6)


def submit(slurm, site, name, *flags, options=(), **variables) -> str:
    """The number of a job on two ranks that writes to folder `name`; the last one of each flag wins, in SMALL, too."""
    settings = {"ALEXNET_HOME": ROOT, "ALEXNET_VENV": sys.prefix, **variables}
    # Tests may themselves run under mpirun or Slurm.
    words = ["env", "--unset=SLURM_JOB_ID", *(f"{key}={value}" for key, value in settings.items())]
    words += ["sbatch", "--parsable", f"--job-name={name}", "--ntasks=2", "--cpus-per-task=1", *options, str(SCRIPT)]
    words += [*SMALL, *DATA, "--output-dir", name, *map(str, flags)]
    done = subprocess.run(slurm.command(words, site), capture_output=True, text=True, timeout=END)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait(slurm, site, name, number, *states) -> dict[str, str]:
    """Until the job is in one of these states; returns what Slurm says of it."""
    end = time.monotonic() + END
    while (job := slurm.job(number)).get("JobState") not in states:
        assert time.monotonic() < end, f"{job}\n{said(site, name)}"
        time.sleep(0.2)
    return job


def said(site, name) -> str:
    """What the job has printed."""
    return "".join(path.read_text() for path in site.glob(f"{name}-*.log"))


def validations(run_folder) -> dict[int, tuple[float, float]]:
    """Of each epoch: the loss of the validation images, and the top-1 accuracy."""
    return {row["epoch"]: (row["val_loss"], row["val_top1"]) for row in rows(run_folder, "epochs")}


def test_bad_input_is_not_requeued(slurm, site):
    number = submit(slurm, site, "bad", "--epochs", "none")
    job = wait(slurm, site, "bad", number, "FAILED", "COMPLETED")
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "2:0", "0"), said(site, "bad")
    assert "--epochs" in said(site, "bad")


def test_who_cancels_a_job_does_not_get_it_back(slurm, site):
    number = submit(slurm, site, "cancelled", "--epochs", HOURS)
    end = time.monotonic() + END
    while not rows(site / "cancelled", "steps"):
        assert time.monotonic() < end, said(site, "cancelled")
        time.sleep(0.1)
    slurm.ask("scancel", number)
    job = wait(slurm, site, "cancelled", number, "CANCELLED", "COMPLETED", "FAILED")
    while slurm.ask("squeue", "--noheader"):
        assert time.monotonic() < end, said(site, "cancelled")
        time.sleep(0.2)
    assert (slurm.job(number)["JobState"], job["Restarts"]) == ("CANCELLED", "0")
    # Open MPI's mpirun kills its ranks.
    assert open_mpi() or latest_step(site / "cancelled") == max(steps(site / "cancelled"))


PMI2 = pytest.mark.skipif(open_mpi(), reason="Open MPI doesn't speak PMI-2")


@pytest.mark.parametrize("srun", ["", pytest.param("--mpi=pmi2", marks=PMI2)], ids=["mpirun", "srun"])
def test_a_job_on_two_nodes(slurm, site, srun):
    name = f"nodes{srun}"
    if not (site / "alone").exists():
        train(1, [*DATA, "--epochs", 2, "--output-dir", "alone"], site).ok()
    options = ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
    number = submit(slurm, site, name, "--epochs", 2, "--sync", "auto", options=options, ALEXNET_SRUN=srun)
    assert wait(slurm, site, name, number, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", said(site, name)
    assert (f"srun {srun} -n 4 --ntasks-per-node=2" in said(site, name)) == bool(srun)
    assert "each of 2 nodes sends" in said(site, name)
    assert list(steps(site / name).values()) == pytest.approx(list(steps(site / "alone").values()), rel=1e-4)


def test_a_job_that_its_time_limit_stops_ends_as_one_that_was_never_stopped(slurm, site):
    config = site / "job.toml"
    config.write_text(f"epochs = {HOURS}\n")
    time.sleep((slurm.seconds_to_the_next_check() - 25) % 30)  # 25 s to start in, and few steps before it is signalled
    flags = ["--config", config, "--lr-scheduler", "step", "--lr-step-size", HOURS, "--save-every", 1]
    # A minute is Slurm's shortest limit; it sends the signal when the limit is within its next look, or 55 seconds away.
    options = ["--time=1", "--signal=B:USR1@55"]
    number = submit(slurm, site, "stopped", *flags, options=options)
    stops = stopped_at = 0
    while stopped_at == 0 and stops < 4:  # on a busy machine, it may be stopped before it trains
        wait(slurm, site, "stopped", number, "RUNNING")
        assert wait(slurm, site, "stopped", number, "PENDING", "FAILED")["JobState"] == "PENDING", said(site, "stopped")
        stops, stopped_at = stops + 1, latest_step(site / "stopped")
    assert stopped_at > 0, said(site, "stopped")
    # It has no end that a test could wait for: it gets one now.
    config.write_text(f"epochs = {stopped_at // AN_EPOCH + 3}\n")
    job = wait(slurm, site, "stopped", number, "COMPLETED", "FAILED")
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", str(stops)), said(site, "stopped")
    assert (site / "stopped" / "complete").exists()

    number = submit(slurm, site, "whole", *flags)
    assert wait(slurm, site, "whole", number, "COMPLETED", "FAILED")["Restarts"] == "0", said(site, "whole")
    stopped, whole = (site / name for name in ("stopped", "whole"))
    assert steps(stopped) == steps(whole)
    assert max(steps(whole)) > stopped_at
    assert validations(stopped) == validations(whole) != {}
    for weights in ("best.safetensors", "latest.safetensors"):
        one, other = (load_file(folder / weights) for folder in (stopped, whole))
        assert list(one) == list(other)
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
