"""The parallel step: all ranks together do what one rank does alone with the whole batch."""

import numpy as np
import pytest
from mpi4py import MPI
from small import SMALL, images
from vgg import VggLike

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.labels import Mixed
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import LARS, SGD, AdamW
from alexnet_dist.training.optim_wrappers import AVERAGE, Averaged, Clipped

pytestmark = pytest.mark.mpi

LR = 0.01


# Strategy, and how many ranks at most take each other for one node; None: as many as there are.
WAYS = [("allreduce", None), *((name, largest) for name in ("sharded", "hybrid") for largest in (None, 1, 2, 3))]


def train(world, team, batches, strategy="allreduce", after=lambda engine: None, **spec):
    """The losses, and the parameters after the batches, each (images, labels) of all ranks; `after` is called after each."""
    spec = StepSpec(**{"network": SMALL, "batch": 16, "optimizer": SGD(), "seed": 5, **spec})
    engine = Engine(spec, world, team, strategy)
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
    losses = []
    for index, (x, labels) in enumerate(batches):
        mine = share(len(x), world.rank, world.size)
        part = slice(mine.start, mine.stop)
        total = int((labels >= 0).sum())
        sums = engine.step(Batch(x[part], labels[part], np.arange(len(x))[part]), total, index, LR)
        assert sums.images == total
        losses.append(sums.loss / total)
        after(engine)
    values = whole(engine, world)
    replicated = layer_table(spec.network).classifier_start if strategy == "hybrid" else None
    assert np.array_equal(values[:replicated], engine.values[:replicated]), "replicas have parted"
    engine.close()
    return np.array(losses), values


def whole(engine, world):
    """All parameters, on all ranks."""
    values, _ = engine.whole()
    values = np.empty(engine.parameters.size, np.float32) if values is None else values.copy()
    world.broadcast_(values)
    return values


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


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
@pytest.mark.parametrize(
    "optimizer", [SGD(), Clipped(LARS(trust_coefficient=0.05), max_norm=1.0)], ids=["sgd", "clipped"]
)
def test_parts_of_a_step_equal_the_whole(strategy, largest_node, optimizer):
    batches = [images(SMALL, n, seed=n) for n in (16, 13, 1)]  # and parts without an image
    batches[1][1][3] = -1
    with Team(2) as team:
        losses, values = train(
            World(), team, batches, strategy, optimizer=optimizer, largest_node=largest_node, parts=3
        )
        expected_losses, expected_values = train(World(MPI.COMM_SELF), team, batches, "local", optimizer=optimizer)
        of_parts, values_of_parts = train(World(MPI.COMM_SELF), team, batches, "local", optimizer=optimizer, parts=5)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert of_parts == pytest.approx(expected_losses, rel=1e-4)
    for result in (values, values_of_parts):
        assert np.abs(result - expected_values).max() < 1e-5 * np.abs(expected_values).max()


def test_a_part_has_memory_for_its_images_only():
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 16, SGD(), parts=3), World(), team)
        assert engine.net.batch == 6
        assert all(len(block.y) == 6 for block in engine.net.blocks)


@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
def test_the_network_has_the_average_while_it_is_asked_for(strategy, largest_node):
    batches = [images(SMALL, 16, seed=n) for n in range(3)]
    x, _ = images(SMALL, 4, seed=9)
    world, optimizer, differences = World(), Averaged(SGD(), 0.5), []

    def look(engine):
        before = engine.net.forward(x).copy()
        with engine.averaged():
            ours = engine.net.forward(x).copy()
        assert np.array_equal(engine.net.forward(x), before)
        average = engine.whole()[1].get(AVERAGE, np.empty(engine.parameters.size, np.float32)).copy()
        world.broadcast_(average)
        with Team(1) as alone:
            expected = AlexNet(SMALL, average, 4, alone).forward(x)
        assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()
        differences.append(np.abs(ours - before).max() / np.abs(before).max())

    with Team(2) as team:
        flags = {"optimizer": optimizer, "largest_node": largest_node}
        losses, values = train(world, team, batches, strategy, look, **flags)
        expected_losses, expected_values = train(world, team, batches, strategy, **flags)
    assert min(differences[1:]) > 1e-3  # after the first step the average is the weights themselves
    assert np.array_equal(losses, expected_losses)
    assert np.array_equal(values, expected_values)


