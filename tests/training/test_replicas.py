"""Copies of the parameters are compared: what differs is an error of all ranks, which names who has it."""

import numpy as np
import pytest
from small import SMALL, images

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import layer_table
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training import updater
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import LARS, SGD
from alexnet_dist.training.replicas import Parted, _odd_ones, compare_replicas

pytestmark = pytest.mark.mpi

CONVOLUTIONS = layer_table(SMALL).classifier_start
several = pytest.mark.skipif(World().size == 1, reason="one rank has no copies")


@pytest.fixture
def trained():
    """The engine after some steps, by its strategy and options of StepSpec; ends when the test does."""
    opened = []

    def run(strategy, team, **options):
        world = World()
        engine = Engine(
            StepSpec(**{"network": SMALL, "batch": 2, "optimizer": SGD(), **options}), world, team, strategy
        )
        opened.append(engine)
        engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
        for index in range(2):
            x, labels = images(SMALL, 2, seed=10 * index + world.rank)
            engine.step(Batch(x, labels, np.arange(2) + 2 * world.rank), 2 * world.size, index, 0.01)
        return engine

    yield run
    for engine in opened:
        engine.close()


WAYS = [("allreduce", None), ("sharded", 1), ("sharded", 2), ("hybrid", 1), ("hybrid", 2), ("hybrid", None)]


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
@pytest.mark.parametrize("frozen", [0, 5])
def test_copies_stay_the_same(trained, strategy, largest_node, frozen):
    with Team(2) as team:
        compare_replicas(trained(strategy, team, largest_node=largest_node, frozen=frozen), "")


@several
@pytest.mark.parametrize(("strategy", "place"), [("allreduce", -1), ("sharded", -1), ("hybrid", CONVOLUTIONS - 1)])
@pytest.mark.parametrize("what", ["parameters", "momentum"])
def test_one_bit_is_found(trained, strategy, place, what):
    with Team(2) as team:
        engine = trained(strategy, team, largest_node=1)
        world, last = engine.world, engine.world.size - 1
        array = engine.values if what == "parameters" else engine.state[what]
        if world.rank == last:
            array.view(np.uint32)[place] ^= 1
        with pytest.raises(Parted, match=f"copies of the {what} have parted: .*rank {last} .*Do this") as raised:
            compare_replicas(engine, "Do this")
        assert ("rank 0" in str(raised.value)) == (world.size == 2)  # of two, nobody knows which is right


@several
def test_what_only_one_node_has_is_not_compared(trained):
    with Team(1) as team:
        engine = trained("hybrid", team, largest_node=1)
        if engine.world.rank == 0:
            engine.values[CONVOLUTIONS:] = 7
        compare_replicas(engine, "")


@several
def test_processors_that_round_norms_otherwise_don_t_part(trained, monkeypatch):
    sum_of_squares, rank = updater._sum_of_squares, World().rank
    monkeypatch.setattr(updater, "_sum_of_squares", lambda *arrays: sum_of_squares(*arrays) ** (1 + 1e-2 * rank))
    with Team(1) as team:
        compare_replicas(trained("allreduce", team, optimizer=LARS(trust_coefficient=0.05)), "")


def test_who_differs_from_most_is_named():
    names = {0: "rank 0 (a)", 1: "rank 1 (a)", 3: "rank 3 (b)"}
    assert _odd_ones({0: 5, 1: 6, 3: 5}, names) == "rank 1 (a) differs from the others"
    assert "rank 0 (a), rank 1 (a), rank 3 (b) are not the same" in _odd_ones({0: 5, 1: 6, 3: 7}, names)
