"""Small exchanges and shared errors, on any number of ranks: mpirun -n 2 python -m pytest --with-mpi -m mpi."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_dist.comm.world import World
from alexnet_dist.errors import SharedError, StorageError, UserError

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    return World()


def test_sum(world):
    everyone = sum(range(world.size))
    for _ in range(2):
        assert world.sum([world.rank, 1, 2**52]) == [everyone, world.size, 2**52 * world.size]


def test_broadcast_overwrites_with_rank_0s(world):
    array = np.full(1000, world.rank, np.float32)
    world.broadcast_(array)
    assert not array.any()
    assert world.broadcast_json({"rank": world.rank, "error": float("inf")}) == {"rank": 0, "error": float("inf")}


def test_texts_of_all_ranks_in_order(world):
    mine = [f"rank {world.rank}: é{number}" for number in range(world.rank)]
    expected = [f"rank {rank}: é{number}" for rank in range(world.size) for number in range(rank)]
    assert world.all_texts(mine) == expected
    assert world.all_texts([]) == []


def test_rank_0_gathers_large_messages_one_after_the_other(world, monkeypatch):
    monkeypatch.setattr("alexnet_dist.comm.world.PIECE", 1000)
    lengths = [0, 1, 999, 1000, 1001, 50_000]
    mine = bytes([world.rank]) * lengths[world.rank % len(lengths)]
    got = list(world.gathered(mine))
    expected = [bytes([rank]) * lengths[rank % len(lengths)] for rank in range(world.size)]
    assert got == (expected if world.rank == 0 else [])


def test_shared_errors_carry_the_exit_code(world):
    def write():
        if world.rank == world.size - 1:
            raise StorageError("the disk is full")

    with pytest.raises(SharedError, match="the disk is full") as caught, world.shared_errors():
        write()
    assert caught.value.exit_code == 74


def test_shared_errors_are_the_lowest_ranks_on_all(world):
    last = world.size - 1
    for bad in (last, -1, 0):

        def passage(bad=bad):
            with world.shared_errors():
                if world.rank >= bad >= 0:
                    raise UserError(f"bad on {world.rank}")

        if bad < 0:
            passage()
        else:
            with pytest.raises(SharedError, match=rf"bad on {bad}\Z"):
                passage()


def test_ranks_that_read_something_else_are_named(world):
    world.require_same("the same", "the list")
    with (
        pytest.raises(SharedError, match=rf"the list of rank {world.size - 1} \(.*is not that of rank 0")
        if (world.size > 1)
        else nullcontext()
    ):
        world.require_same(f"{world.rank == world.size - 1}", "the list")


@pytest.mark.parametrize("error", [None, OSError("the disk is full"), ValueError("the file is closed")])
def test_what_was_printed_comes_out_before_all_ranks_end(world, monkeypatch, error):
    did = []

    class Stream:
        def flush(self):
            did.append("flush")
            if error is not None:
                raise error

    monkeypatch.setattr(sys, "stdout", Stream())
    monkeypatch.setattr(sys, "stderr", Stream())
    world.comm = SimpleNamespace(Abort=did.append)
    world.abort(69)
    assert did == ["flush", "flush", 69]


def test_threads_are_shared_by_the_ranks_of_a_node(world):
    assert 1 <= world.node_threads() <= max(1, 1024 // world.size)
