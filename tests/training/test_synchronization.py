"""Which strategy a run uses: asked for, measured, or the one that is left where ranks can't share memory."""

import pytest
from small import SMALL

from alexnet_dist.comm.node import NoSharedMemory
from alexnet_dist.comm.world import World
from alexnet_dist.support.threads import Team
from alexnet_dist.training.config import SYNCS
from alexnet_dist.training.engine import Engine
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.synchronization import open_engine

pytestmark = pytest.mark.mpi


@pytest.fixture
def opened():
    """open_engine for a small network; `refused` are strategies for which there is no shared memory."""
    world = World()
    made = []
    with Team(1) as team:

        def run(name, refused=(), floats=1000):
            def make(sync):
                if sync in refused:
                    raise NoSharedMemory("/dev/shm is full")
                made.append(sync)
                return Engine(SMALL, world, team, batch=2, sgd=SGD(), sync=sync)

            choice = open_engine(make, world, name, floats, share=2, total=2 * world.size)
            values, momentum = choice.engine.values.any(), choice.engine.momentum.any()
            choice.engine.close()
            return choice.engine.name, choice.why, bool(values or momentum), made

        yield run


@pytest.mark.parametrize("name", SYNCS[1:])
def test_what_is_asked_for_is_opened_and_nothing_else(opened, name):
    assert opened(name) == (name, "as asked for", False, [name])


def test_auto_measures_all_and_leaves_nothing_behind(opened):
    name, why, touched, made = opened("auto")
    assert not touched
    if World().size == 1:
        assert made == [name] == ["immediate"]
    else:
        assert made == [*reversed(SYNCS[1:]), name]
        assert all(f"{candidate} " in why for candidate in SYNCS[1:])


def test_all_ranks_pick_the_same(opened):
    world = World()
    name, why, _, _ = opened("auto")
    assert set(world.all_texts([f"{name}: {why}"])) == {f"{name}: {why}"}


def test_replicas_that_don_t_fit_into_memory_are_not_measured(opened):
    if World().size > 1:  # one rank has nothing to choose
        name, why, _, made = opened("auto", floats=10**14)
        assert name in ("sharded", "hybrid")
        assert "allreduce" not in made
        assert "not allreduce: its replicas take" in why


def test_without_shared_memory_it_is_allreduce_and_says_so(opened):
    for name in ("hybrid", "auto") if World().size > 1 else ("hybrid",):  # one rank has nothing to choose
        picked, why, _, _ = opened(name, refused=("sharded", "hybrid"))
        assert picked == "allreduce"
        assert "/dev/shm is full" in why
