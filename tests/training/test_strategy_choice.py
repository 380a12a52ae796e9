"""Which strategy a run uses: asked for, measured, or the one that is left where ranks can't share memory."""

import pytest
from small import SMALL

from alexnet_dist.comm.node import NoSharedMemory
from alexnet_dist.comm.world import World
from alexnet_dist.support.threads import Team
from alexnet_dist.training import strategy_choice
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import for_many_ranks
from alexnet_dist.training.strategy_choice import choose_engine

pytestmark = pytest.mark.mpi


MANY = for_many_ranks()


@pytest.fixture
def opened():
    """choose_engine for a small network; `refused` are strategies for which there is no shared memory."""
    world = World()
    spec = StepSpec(SMALL, 2, SGD())
    made = []
    with Team(1) as team:

        def run(name, refused=()):
            def open_engine(strategy):
                if strategy in refused:
                    raise NoSharedMemory("/dev/shm is full")
                made.append(strategy)
                return Engine(spec, world, team, strategy)

            engine, why = choose_engine(name, spec, world, open_engine)
            touched = engine.values.any() or any(array.any() for array in engine.state.values())
            engine.close()
            return engine.strategy_name, why, bool(touched), made

        yield run


@pytest.mark.parametrize("name", MANY)
def test_what_is_asked_for_is_opened_and_nothing_else(opened, name):
    assert opened(name) == (name, "as asked for", False, [name])


def test_auto_measures_all_and_leaves_nothing_behind(opened):
    name, why, touched, made = opened("auto")
    assert not touched
    if World().size == 1:
        assert made == [name] == ["local"]
    else:
        assert made == ["sharded", "hybrid", "allreduce", name]
        assert all(f"{candidate} " in why for candidate in MANY)


def test_all_ranks_pick_the_same(opened):
    world = World()
    name, why, _, _ = opened("auto")
    assert set(world.all_texts([f"{name}: {why}"])) == {f"{name}: {why}"}


def test_replicas_that_don_t_fit_into_memory_are_not_measured(opened, monkeypatch):
    if World().size > 1:  # one rank has nothing to choose
        monkeypatch.setattr(strategy_choice, "available_memory", lambda: 1000)
        name, why, _, made = opened("auto")
        assert name in ("sharded", "hybrid")
        assert "allreduce" not in made
        assert "not allreduce: its replicas take" in why


def test_without_shared_memory_it_is_allreduce_and_says_so(opened):
    for name in ("hybrid", "auto") if World().size > 1 else ("hybrid",):  # one rank has nothing to choose
        picked, why, _, _ = opened(name, refused=("sharded", "hybrid"))
        assert picked == "allreduce"
        assert "/dev/shm is full" in why
