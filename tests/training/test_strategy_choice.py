"""Which strategy a run uses: asked for, measured, or the one that is left where ranks can't share memory."""

import gc
import os
import weakref

import pytest
from small import SMALL
from vgg import VggLike

from alexnet_dist.comm.node import NoSharedMemory
from alexnet_dist.comm.world import World
from alexnet_dist.model.architecture import Network
from alexnet_dist.support.threads import Team
from alexnet_dist.training import strategy_choice
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import STRATEGIES, Demand, for_many_ranks
from alexnet_dist.training.strategy_choice import by_rule, choose_engine

pytestmark = pytest.mark.mpi


MANY = for_many_ranks()
several = pytest.mark.skipif(World().size == 1, reason="one rank has nothing to choose")


@pytest.fixture
def opened():
    """choose_engine for a small network; `refused` are strategies for which there is no shared memory."""
    world = World()
    made = []
    with Team(1) as team:

        def run(name, refused=(), network=SMALL):
            spec = StepSpec(network, 2, SGD())

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
    assert opened(name) == (name, f"--sync {name}", False, [name])


def test_one_rank_has_nothing_to_choose(opened):
    if World().size == 1:
        for name in ("auto", "measure"):
            assert opened(name)[:2] == ("local", "one rank has nobody to exchange gradients with")


@several
def test_measuring_tries_all_and_leaves_nothing_behind(opened):
    name, why, touched, made = opened("measure")
    assert not touched
    assert made == ["sharded", "hybrid", "allreduce", name]
    assert all(f"{candidate} " in why for candidate in MANY)
    assert "another run may find another one" in why
    texts = World().all_texts([f"{name}: {why}"])
    assert set(texts) == {texts[0]}


@several
def test_measuring_keeps_no_engine_that_has_lost():
    world, engines = World(), []
    gc.collect()
    gc.disable()  # what frees them mustn't be a collection that happens to come
    try:
        with Team(1) as team:

            def open_engine(strategy):
                assert [ref() for ref in engines] == [None] * len(engines)
                engine = Engine(StepSpec(SMALL, 2, SGD()), world, team, strategy)
                engines.append(weakref.ref(engine))
                return engine

            choose_engine("measure", StepSpec(SMALL, 2, SGD()), world, open_engine)[0].close()
    finally:
        gc.enable()
    assert len(engines) == len(MANY) + 1


@several
def test_the_rule_opens_one_strategy_without_measuring(opened):
    assert opened("auto") == ("hybrid", "on one node, ranks share memory", False, ["hybrid"])


# SMALL's whole gradient is 2.6 times its convolutions'; activations of one image are far smaller, of very many larger.
@several
@pytest.mark.parametrize(("batch", "expected"), [(1, "hybrid"), (2000, "sharded")])
def test_between_nodes_the_rule_counts_bytes(batch, expected):
    name, why = by_rule(StepSpec(SMALL, batch, SGD(), largest_node=1), World())
    assert name == expected
    size = World().size
    assert f"each of {size} nodes sends, in a step of up to {batch * size} images, at most: {expected} " in why
    assert why.count(" MB") == 2


@pytest.mark.parametrize("nodes", [2, 8, 64])
def test_the_break_even_of_alexnet(nodes):
    # 234 MB of gradients there and back, against 143 KB of activations an image: near 3,300 images, for any nodes.
    def sent(name, images):
        return STRATEGIES[name].sent(Demand(Network(), SGD(), images // nodes, (1,) * nodes, 0))

    assert sent("hybrid", 3200) < sent("sharded", 3200)
    assert sent("hybrid", 3392) > sent("sharded", 3392)


@pytest.mark.parametrize(("images", "megabytes"), [(32, 14), (128, 20)])
def test_what_two_nodes_send_for_alexnet(images, megabytes):
    # A whole gradient is 244 MB; that the formula is what leaves a host is tested on one (end_to_end/test_hosts.py).
    assert STRATEGIES["hybrid"].sent(Demand(Network(), SGD(), images // 2, (1, 1), 0)) < megabytes * 1e6


@several
@pytest.mark.parametrize("name", ["auto", "measure"])
def test_where_nothing_fits_into_memory_what_takes_the_least_is_opened(opened, monkeypatch, name):
    monkeypatch.setattr(strategy_choice, "available_memory", lambda: 1000)
    picked, why, _, made = opened(name)
    assert (picked, made) == ("hybrid", ["hybrid"])
    assert all(f"not {candidate}: it takes" in why for candidate in MANY)
    assert "hybrid needs the least" in why


@several
def test_measuring_opens_only_what_fits_into_memory(opened, monkeypatch):
    size = World().size
    least = strategy_choice._memory_of_a_node("hybrid", StepSpec(SMALL, 2, SGD()).demand([size], 0))
    monkeypatch.setattr(strategy_choice, "available_memory", lambda: least)
    picked, why, _, made = opened("measure")
    assert (picked, made) == ("hybrid", ["hybrid", "hybrid"])  # measured, then opened anew
    assert all(f"not {candidate}: it takes" in why for candidate in MANY if candidate != "hybrid")


@several
def test_too_little_shared_memory_is_named_with_its_host(opened, monkeypatch):
    monkeypatch.setattr(strategy_choice, "shared_memory_room", lambda: 10**6)
    picked, why, _, made = opened("auto")
    assert (picked, made) == ("allreduce", ["allreduce"])
    assert f"MB of shared memory on {os.uname().nodename}, which has 1 MB left" in why


@several
@pytest.mark.parametrize("name", ["hybrid", "auto", "measure"])
def test_without_shared_memory_it_is_allreduce_and_says_so(opened, name):
    picked, why, _, _ = opened(name, refused=("sharded", "hybrid"))
    assert picked == "allreduce"
    assert "/dev/shm is full" in why


@several
@pytest.mark.parametrize("name", ["auto", "measure", "hybrid"])
def test_a_network_that_hybrid_can_t_run(opened, name):
    picked, why, _, _ = opened(name, network=VggLike(classifier_pool=True))
    assert picked in (
        ("sharded", "allreduce") if name == "measure" else ("allreduce",) if name == "hybrid" else ("sharded",)
    )
    assert "ranks can't share the work of" in why
