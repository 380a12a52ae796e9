"""Gradients through shared memory: closed forms, odd bucket sizes, blocks in any order, twice, on one node and on several."""

from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from mpi4py import MPI
from updates import Calls, Norms, hand_over, options

from alexnet_dist.comm.hybrid import Hybrid
from alexnet_dist.comm.node import Node, NodeTeam, NoSharedMemory, require_room, shared_memory_room
from alexnet_dist.comm.sharded import Sharded
from alexnet_dist.comm.world import World
from alexnet_dist.support.division import divide
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace

pytestmark = pytest.mark.mpi

NODES = [None, 1, 2, 3]  # how many ranks at most take each other for one node


@contextmanager
def node_of(world, largest=None):
    node = Node(world, largest)
    yield node
    node.close()


@pytest.mark.parametrize("largest", NODES)
@pytest.mark.parametrize(("size", "bucket"), [(1000, 300), (1000, 1000), (100_000, 1 << 22), (7, 1), (64, 64)])
def test_sums_over_ranks_whatever_the_order_of_blocks(size, bucket, largest):
    world = World()
    rng = np.random.default_rng(world.rank)
    edges = [0, *sorted({int(edge) for edge in np.random.default_rng(0).integers(1, size, 10)}), size]
    blocks = list(pairwise(edges))
    ramp = np.arange(size, dtype=np.float32)
    total = sum(range(1, world.size + 1))
    step = 0

    def apply(lo, hi, gradient):
        assert np.array_equal(gradient, step * total * ramp[lo:hi])
        strategy.values[lo:hi] += gradient
        strategy.state["momentum"][lo:hi] += 1

    with node_of(world, largest) as node, Team(2) as team:
        strategy = Sharded(node, options(size, Calls(apply), team, bucket=bucket))
        for step in (1, 2):
            hand_over(strategy, blocks, rng, step * (world.rank + 1) * ramp)
            strategy.finish()
            # Every parameter has been updated once in each step, by whichever rank owns it, and all see it.
            assert (strategy.state["momentum"] == step).all()
            assert np.array_equal(strategy.values, total * sum(range(step + 1)) * ramp)
            node.barrier()


# Behind `split`, hybrid divides matrices among nodes: 6 rows of 50 floats, 40 rows of 2, and 20 rows of 1.
SIZE, SPLIT, MATRICES = 900, 500, ((500, 6, 50), (800, 40, 2), (880, 20, 1))


def rows_of(node):
    """Ranges of the matrices' rows that this node owns."""
    for start, rows, length in MATRICES:
        part = divide(rows, node.sizes)[node.number]
        yield start + part.start * length, start + part.stop * length


@pytest.mark.parametrize("largest", NODES)
def test_hybrid_updates_what_a_node_owns_at_once(largest):
    world = World()

    def apply(lo, hi, gradient):
        strategy.values[lo:hi] += gradient

    with node_of(world, largest) as node, Team(1) as team:
        strategy = Hybrid(node, options(SIZE, Calls(apply), team, SPLIT, matrices=MATRICES, bucket=128))
        for step in (1, 2):
            for number, (lo, hi) in enumerate(rows_of(node)):
                if number % node.size == node.rank:
                    with strategy.block(lo, hi, Workspace()) as gradient:
                        gradient[...] = 3
                    assert (strategy.values[lo:hi] == step * 3).all()
            with strategy.block(0, SPLIT, Workspace()) as gradient:
                gradient[...] = world.rank + 1
            strategy.poll()
            strategy.finish()
            assert (strategy.values[:SPLIT] == step * sum(range(1, world.size + 1))).all()
            whole = strategy.whole(strategy.values)
            assert (whole is None) == (world.rank != 0)
            assert whole is None or (whole[SPLIT:] == step * 3).all()
            node.barrier()


