"""A step that isn't finite leaves parameters and state as they are, with every strategy, optimizer and number of ranks."""

import math

import numpy as np
import pytest
from mpi4py import MPI
from small import SMALL, images

import alexnet_dist.training.engine
from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.not_finite import SkipNotFinite
from alexnet_dist.training.optim import LARS, SGD, AdamW

pytestmark = pytest.mark.mpi

N, LR = 12, 0.001
WAYS = [("allreduce", None), *((name, largest) for name in ("sharded", "hybrid") for largest in (None, 1))]
STEPS = [images(SMALL, N, seed=seed) for seed in range(4)]


@pytest.fixture(autouse=True)
def quiet():
    """NumPy's warnings of NaN are off, as in the programs."""
    with np.errstate(all="ignore"):
        yield


class Run:
    """An engine and its steps; each rank has its share of the images."""

    def __init__(self, team, optimizer, strategy="allreduce", largest=None, world=None):
        self.world = world or World()
        spec = StepSpec(SMALL, N, optimizer, seed=5, largest_node=largest)
        self.engine = Engine(spec, self.world, team, strategy)
        self.engine.fill(lambda values, _: initialize(self.engine.parameters, values, "he", seed=1))

    def step(self, index, x=None, skipped=0):
        mine = share(N, self.world.rank, self.world.size)
        part = slice(mine.start, mine.stop)
        labels = STEPS[index][1]
        batch = Batch((STEPS[index][0] if x is None else x)[part], labels[part], np.arange(N)[part])
        return self.engine.step(batch, N, index, LR, skipped=skipped)

    def everything(self):
        """Copies of parameters and state, on rank 0."""
        values, state = self.engine.whole()
        return [array.copy() for array in (values, *state.values()) if array is not None]


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert np.array_equal(one, other)


def with_nan(x):
    """One NaN, in the image that the last rank has last."""
    x = x.copy()
    x[-1, 30, 30, 1] = np.nan
    return x


@pytest.mark.parametrize("optimizer", [SGD(), LARS(), AdamW()], ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize(("strategy", "largest"), WAYS)
def test_a_skipped_step_is_as_if_it_had_not_been(strategy, largest, optimizer):
    with Team(2) as team:
        run, other = (Run(team, SkipNotFinite(optimizer), strategy, largest) for _ in range(2))
        run.step(0)
        before = run.everything()
        assert math.isnan(run.step(1, with_nan(STEPS[1][0])).loss)
        assert not math.isfinite(run.engine.gradient_norm)
        assert_same(run.everything(), before)
        for index in (2, 3):
            run.step(index, skipped=1)
            assert math.isfinite(run.engine.gradient_norm)
        other.step(0)
        for index in (2, 3):
            other.step(index, skipped=1)
        assert_same(run.everything(), other.everything())
        assert len(before) == (0 if run.world.rank else 1 + len(optimizer.state))
        run.engine.close()
        other.engine.close()


def test_one_rank_alone_skips_before_it_updates():
    """`local` would else update each block while backward runs."""
    with Team(1) as team:
        run = Run(team, SkipNotFinite(SGD()), "local", world=World(MPI.COMM_SELF))
        run.step(0)
        before = run.everything()
        run.step(1, with_nan(STEPS[1][0]))
        assert_same(run.everything(), before)


@pytest.mark.parametrize("strategy", ["local", "allreduce", "sharded", "hybrid"])
def test_without_anything_to_skip_the_bits_are_the_same(strategy):
    with Team(2) as team:
        world = World(MPI.COMM_SELF) if strategy == "local" else World()
        run, other = (Run(team, optimizer, strategy, world=world) for optimizer in (SkipNotFinite(SGD()), SGD()))
        for index in range(3):
            assert run.step(index).loss == other.step(index).loss
        assert run.engine.gradient_norm > 0 == other.engine.gradient_norm
        assert_same(run.everything(), other.everything())
        run.engine.close()
        other.engine.close()


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
def test_a_gradient_may_overflow_where_the_loss_does_not(strategy, largest):
    with Team(1) as team:
        run = Run(team, SkipNotFinite(SGD()), strategy, largest)

        def write(values, state):
            initialize(run.engine.parameters, values, "he", seed=1)
            views = run.engine.parameters.views(values)
            views["classifier.6.weight"].fill(0)  # so the logits are 0, whatever the features

        run.engine.fill(write)
        before = run.everything()
        sums = run.step(1, STEPS[1][0] * np.float32(1e25))
        assert sums.loss / N == pytest.approx(math.log(SMALL.num_classes))
        assert run.engine.gradient_norm == math.inf
        assert_same(run.everything(), before)
        run.engine.close()


@pytest.mark.parametrize(("strategy", "largest"), WAYS)
def test_an_infinite_loss_of_one_rank_is_skipped_by_all(strategy, largest, monkeypatch):
    """Its gradient may be finite: a logit of -infinity for the right class."""
    with Team(1) as team:
        run = Run(team, SkipNotFinite(SGD()), strategy, largest)
        run.step(0)
        before = run.everything()
        original = alexnet_dist.training.engine.cross_entropy

        def infinite(*args, **options):
            loss = original(*args, **options)
            return math.inf if run.world.rank == run.world.size - 1 else loss

        monkeypatch.setattr(alexnet_dist.training.engine, "cross_entropy", infinite)
        assert run.step(1).loss == math.inf
        assert not math.isfinite(run.engine.gradient_norm)
        assert_same(run.everything(), before)
        run.engine.close()
