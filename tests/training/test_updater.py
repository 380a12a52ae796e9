"""Optimizers through every strategy: from known gradients, the parameters are those of the float64 formula.

The gradients are whole numbers divided by 1024, so that their sums over ranks, and over the parts of a step, are exact and
only the optimizer rounds.
"""

from functools import cache

import numpy as np
import pytest
from mpi4py import MPI
from optimizers64 import LARS64, REFERENCES, SGD64, AdamW64, Whole64
from vgg import VggLike

from alexnet_dist.comm.hybrid import owned_ranges
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.parts import Parts
from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.comm.world import World
from alexnet_dist.model.architecture import layer_table
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.optim import LARS, OPTIMIZERS, SGD, AdamW
from alexnet_dist.training.optim_wrappers import AVERAGE, Averaged, Clipped
from alexnet_dist.training.strategies import STRATEGIES
from alexnet_dist.training.updater import Updater

pytestmark = pytest.mark.mpi

STEPS, LR = 20, 0.02
TABLE = layer_table(VggLike())
PARAMETERS, START = TABLE.parameters, TABLE.classifier_start
WAYS = [("local", None), ("allreduce", None), *((name, n) for name in ("sharded", "hybrid") for n in (None, 1, 2))]

CLIP, DECAY = 0.3 * np.sqrt(PARAMETERS.size), 0.9  # some steps' gradients are shorter, some longer
# What is asked for, and the same in float64: an optimizer, the norm it is clipped to, the decay of the average.
CASES = {
    **{opt: (OPTIMIZERS[opt](), lambda opt=opt: (REFERENCES[opt](),)) for opt in OPTIMIZERS},
    "nesterov": (SGD(nesterov=True), lambda: (SGD64(nesterov=True),)),
    "biases of sgd": (SGD(weight_decay=0.1, bias_weight_decay=0.0), lambda: (SGD64(0.9, 0.1, 0.0),)),
    "biases of adamw": (
        AdamW(weight_decay=0.1, bias_weight_decay=0.5),
        lambda: (AdamW64(weight_decay=0.1, bias_weight_decay=0.5),),
    ),
    "clipped": (Clipped(SGD(), CLIP), lambda: (SGD64(), CLIP)),
    "averaged": (Averaged(SGD(), DECAY), lambda: (SGD64(), np.inf, DECAY)),
    "both": (Averaged(Clipped(LARS(), CLIP), DECAY), lambda: (LARS64(), CLIP, DECAY)),
}


@cache
def gradient(step, ranks, parts):
    """The sum of the gradients of these ranks' parts; in every other step an eighth as large."""
    keys = [[step, rank, part] for rank in ranks for part in parts]
    drawn = [np.random.default_rng(key).integers(-999, 1000, PARAMETERS.size) for key in keys]
    return (sum(drawn) / (1024 << 3 * (step % 2))).astype(np.float32)


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


def train(optimizer, way, world, team, parts=1):
    """The parameters after STEPS, and their average if there is one, on all ranks."""
    (name, largest_node), updater = way, Updater(optimizer, PARAMETERS)
    options = StrategyOptions(
        PARAMETERS.size, START, updater, team, TABLE.classifier_matrices, bucket=700, parts=Parts(parts)
    )
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
        for part in range(parts):
            options.parts.begin(part)
            for lo, hi, ranks in handed_over(name, strategy, world):
                with strategy.block(lo, hi, Workspace()) as block:
                    block[...] = gradient(step, ranks, (part,))[lo:hi]
                strategy.poll()
        strategy.finish()
    replicated = strategy.values[: START if name == "hybrid" else None].copy()
    results = [of_all(strategy, strategy.values, world)]
    assert np.array_equal(replicated, results[0][: len(replicated)]), "replicas have parted"
    if AVERAGE in strategy.state:
        results.append(of_all(strategy, strategy.state[AVERAGE], world))
        strategy.swap_(strategy.values, strategy.state[AVERAGE])
        swapped = [of_all(strategy, array, world) for array in (strategy.state[AVERAGE], strategy.values)]
        assert np.array_equal(swapped, results)
    strategy.close()
    return results


def of_all(strategy, array, world):
    """A copy of the whole array, on all ranks."""
    whole = strategy.whole(array)
    whole = np.empty(PARAMETERS.size, np.float32) if whole is None else whole.copy()
    world.broadcast_(whole)
    return whole


@cache
def expected(case, ranks, parts):
    """The same in float64."""
    reference, *around = CASES[case][1]()
    whole = Whole64(reference, PARAMETERS, *around)
    flat = np.zeros(PARAMETERS.size, np.float32)
    initialize(PARAMETERS, flat, "he", seed=1)
    values = flat.astype(np.float64)
    for step in range(STEPS):
        whole.step(values, gradient(step, ranks, parts).astype(np.float64), LR)
    if np.isfinite(whole.max_norm):
        assert 0 < sum(whole.clipped) < STEPS  # so that a clipping which does nothing, or too much, can't pass
    assert np.abs(values - flat).max() > 1e-3 * np.abs(values).max()  # nor an update which does nothing
    return [values, whole.average]


SIZES = [
    *((case, 1, threads) for case in OPTIMIZERS for threads in (1, 3)),
    *((case, 1, 2) for case in CASES if case not in OPTIMIZERS),
    *((case, 3, 2) for case in ("sgd", "lars", "averaged", "both")),
]


@pytest.mark.parametrize(("case", "parts", "threads"), SIZES)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_parameters_are_the_formulas(case, parts, threads, way):
    world = World(MPI.COMM_SELF) if way[0] == "local" else World()
    with Team(threads) as team:
        results = train(CASES[case][0], way, world, team, parts)
    references = expected(case, tuple(range(world.size)), tuple(range(parts)))
    for ours, theirs in zip(results, references, strict=False):
        assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("case", [*OPTIMIZERS, "both"])
@pytest.mark.parametrize("parts", [1, 3])
def test_threads_do_not_change_the_bits(case, parts):
    results = []
    for threads in (1, 2, 5):
        with Team(threads) as team:
            results.append(train(CASES[case][0], WAYS[0], World(MPI.COMM_SELF), team, parts))
    assert all(np.array_equal(results[0], other) for other in results[1:])
