"""The allreduce strategy: closed forms, odd bucket sizes, blocks in any order, twice."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from alexnet_dist.comm.bucketed import Bucketed
from alexnet_dist.comm.world import World
from alexnet_dist.workspace import Workspace

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(("size", "bucket"), [(1000, 300), (1000, 1000), (1000, 4096), (7, 1), (64, 64)])
def test_sums_over_ranks_whatever_the_order_of_blocks(size, bucket):
    world = World()
    gradients = np.full(size, np.nan, np.float32)
    sync = Bucketed(world, gradients, bucket)
    # Another order on each rank, as threads would have it.
    rng = np.random.default_rng(world.rank)
    edges = [0, *sorted({int(edge) for edge in np.random.default_rng(0).integers(1, size, 10)}), size]
    blocks = list(pairwise(edges))
    ramp = np.arange(size, dtype=np.float32)
    total = sum(range(1, world.size + 1))
    for step in (1, 2):
        for index in rng.permutation(len(blocks)):
            lo, hi = blocks[index]
            with sync.block(lo, hi, Workspace()) as gradient:
                gradient[...] = step * (world.rank + 1) * ramp[lo:hi]
            if index % 3 == 0:
                sync.poll()
        updated = []

        def update(lo, hi, step=step, updated=updated):
            assert np.array_equal(gradients[lo:hi], step * total * ramp[lo:hi])
            updated.append((lo, hi))

        assert sync.finish(update) >= 0
        assert sorted(index for lo, hi in updated for index in range(lo, hi)) == list(range(size))


def test_blocks_from_other_threads_leave_mpi_to_the_main_one():
    world = World()
    gradients = np.zeros(40, np.float32)
    sync = Bucketed(world, gradients, bucket=10)

    def fill(lo):
        with sync.block(lo, lo + 10, Workspace()) as gradient:
            gradient[...] = 1

    threads = [threading.Thread(target=fill, args=(lo,)) for lo in range(0, 40, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sync.started == 0
    sync.finish(lambda lo, hi: None)
    assert (gradients == world.size).all()


def test_a_forgotten_gradient_is_noticed():
    sync = Bucketed(World(), np.zeros(10, np.float32))
    with sync.block(0, 9, Workspace()):
        pass
    with pytest.raises(RuntimeError, match="gradient"):
        sync.finish(lambda lo, hi: None)