@pytest.mark.parametrize("strategy", ["allreduce", "hybrid"])
def test_loss_and_update_of_mixed_images_lie_between_those_of_their_labels(strategy):
    world, (x, labels) = World(), images(SMALL, 13)
    others, share_of_first = labels[::-1].copy(), np.full(13, 0.75, np.float32)
    mine = share(13, world.rank, world.size)
    part = slice(mine.start, mine.stop)

    def step(labels, mixed=None):
        with Team(1) as team:
            engine = Engine(StepSpec(SMALL, 13, SGD(), seed=5), world, team, strategy)
            engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
            loss = engine.step(Batch(x[part], labels[part], np.arange(13)[part], mixed=mixed), 13, 0, LR).loss
            values = whole(engine, world)
            engine.close()
        return loss, values

    first, second = step(labels), step(others)
    loss, values = step(labels, Mixed(others[part], share_of_first[part]))
    assert loss == pytest.approx(0.75 * first[0] + 0.25 * second[0], rel=1e-6)
    np.testing.assert_allclose(values, 0.75 * first[1] + 0.25 * second[1], rtol=0, atol=1e-6)
    assert np.abs(values - first[1]).max() > 1e-4


@pytest.mark.parametrize("largest_node", [None, 1])
def test_more_classes_than_inputs_of_any_layer(largest_node):
    network = Network(num_classes=700, image_size=67, width=1 / 64)
    batches = [images(network, n, seed=n) for n in (16, 5)]
    with Team(1) as team:
        losses, _ = train(World(), team, batches, "hybrid", network=network, largest_node=largest_node)
        expected, _ = train(World(MPI.COMM_SELF), team, batches, "local", network=network)
    assert losses == pytest.approx(expected, rel=1e-4)


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
def test_what_is_filled_is_what_comes_back(strategy, largest_node):
    world = World()
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 4, AdamW(), largest_node=largest_node), world, team, strategy)
        size = engine.parameters.size

        def write(values, state):
            values[:] = np.arange(size) % 1013
            state["exp_avg"][:] = np.arange(size) % 1019
            state["exp_avg_sq"][:] = 7

        engine.fill(write)
        values, state = engine.whole()
        assert (values is None) == (world.rank != 0) == (state == {})
        if world.rank == 0:
            expected = np.zeros(size, np.float32), {name: np.zeros(size, np.float32) for name in state}
            write(*expected)
            assert np.array_equal(values, expected[0])
            assert all(np.array_equal(state[name], array) for name, array in expected[1].items())
        engine.close()


@pytest.mark.parametrize("strategy", ["allreduce", "hybrid"])
def test_a_mistake_in_filling_is_all_ranks(strategy):
    def write(values, state):
        raise UserError("no such file")

    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 4, SGD()), World(), team, strategy)
        with pytest.raises(SharedError, match="no such file"):
            engine.fill(write)
        engine.close()


def test_time_is_accounted_for_by_phase():
    world = World()
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 4, SGD()), world, team)
        engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
        x, labels = images(SMALL, 4)
        engine.step(Batch(x, labels, np.arange(4)), 4 * world.size, 0, 0.01)
        seconds = engine.watch.take()
        assert set(seconds) == {"data", "forward", "backward", "wait", "update"}
        assert all(seconds[phase] > 0 for phase in ("forward", "backward", "wait", "update"))
        assert not any(engine.watch.take().values())


def test_waiting_between_steps_is_not_the_next_steps():
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, 4, SGD()), World(), team, "hybrid")
        engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
        x, labels = images(SMALL, 4)
        for index in range(2):
            engine.strategy.node._waited += 1000.0  # as in a validation
            engine.step(Batch(x, labels, np.arange(4)), 4 * World().size, index, 0.01)
            assert all(0 <= seconds < 500 for seconds in engine.watch.take().values())
        engine.close()
