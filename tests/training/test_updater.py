"""Optimizers through every strategy: from known gradients, the parameters are those of the float64 formula.

The gradients are whole numbers divided by 1024, so that their sums over ranks are exact and only the optimizer rounds.
"""

from functools import cache

import numpy as np
import pytest
from mpi4py import MPI
from optimizers64 import REFERENCES
from vgg import VggLike

from alexnet_dist.comm.node import open_node
from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.comm.world import World
from alexnet_dist.model.architecture import layer_table
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.optim import OPTIMIZERS
from alexnet_dist.training.strategies import STRATEGIES
from alexnet_dist.training.updater import Updater

pytestmark = pytest.mark.mpi

STEPS, LR = 20, 0.02
TABLE = layer_table(VggLike())
PARAMETERS, START = TABLE.parameters, TABLE.classifier_start
WAYS = [("local", None), ("allreduce", None), *((name, n) for name in ("sharded", "hybrid") for n in (None, 1, 2))]


@cache
def gradient(step, ranks):
    """The sum of these ranks' gradients."""
    parts = [np.random.default_rng([step, rank]).integers(-999, 1000, PARAMETERS.size) for rank in ranks]
    return (sum(parts) / 1024).astype(np.float32)


def opened(name, largest_node, world, options):
    """The strategy, and which ranks' images this rank computes the classifier's gradient of."""
    entry = STRATEGIES[name]
    if not entry.shares_memory:
        return entry.open(world, options), (world.rank,)
    node = open_node(world, largest_node)
    ranks = node.shared((node.size,), np.int64)
    ranks[node.rank] = world.rank
    node.barrier()
    # hybrid computes it once for the images of all the node's ranks; here rank 0 of the node does all of that.
    classifier = (tuple(ranks.tolist()) if node.rank == 0 else ()) if name == "hybrid" else (world.rank,)
    return entry.open(node, options), classifier


def train(opt, name, largest_node, world, team):
    """The parameters after STEPS, and whether replicas and nodes have the same bits."""
    updater = Updater(OPTIMIZERS[opt](), PARAMETERS)
    options = StrategyOptions(PARAMETERS.size, START, updater, team, bucket=700)
    strategy, of_classifier = opened(name, largest_node, world, options)
    updater.bind(strategy.values, strategy.state)
    if world.rank == 0:
        initialize(PARAMETERS, strategy.values, "he", seed=1)
    strategy.broadcast_(strategy.values)
    for step in range(STEPS):
        updater.begin(LR, step)
        for lo, hi in reversed(list(PARAMETERS.ranges.values())):
            ranks = of_classifier if lo >= START else (world.rank,)
            if ranks:
                with strategy.block(lo, hi, Workspace()) as block:
                    block[...] = gradient(step, ranks)[lo:hi]
            strategy.poll()
        strategy.finish()
    values = strategy.values.copy()
    strategy.close()
    return values


@cache
def expected(opt, ranks):
    """The same in float64."""
    reference, flat = REFERENCES[opt](), np.zeros(PARAMETERS.size, np.float32)
    initialize(PARAMETERS, flat, "he", seed=1)
    values = flat.astype(np.float64)
    for step in range(STEPS):
        whole = gradient(step, ranks).astype(np.float64)
        for name, (lo, hi) in PARAMETERS.ranges.items():
            values[lo:hi] = reference.step(name, values[lo:hi], whole[lo:hi], LR)
    return values


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize(("name", "largest_node"), WAYS)
@pytest.mark.parametrize("threads", [1, 3])
def test_parameters_are_the_formulas(opt, name, largest_node, threads):
    world = World(MPI.COMM_SELF) if name == "local" else World()
    with Team(threads) as team:
        values = train(opt, name, largest_node, world, team)
    of_all = expected(opt, tuple(range(world.size)))
    start, end = np.zeros(PARAMETERS.size, np.float32), np.abs(of_all).max()
    initialize(PARAMETERS, start, "he", seed=1)
    assert np.abs(values - of_all).max() < 1e-6 * end
    assert np.abs(of_all - start).max() > 1e-3 * end  # so that an update which does nothing can't pass
    mine = values.copy()
    World().broadcast_(values)
    assert np.array_equal(mine, values), "replicas have parted"


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_threads_do_not_change_the_bits(opt):
    results = []
    for threads in (1, 2, 5):
        with Team(threads) as team:
            results.append(train(opt, "local", None, World(MPI.COMM_SELF), team))
    assert all(np.array_equal(results[0], other) for other in results[1:])
