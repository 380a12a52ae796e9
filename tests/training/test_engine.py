"""The parallel step: all ranks together do what one rank does alone with the whole batch."""

import numpy as np
import pytest
from mpi4py import MPI
from small import SMALL, images
from vgg import VggLike

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import LARS, SGD

pytestmark = pytest.mark.mpi

LR = 0.01


# Strategy, and how many ranks at most take each other for one node; None: as many as there are.
WAYS = [("allreduce", None), *((name, largest) for name in ("sharded", "hybrid") for largest in (None, 1, 2, 3))]


def train(world, team, batches, strategy="allreduce", **spec):
    """The losses, and the parameters after the batches, each (images, labels) of all ranks."""
    spec = StepSpec(**{"network": SMALL, "batch": 16, "optimizer": SGD(), "seed": 5, **spec})
    engine = Engine(spec, world, team, strategy)
    if world.rank == 0:
        initialize(engine.parameters, engine.values, "he", seed=1)
    engine.broadcast()
    losses = []
    for index, (x, labels) in enumerate(batches):
        mine = share(len(x), world.rank, world.size)
        part = slice(mine.start, mine.stop)
        total = int((labels >= 0).sum())
        sums = engine.step(Batch(x[part], labels[part], np.arange(len(x))[part]), total, index, LR)
        assert sums.images == total
        losses.append(sums.loss / total)
    values = engine.values.copy()
    engine.close()
    return np.array(losses), values


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_ranks_equal_one(strategy, largest_node, threads):
    batches = [images(SMALL, n, seed=n) for n in (16, 13, 16, 1)]  # unequal shares, and ranks without an image
    batches[1][1][3] = -1  # an image that could not be read
    world, alone = World(), World(MPI.COMM_SELF)
    with Team(threads) as team:
        losses, values = train(world, team, batches, strategy, largest_node=largest_node)
        expected_losses, expected_values = train(alone, team, batches)
    assert losses[0] == pytest.approx(expected_losses[0], rel=1e-6)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert np.abs(values - expected_values).max() < 1e-5 * np.abs(expected_values).max()


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
def test_many_ranks_equal_one_with_an_optimizer_that_needs_norms(strategy, largest_node):
    batches = [images(SMALL, n, seed=n) for n in (16, 13, 1)]
    world, alone, lars = World(), World(MPI.COMM_SELF), LARS(trust_coefficient=0.05)
    with Team(2) as team:
        losses, values = train(world, team, batches, strategy, optimizer=lars, largest_node=largest_node)
        expected_losses, expected_values = train(alone, team, batches, "local", optimizer=lars)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert np.abs(values - expected_values).max() < 1e-5 * np.abs(expected_values).max()


@pytest.mark.parametrize("strategy", ["sharded", "hybrid"])
def test_another_table_of_layers_is_trained_the_same_way(strategy):
    network = VggLike(hidden=2, dropout=0.3)
    batches = [images(network, n, seed=n) for n in (16, 13, 1)]
    with Team(2) as team:
        losses, values = train(World(), team, batches, strategy, network=network)
        expected_losses, expected_values = train(World(MPI.COMM_SELF), team, batches, "local", network=network)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert np.abs(values - expected_values).max() < 1e-5 * np.abs(expected_values).max()


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
def test_replicas_stay_identical(strategy, largest_node):
    world = World()
    with Team(1) as team:
        batches = [images(SMALL, 16, seed=n) for n in range(3)]
        _, values = train(world, team, batches, strategy, largest_node=largest_node)
    mine = values.copy()
    world.broadcast_(values)
    assert np.array_equal(mine, values)


def test_time_is_accounted_for_by_phase():
    world = World()
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 4, SGD()), world, team)
        initialize(engine.parameters, engine.values, "he", seed=1)
        x, labels = images(SMALL, 4)
        engine.step(Batch(x, labels, np.arange(4)), 4 * world.size, 0, 0.01)
        seconds = engine.watch.take()
        assert set(seconds) == {"data", "forward", "backward", "wait", "update"}
        assert all(seconds[phase] > 0 for phase in ("forward", "backward", "wait", "update"))
        assert not any(engine.watch.take().values())
