"""The pass that computes the features of frozen layers once: it can be watched and stopped, and needs no shared memory."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI
from PIL import Image
from small import SMALL

from alexnet_dist.comm.node import NoSharedMemory
from alexnet_dist.comm.world import World
from alexnet_dist.data.decoded import EvaluationPixels
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.loader import Interrupted
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import SharedError
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs.log import log
from alexnet_dist.support.activity import ACTIVITY
from alexnet_dist.support.threads import Team
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.frozen_features import keep_features
from alexnet_dist.training.optim import SGD

BLOCKS, BATCH = 5, 2


@pytest.fixture
def run(tmp_path):
    """What keep_features wants to know of a run, on one rank."""
    for number in range(BLOCKS * BATCH):
        Image.new("RGB", (70, 70), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "images.list").write_text("".join(f"0 {number}.png\n" for number in range(BLOCKS * BATCH)))
    images = read_image_list(tmp_path / "images.list")
    world, config = World(MPI.COMM_SELF), TrainingConfig(crop="none", flip=False)
    with Team(1) as team:
        engine = Engine(StepSpec(SMALL, BATCH, SGD(), frozen=2), world, team, "local")
        engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=1))
        sources, told = SimpleNamespace(train=images, val=images), []
        report = SimpleNamespace(told=told, between_steps=lambda *what: told.append(what))
        yield SimpleNamespace(engine=engine, world=world, config=config, nodes=[1], sources=sources, report=report)
        engine.close()


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(log, "info", lambda text, *values: lines.append(text % values))
    return lines


def test_the_watchdog_sees_every_block(run, monkeypatch):
    """Also where the whole takes longer than it waits."""
    moves, load = [], EvaluationPixels.load

    def noted(self, image, out):
        moves.append(ACTIVITY.moves)
        load(self, image, out)

    monkeypatch.setattr(EvaluationPixels, "load", noted)
    kept = keep_features(run, 1, Patience())
    assert len(set(moves)) >= BLOCKS
    assert ACTIVITY.phase == "features of frozen layers"
    np.testing.assert_array_equal(kept.train.values, kept.val.values)
    assert kept.train.values.any(axis=(1, 2, 3)).all()
    kept.node.close()


def test_it_is_told_how_far_it_has_come(run):
    keep_features(run, 1, Patience()).node.close()
    lists = ("features of training images:", "features of validation images:")
    assert run.report.told == [
        (what, BATCH * block, BLOCKS * BATCH) for what in lists for block in range(1, BLOCKS + 1)
    ]


def test_a_signal_ends_the_pass(run):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > BLOCKS

    with pytest.raises(Interrupted):
        keep_features(run, 1, Patience(stop=stop))
    assert ACTIVITY.phase == "features of frozen layers"


def test_storage_that_fails_ends_the_pass_on_all_ranks(run, monkeypatch):
    def fail(self, image, out):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(EvaluationPixels, "load", fail)
    with pytest.raises(SharedError, match="can't be read: Input/output error") as caught:
        keep_features(run, 1, Patience())
    assert caught.value.exit_code == 75


def test_without_shared_memory_features_are_computed_anew(run, said, monkeypatch):
    def refuse(world, largest):
        raise NoSharedMemory("the MPI library can't share 1 MB")

    monkeypatch.setattr("alexnet_dist.comm.node.Node", refuse)
    assert keep_features(run, 1, Patience()) is None
    assert said[-1] == "frozen layers compute their features anew in each epoch: the MPI library can't share 1 MB"
    run.config = replace(run.config, deterministic=True)  # and then in other groups, so not to the bit
    with pytest.raises(
        SharedError, match=r"--deterministic needs .* kept, .* the MPI library can't share 1 MB: leave it out"
    ):
        keep_features(run, 1, Patience())
