"""What one rank of a node reads, all have: mpirun -n 2 python -m pytest --with-mpi -m mpi."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.comm.once_a_node import once_a_node
from alexnet_dist.comm.world import World
from alexnet_dist.errors import SharedError, UserError

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    return World()


@pytest.fixture
def temporary(world, tmp_path, monkeypatch):
    """A folder for temporary files, the same on all ranks."""
    folder = Path(world.broadcast_json(str(tmp_path)))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    column = rng.integers(0, 9, 1001).astype(np.int32)
    return [column, rng.random((3, 5)), np.frombuffer(b"some text", np.uint8), column, np.empty(0), column[::-1]]


def test_all_ranks_get_what_the_first_one_has_made(world, temporary):
    calls = []

    def make():
        calls.append(world.rank)
        return {"made by": world.rank, "names": ["é", None]}, arrays()

    value, got = once_a_node(world, make)
    assert value == {"made by": 0, "names": ["é", None]}  # the tests' ranks are on one node
    assert calls == ([0] if world.rank == 0 else [])
    for one, expected in zip(got, arrays(), strict=True):
        assert one.dtype == expected.dtype
        np.testing.assert_array_equal(one, expected)
        assert not one.flags.writeable
    assert np.shares_memory(got[0], got[3])
    world.comm.Barrier()  # the file's name goes as the first rank returns, which may be the last of them to do so
    assert os.listdir(temporary) == []


def test_its_mistake_is_that_of_all(world, temporary):
    def make():
        raise UserError(f"bad list on {world.rank}")

    with pytest.raises(SharedError, match=r"bad list on 0\Z"):
        once_a_node(world, make)
    assert os.listdir(temporary) == []


def test_no_room_for_the_file(world, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")  # a folder in which no file can be made
    with pytest.raises(SharedError, match=r"no room in /dev/full for 0 MB .* TMPDIR"):
        once_a_node(world, lambda: (None, arrays()))
