"""Frozen layers stay as they are to the bit; the others are trained as if they were the only ones, on any number of ranks."""

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI
from small import SMALL, images

from alexnet_dist.comm.strategy import NotPossible
from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import LARS, SGD
from alexnet_dist.training.optim_wrappers import AVERAGE, Averaged, Clipped
from alexnet_dist.training.strategies import STRATEGIES, Demand

pytestmark = pytest.mark.mpi

FEATURES, ALL_BUT_LAST = 5, 7
TABLE = layer_table(SMALL)
WAYS = [("allreduce", None), *((name, largest) for name in ("sharded", "hybrid") for largest in (None, 1, 2))]


def train(world, team, strategy="allreduce", network=SMALL, steps=3, from_features=False, lr=0.01, **spec):
    """Losses, all parameters at first and at last, and the optimizer's state, on all ranks."""
    spec = StepSpec(**{"network": network, "batch": 16, "optimizer": SGD(), "seed": 5, **spec})
    engine = Engine(spec, world, team, strategy)
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
    first, losses = collect(engine, world)[0], []
    for index in range(steps):
        x, labels = images(network, 13, seed=index)
        mine = share(13, world.rank, world.size)
        part = slice(mine.start, mine.stop)
        x = x[part]
        if from_features:
            x = engine.net.forward_frozen(x).copy()
        losses.append(engine.step(Batch(x, labels[part], np.arange(13)[part]), 13, index, lr).loss)
    last, state = collect(engine, world)
    engine.close()
    return np.array(losses), first, last, state


def collect(engine, world):
    values, state = engine.whole()
    arrays = {"": values, **state}
    everything = {}
    for name in ("", *engine.state):
        array = np.empty(engine.parameters.size, np.float32) if values is None else arrays[name].copy()
        world.broadcast_(array)
        everything[name] = array
    return everything.pop(""), everything


@pytest.mark.parametrize("frozen", [2, FEATURES])
@pytest.mark.parametrize(("strategy", "largest_node"), WAYS)
@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [(SGD(), 0.01), (Averaged(Clipped(SGD(), 1.0), 0.5), 0.01), (LARS(trust_coefficient=0.05), 0.01)],
    ids=["sgd", "averaged", "lars"],
)
def test_frozen_layers_keep_their_bits_and_all_ranks_train_the_others_alike(
    strategy, largest_node, frozen, optimizer, lr
):
    alone = World(MPI.COMM_SELF)
    with Team(2) as team:
        ours = train(World(), team, strategy, frozen=frozen, optimizer=optimizer, lr=lr, largest_node=largest_node)
        expected = train(alone, team, "local", frozen=frozen, optimizer=optimizer, lr=lr)
    start = TABLE.first_trained(frozen)
    assert 0 < start < TABLE.parameters.size
    for losses, first, last, state in (ours, expected):
        assert np.array_equal(first[:start], last[:start])
        assert all((first[lo:hi] != last[lo:hi]).any() for lo, hi in TABLE.parameters.ranges.values() if lo >= start)
        assert losses == pytest.approx(expected[0], rel=1e-4)
        assert np.abs(last - expected[2]).max() < 1e-5 * np.abs(expected[2]).max()
        assert set(state) == set(optimizer.state)
        if AVERAGE in state:
            assert np.abs(state[AVERAGE] - expected[3][AVERAGE])[start:].max() < 1e-5


@pytest.mark.parametrize("frozen", [2, FEATURES, ALL_BUT_LAST])
def test_one_step_updates_the_others_as_if_nothing_was_frozen(frozen):
    network = dataclasses.replace(SMALL, dropout=0.0)  # frozen layers drop nothing
    alone, start = World(MPI.COMM_SELF), TABLE.first_trained(frozen)
    with Team(2) as team:
        _, _, last, _ = train(alone, team, "local", network, steps=1, frozen=frozen)
        _, _, expected, _ = train(alone, team, "local", network, steps=1)
    assert np.array_equal(last[start:], expected[start:])
    assert not np.array_equal(last[:start], expected[:start])


@pytest.mark.parametrize(
    ("strategy", "largest_node", "frozen"),
    [
        ("allreduce", None, FEATURES),
        ("allreduce", None, ALL_BUT_LAST),
        ("sharded", 1, FEATURES),
        ("sharded", 1, ALL_BUT_LAST),
        ("hybrid", 1, FEATURES),  # which trains all fully connected layers or none
    ],
)
def test_features_that_were_kept_are_as_good_as_images(strategy, largest_node, frozen):
    with Team(2) as team:
        ours, expected = (
            train(World(), team, strategy, frozen=frozen, largest_node=largest_node, from_features=kept)
            for kept in (True, False)
        )
    assert np.array_equal(ours[0], expected[0])
    assert np.array_equal(ours[2], expected[2])


def test_the_last_layer_has_a_rate_of_its_own():
    alone = World(MPI.COMM_SELF)
    with Team(1) as team:
        _, first, last, _ = train(alone, team, "local", steps=1, optimizer=SGD(weight_decay=0.0))
        _, _, ten_times, _ = train(alone, team, "local", steps=1, optimizer=SGD(weight_decay=0.0), head_lr_factor=10.0)
    head = TABLE.first_trained(ALL_BUT_LAST)
    assert np.array_equal(ten_times[:head], last[:head])
    np.testing.assert_allclose((ten_times - first)[head:], 10 * (last - first)[head:], rtol=1e-3, atol=1e-7)


def test_hybrid_says_that_it_can_t_train_a_part_of_the_fully_connected_layers():
    with Team(1) as team, pytest.raises(NotPossible, match="of the fully connected layers, some are frozen"):
        Engine(StepSpec(SMALL, 4, SGD(), frozen=6), World(), team, "hybrid")


def test_what_is_frozen_is_neither_sent_nor_kept():
    def demand(frozen):
        return Demand(Network(), SGD(), 16, (1, 1), 0, frozen=frozen)

    def sent(name, frozen):
        return STRATEGIES[name].sent(demand(frozen))

    size, classifier, head = 61_100_840, 58_631_144, 4_097_000
    assert sent("sharded", 0) == 4 * size
    assert sent("sharded", FEATURES) == 4 * classifier
    assert sent("sharded", ALL_BUT_LAST) == 4 * head
    # Neither the convolutions' gradients nor those of the features: 9216 floats of half of 32 images.
    assert sent("hybrid", 0) - sent("hybrid", FEATURES) == 4 * (size - classifier) + 4 * 16 * 9216
    memory = STRATEGIES["allreduce"].memory_of_a_rank
    assert memory(demand(0)) - memory(demand(ALL_BUT_LAST)) == 2 * 4 * (size - head)
    shared = STRATEGIES["sharded"].shared_memory_of_a_node
    assert shared(demand(0)) - shared(demand(ALL_BUT_LAST)) == 2 * 4 * (size - head)
