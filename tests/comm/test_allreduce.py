"""The allreduce strategy: closed forms, odd bucket sizes, blocks in any order, twice."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from alexnet_dist.comm.allreduce import Bucketed
from alexnet_dist.comm.world import World
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(("size", "bucket"), [(1000, 300), (1000, 1000), (1000, 4096), (7, 1), (64, 64)])
def test_sums_over_ranks_whatever_the_order_of_blocks(size, bucket):
    world = World()
    updated = []

    def apply(lo, hi, gradient, workspace):
        assert np.array_equal(gradient, step * total * ramp[lo:hi])
        updated.append((lo, hi))

    # Another order on each rank, as threads would have it.
    rng = np.random.default_rng(world.rank)
    edges = [0, *sorted({int(edge) for edge in np.random.default_rng(0).integers(1, size, 10)}), size]
    blocks = list(pairwise(edges))
    ramp = np.arange(size, dtype=np.float32)
    total = sum(range(1, world.size + 1))
    team = Team(1)
    sync = Bucketed(world, size, team, apply, bucket)
    for step in (1, 2):
        updated.clear()
        for index in rng.permutation(len(blocks)):
            lo, hi = blocks[index]
            with sync.block(lo, hi, Workspace()) as gradient:
                gradient[...] = step * (world.rank + 1) * ramp[lo:hi]
            if index % 3 == 0:
                sync.poll()
        sync.finish()
        assert sorted(index for lo, hi in updated for index in range(lo, hi)) == list(range(size))
    team.close()


def test_blocks_from_other_threads_leave_mpi_to_the_main_one():
    world = World()
    team = Team(1)
    sync = Bucketed(world, 40, team, lambda *_: None, bucket=10)

    def fill(lo):
        with sync.block(lo, lo + 10, Workspace()) as gradient:
            gradient[...] = 1

    threads = [threading.Thread(target=fill, args=(lo,)) for lo in range(0, 40, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sync.started == 0
    sync.finish()
    assert (sync.gradients == world.size).all()
    team.close()


def test_a_forgotten_gradient_is_noticed():
    team = Team(1)
    sync = Bucketed(World(), 10, team, lambda *_: None)
    with sync.block(0, 9, Workspace()):
        pass
    with pytest.raises(RuntimeError, match="gradient"):
        sync.finish()
    team.close()