@pytest.mark.parametrize("largest", NODES)
@pytest.mark.parametrize("kind", [Sharded, Hybrid])
def test_an_update_that_waits_for_norms_gets_those_of_the_whole_gradient(kind, largest):
    world = World()
    ranks = sum(range(1, world.size + 1))

    def apply(lo, hi, gradient):
        assert update.sums.tolist() == [expected, SIZE]
        strategy.values[lo:hi] += gradient

    update = Norms(apply)
    with node_of(world, largest) as node, Team(2) as team:
        strategy = kind(node, options(SIZE, update, team, SPLIT, matrices=MATRICES, bucket=128))
        # Behind the split, hybrid's gradients are not summed: each is computed once, by its owner.
        behind = 3 if kind is Hybrid else 3 * world.size
        expected = ranks * SPLIT + behind * (SIZE - SPLIT)
        for step in (1, 2):
            mine = [(SPLIT, SIZE)] if kind is Sharded else list(rows_of(node)) if node.rank == 0 else []
            for lo, hi in mine:
                with strategy.block(lo, hi, Workspace()) as gradient:
                    gradient.fill(3)
            with strategy.block(0, SPLIT, Workspace()) as gradient:
                gradient.fill(world.rank + 1)
            strategy.poll()
            strategy.finish()
            assert (strategy.values[:SPLIT] == step * ranks).all()
            whole = strategy.whole(strategy.values)
            assert whole is None or (whole[SPLIT:] == step * behind).all()
            node.barrier()


def test_a_forgotten_gradient_is_noticed():
    with node_of(World()) as node, Team(1) as team:
        strategy = Sharded(node, options(10, Calls(), team))
        with strategy.block(0, 9, Workspace()):
            pass
        with pytest.raises(RuntimeError, match="gradient"):
            strategy.finish()


def test_broadcast_reaches_every_node():
    world = World()
    for largest in NODES:
        with node_of(world, largest) as node:
            array = node.shared((100,))
            if node.rank == 0:
                array.fill(world.rank + 1)
            node.barrier()
            node.broadcast_(array)
            assert (array == 1).all()
            node.barrier()


@pytest.mark.parametrize("count", [0, 1, 23])
def test_the_team_of_a_node_covers_everything_once(count):
    with node_of(World()) as node, Team(1 + node.rank % 2) as team:
        everyone = NodeTeam(node, team)
        blocks, chunks = node.shared((count,), np.int64), node.shared((count,), np.int64)

        def block(lo, hi, workspace):
            blocks[lo:hi] += 1

        def chunk(part, workspace):
            chunks[part] += 1

        for turn in (1, 2):
            everyone.for_each(count, 3, block)
            everyone.for_chunks(count, 2, chunk)
            assert (blocks == turn).all()
            assert (chunks == turn).all()
            node.barrier()


def test_a_host_without_shared_memory_has_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr("alexnet_dist.comm.room.SHARED_MEMORY", tmp_path / "nowhere")
    assert shared_memory_room() == 0


@pytest.mark.skipif(World().size == 1, reason="a rank alone needs no shared memory")
def test_too_little_shared_memory_is_said_by_all_ranks():
    world = World()
    node = Node(world)
    with pytest.raises(NoSharedMemory, match=r"MB left in /dev/shm, not 1000000001 MB"):
        require_room(node, 10**15)


@pytest.mark.parametrize("windows", [1, 3])
def test_a_window_that_fails_on_one_node_is_said_by_all_ranks(monkeypatch, windows):
    world, made = World(), []

    def allocate(size, comm):
        if len(made) == windows - 1 and world.rank == world.size - 1:
            raise MPI.Exception(MPI.ERR_NO_MEM)
        made.append(size)
        return MPI.Win.Allocate_shared(size, 1, comm=comm)

    monkeypatch.setattr("alexnet_dist.comm.node._allocate", allocate)

    def make():
        node = Node(world, largest=1)
        for _ in range(windows):
            node.shared((3,))

    with pytest.raises(NoSharedMemory, match="can't share 0 MB"):
        make()
    assert world.sum([1]) == [world.size]


@pytest.mark.skipif(World().size == 1, reason="a rank alone fails alone")
@pytest.mark.parametrize("windows", [1, 3])
def test_a_window_that_fails_on_one_rank_of_a_node_is_said_by_all(monkeypatch, windows):
    """The library makes it and then fails on one rank: the others have theirs."""
    world, made = World(), []

    def allocate(size, comm):
        window = MPI.Win.Allocate_shared(size, 1, comm=comm)
        made.append(window)
        if len(made) == windows and world.rank == world.size - 1:
            raise MPI.Exception(MPI.ERR_NO_MEM)
        return window

    monkeypatch.setattr("alexnet_dist.comm.node._allocate", allocate)

    def make():
        node = Node(world)
        for _ in range(windows):
            node.shared((3,))

    with pytest.raises(NoSharedMemory, match="can't share 0 MB"):
        make()
    assert world.sum([1]) == [world.size]
    made[-1].Free()  # all ranks have it here
