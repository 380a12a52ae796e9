"""What a probe measures is the same with every strategy and any number of ranks, and what plain NumPy finds."""

import numpy as np
import pytest
from mpi4py import MPI
from small import SMALL, images

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.symptoms import Probe

pytestmark = pytest.mark.mpi

N = 6
WAYS = [("allreduce", None), *((name, largest) for name in ("sharded", "hybrid") for largest in (None, 1))]
RELUS = ["Conv2d-1", "Conv2d-4", "Conv2d-7", "Conv2d-9", "Conv2d-11", "Linear-16", "Linear-19"]
KEYS = [f"features.{index}" for index in (0, 3, 6, 8, 10)] + [f"classifier.{index}" for index in (1, 4)]


class Run:
    """An engine whose parameters `change` has changed, and its probe; each rank has its share of the images."""

    def __init__(self, team, strategy, largest=None, change=lambda views: None, world=None):
        self.world = world or World()
        self.engine = Engine(StepSpec(SMALL, N, SGD(), seed=5, largest_node=largest), self.world, team, strategy)

        def write(values, state):
            initialize(self.engine.parameters, values, "he", seed=1)
            change(self.engine.parameters.views(values))

        self.engine.fill(write)
        self.probe = Probe(self.engine.net, self.engine.values, self.world)

    def step(self, seed, n=N):
        x, labels = images(SMALL, n, seed)
        mine = share(n, self.world.rank, self.world.size)
        part = slice(mine.start, mine.stop)
        self.probe.before_step()
        with np.errstate(all="ignore"):
            self.engine.step(Batch(x[part], labels[part], np.arange(n)[part]), n, seed, 0.01)
        return self.probe.after_step()


def bury(keys, units=slice(None)):
    """Biases so low that these units never rise above 0."""

    def change(views):
        for key in keys:
            views[f"{key}.bias"][units] = -1e4

    return change


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
def test_dead_layers_are_named(strategy, largest):
    with Team(2) as team:
        run = Run(team, strategy, largest, bury(["features.6"]))
        dead = run.step(0).dead
        assert list(dead) == RELUS
        assert [name for name, share in dead.items() if share == 1] == RELUS[2:]  # the other biases are 0
        run.engine.close()


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
@pytest.mark.parametrize(("key", "name"), list(zip(KEYS, RELUS, strict=True)))
def test_the_share_of_dead_units(strategy, largest, key, name):
    """The first half of one layer's units is dead; in the second none would be, over several steps."""

    def change(views):
        views[f"{key}.bias"][:] = 1e4
        half = len(views[f"{key}.bias"]) // 2
        bury([key], slice(half))(views)

    with Team(1) as team:
        run = Run(team, strategy, largest, change)
        units = len(run.engine.parameters.views(run.engine.values.copy())[f"{key}.bias"])
        assert run.step(0, n=1).dead[name] == pytest.approx((units // 2) / units)  # ranks without an image, too
        run.engine.close()


def test_a_unit_is_alive_that_was_above_0_for_any_image_of_any_step():
    with Team(1) as team:
        run = Run(team, "local", world=World(MPI.COMM_SELF))
        block = run.engine.net.classifier.blocks[0]
        alive = np.zeros(len(block.parameters.b), bool)
        for seed in range(3):
            dead = run.step(seed).dead["Linear-16"]
            alive |= (block.y[:N] > 0).any(axis=0)
            assert dead == pytest.approx(1 - alive.mean())
        run.probe.forget()
        dead = run.step(3).dead["Linear-16"]
        assert dead == pytest.approx(1 - (block.y[:N] > 0).any(axis=0).mean())
        assert 0 < dead < 1


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
def test_updates_are_those_of_all_weights(strategy, largest):
    """The sample's norms are near those of the whole layer. Of what a node doesn't own, its memory may hold anything."""
    with Team(1) as team:
        run, alone = Run(team, strategy, largest), Run(team, "local", world=World(MPI.COMM_SELF))
        measured = run.step(0).updates
        before = alone.engine.values.copy()
        expected = alone.step(0).updates
        for name, key in zip([*RELUS, "Linear-21"], [*KEYS, "classifier.6"], strict=True):
            lo, hi = alone.engine.parameters.ranges[f"{key}.weight"]
            change = np.linalg.norm(alone.engine.values[lo:hi] - before[lo:hi])
            whole = change / np.linalg.norm(before[lo:hi])
            assert expected[name] == pytest.approx(whole, rel=0.3), name
            assert measured[name] == pytest.approx(expected[name], rel=0.01), name
        run.engine.close()


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
@pytest.mark.parametrize(("key", "name"), [*zip(KEYS, RELUS, strict=True), ("classifier.6", "Linear-21")])
def test_the_first_layer_that_is_not_finite_is_named(strategy, largest, key, name):
    def change(views):
        views[f"{key}.bias"][-1] = np.nan

    with Team(1) as team:
        run = Run(team, strategy, largest, change)
        run.step(0)
        assert run.probe.first_not_finite() == name
        run.engine.close()


def test_nothing_is_named_where_all_is_finite():
    with Team(1) as team:
        run = Run(team, "hybrid")
        run.step(0)
        assert run.probe.first_not_finite() == ""
        run.engine.close()
