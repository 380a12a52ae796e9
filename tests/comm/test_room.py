"""Room for MPI in /dev/shm, as it is looked for before MPI starts. With a real one: test_small_shared_memory.py."""

import pytest

from alexnet_dist.comm import room
from alexnet_dist.errors import UserError


@pytest.fixture
def mpich(monkeypatch, tmp_path):
    """Two ranks on this host under MPICH's mpirun; mpich(rank, name) looks whether there is room in a folder."""

    def require(rank, name):
        monkeypatch.setenv("MPI_LOCALNRANKS", "2")
        monkeypatch.setenv("MPI_LOCALRANKID", str(rank))
        monkeypatch.setattr(room, "SHARED_MEMORY", tmp_path / name)
        room.require_room_for_mpi()

    return require


def test_no_shared_memory_at_all(mpich):
    with pytest.raises(UserError, match=r"nowhere isn't there on .*, and MPI needs 2.2 MB there for 2 ranks. Mount it"):
        mpich(0, "nowhere")
    with pytest.raises(SystemExit) as left:
        mpich(1, "nowhere")
    assert left.value.code == 2


def test_enough(mpich):
    for rank in (0, 1):
        mpich(rank, ".")


def test_without_mpirun_nothing_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("MPI_LOCALRANKID", raising=False)
    monkeypatch.setattr(room, "SHARED_MEMORY", tmp_path / "nowhere")
    room.require_room_for_mpi()
