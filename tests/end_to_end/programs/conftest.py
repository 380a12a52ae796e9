"""What the tests of the programs share: a folder in which a user has prepared images and trained a network."""

import pytest
from commands import EPOCHS, RECIPE, VALIDATION
from launcher import BIN, MPIRUN, NO_MPIRUN, Job, alone
from toy_images import Pictures


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with images of three classes, lists of them as alexnet-prepare writes them, and a trained network."""
    if MPIRUN is None:
        pytest.skip(NO_MPIRUN)
    folder = tmp_path_factory.mktemp("programs")
    Pictures(folder)
    alone([BIN / "alexnet-prepare", "folder", folder, "--output", folder, "--val-fraction", VALIDATION], folder).ok()
    (folder / "recipe.toml").write_text(RECIPE)
    command = [MPIRUN, "-n", "2", str(BIN / "alexnet-train"), "--config", "recipe.toml", "--epochs", str(EPOCHS)]
    with Job(command, folder) as job:
        job.wait().ok()
    (folder / "stdout").write_text(job.out)
    return folder


@pytest.fixture
def without_mpi(tmp_path):
    """An environment in which mpi4py can't be imported."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no MPI on this machine')\n")
    return {"PYTHONPATH": str(tmp_path)}
