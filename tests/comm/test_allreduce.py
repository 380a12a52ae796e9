"""The allreduce strategy: closed forms, odd bucket sizes, blocks in any order, twice."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from updates import Calls, Norms, hand_over, options

from alexnet_dist.comm.allreduce import Allreduce
from alexnet_dist.comm.world import World
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(("size", "bucket"), [(1000, 300), (1000, 1000), (1000, 4096), (7, 1), (64, 64)])
def test_sums_over_ranks_whatever_the_order_of_blocks(size, bucket):
    world = World()
    updated = []

    def apply(lo, hi, gradient):
        assert np.array_equal(gradient, step * total * ramp[lo:hi])
        updated.append((lo, hi))

    # Another order on each rank, as threads would have it.
    rng = np.random.default_rng(world.rank)
    edges = [0, *sorted({int(edge) for edge in np.random.default_rng(0).integers(1, size, 10)}), size]
    blocks = list(pairwise(edges))
    ramp = np.arange(size, dtype=np.float32)
    total = sum(range(1, world.size + 1))
    team = Team(1)
    strategy = Allreduce(world, options(size, Calls(apply), team, bucket=bucket))
    for step in (1, 2):
        updated.clear()
        hand_over(strategy, blocks, rng, step * (world.rank + 1) * ramp)
        strategy.finish()
        assert sorted(index for lo, hi in updated for index in range(lo, hi)) == list(range(size))
    team.close()


def test_blocks_from_other_threads_leave_mpi_to_the_main_one():
    world = World()
    team = Team(1)
    strategy = Allreduce(world, options(40, Calls(), team, bucket=10))

    def fill(lo):
        with strategy.block(lo, lo + 10, Workspace()) as gradient:
            gradient[...] = 1

    threads = [threading.Thread(target=fill, args=(lo,)) for lo in range(0, 40, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert strategy.started == 0
    strategy.finish()
    assert (strategy.gradients == world.size).all()
    team.close()


def test_a_forgotten_gradient_is_noticed():
    team = Team(1)
    strategy = Allreduce(World(), options(10, Calls(), team))
    with strategy.block(0, 9, Workspace()):
        pass
    with pytest.raises(RuntimeError, match="gradient"):
        strategy.finish()
    team.close()


def test_an_update_that_waits_for_norms_gets_those_of_the_whole_gradient():
    world, size = World(), 700
    updated = np.zeros(size, int)

    def apply(lo, hi, gradient):
        assert update.sums.tolist() == [size * sum(range(1, world.size + 1)), size]
        updated[lo:hi] += 1

    update = Norms(apply)
    with Team(2) as team:
        strategy = Allreduce(world, options(size, update, team, bucket=128))
        for step in (1, 2):
            for lo in (300, 0):
                with strategy.block(lo, lo + (400 if lo else 300), Workspace()) as gradient:
                    gradient.fill(world.rank + 1)
            strategy.poll()
            assert (updated == step - 1).all()  # nothing before all is there
            strategy.finish()
            assert (updated == step).all()
