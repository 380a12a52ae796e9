"""Optimizers through every strategy: from known gradients, the parameters are those of the float64 formula.

The gradients are whole numbers divided by 1024, so that their sums over ranks are exact and only the optimizer rounds.
"""

from functools import cache

import numpy as np
import pytest
from mpi4py import MPI
from optimizers64 import REFERENCES
from vgg import VggLike

from alexnet_dist.comm.hybrid import owned_ranges
from alexnet_dist.comm.node import Node
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


def handed_over(name, strategy, world):
    """(lo, hi, ranks): the ranges whose gradient this rank hands over, as the sum over the images of these ranks."""
    ranges = reversed(list(PARAMETERS.ranges.values()))
    if name != "hybrid":
        return [(lo, hi, (world.rank,)) for lo, hi in ranges]
    mine = [(lo, hi, (world.rank,)) for lo, hi in ranges if hi <= START]
    node = strategy.node
    if node.rank == 0:  # the classifier's are computed once, by the node that owns them; here by its first rank
        owned = owned_ranges(strategy._options, node.sizes, node.number)
        mine = [(lo, hi, tuple(range(world.size))) for lo, hi in owned] + mine
    return mine


def train(opt, name, largest_node, world, team):
    """The parameters after STEPS, on all ranks."""
    updater = Updater(OPTIMIZERS[opt](), PARAMETERS)
    options = StrategyOptions(PARAMETERS.size, START, updater, team, TABLE.classifier_matrices, bucket=700)
    entry = STRATEGIES[name]
    strategy = entry.open(Node(world, largest_node) if entry.shares_memory else world, options)
    updater.bind(strategy.values, strategy.state)
    start = None
    if world.rank == 0:
        start = strategy.blank(strategy.values)
        initialize(PARAMETERS, start, "he", seed=1)
    strategy.distribute_(strategy.values, start)
    for step in range(STEPS):
        updater.begin(LR, step)
        for lo, hi, ranks in handed_over(name, strategy, world):
            with strategy.block(lo, hi, Workspace()) as block:
                block[...] = gradient(step, ranks)[lo:hi]
            strategy.poll()
        strategy.finish()
    replicated = strategy.values[: START if name == "hybrid" else None].copy()
    values = strategy.whole(strategy.values)
    values = np.empty(PARAMETERS.size, np.float32) if values is None else values.copy()
    world.broadcast_(values)
    assert np.array_equal(replicated, values[: len(replicated)]), "replicas have parted"
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


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_threads_do_not_change_the_bits(opt):
    results = []
    for threads in (1, 2, 5):
        with Team(threads) as team:
            results.append(train(opt, "local", None, World(MPI.COMM_SELF), team))
    assert all(np.array_equal(results[0], other) for other in results[1:])
