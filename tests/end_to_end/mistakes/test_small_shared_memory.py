"""Where /dev/shm has no room, a run says so before MPI starts, or trains with what needs none of it."""

import shutil
import subprocess
import sys

import pytest
from launcher import MPIRUN, PROMPT, SMALL, Job, needs_mpirun, open_mpi

pytestmark = needs_mpirun


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("shm"), 16, 4)


def train_in(site, size, ranks, *flags) -> Job:
    """A run where /dev/shm is so large; skips where there can't be such a place."""
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", "8", "--epochs", "1", "--output-dir", "run"]
    shutil.rmtree(site / "run", ignore_errors=True)
    training = [MPIRUN, "-n", str(ranks), sys.executable, "-m", "alexnet_dist.train", *SMALL, *data, *flags]
    alone = ["unshare", "--mount", "--user", "--map-root-user"]
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    tried = subprocess.run([*alone, "sh", "-c", mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(
            "MPI itself must meet a /dev/shm of this size, which can't be mounted here: as root, or where people may make user "
            f"namespaces (sysctl user.max_user_namespaces), it can: {tried.stderr.strip()}"
        )
    with Job([*alone, "sh", "-c", f'{mount} && exec "$@"', "sh", *training], site) as job:
        return job.wait()


@pytest.mark.skipif(open_mpi(), reason="Open MPI needs none")
@pytest.mark.parametrize(("size", "ranks"), [("1m", 2), ("2m", 2), ("4m", 4)])
def test_too_small_for_mpi(site, size, ranks):
    job = train_in(site, size, ranks)
    assert job.code == 2, str(job)
    assert job.err.count("/dev/shm on ") == 1, str(job)
    assert "--shm-size" in job.err
    assert job.ended - job.began < PROMPT, str(job)


def test_too_small_for_mpi_is_enough_for_one_rank(site):
    """Which then does without MPI."""
    train_in(site, "1m", 1, "--sync", "auto").ok()


def test_too_small_for_the_strategy(site):
    """MPI starts; the strategy that shares memory is refused or falls back to one that doesn't."""
    job = train_in(site, "3m", 2, "--sync", "hybrid").ok()
    assert (site / "run" / "complete").exists()
    assert "gradients: " in job.out, str(job)


@pytest.mark.parametrize("sync", ["hybrid", "auto"])
def test_a_network_that_does_not_fit_there(site, sync):
    """Its windows would take 8 MB."""
    job = train_in(site, "6m", 2, "--sync", sync, "--width", "0.2").ok()
    assert "gradients: allreduce" in job.out, str(job)
    assert " MB left" in job.out, str(job)
