"""What ranks that are left agree to go on from. Whole runs are in tests/faults/test_losses.py."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.support.processes import Process
from alexnet_dist.training import elastic
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.setup import Memory

BEFORE = [Process("host", "place", pid, "1") for pid in (1, 2, 3)]
PROGRESS = Progress(epoch=1, step_in_epoch=2, step=12, sums=Sums(1.0, 1.0, 1.0, 8.0))


class Left(Ranks):
    """The first of two ranks; the other says `texts`."""

    size = 2

    def __init__(self, *texts):
        self.texts = texts

    def all_texts(self, texts):
        return [*texts, *self.texts]


@pytest.fixture(autouse=True)
def one_is_lost(monkeypatch):
    monkeypatch.setattr("alexnet_dist.comm.elastic.regroup", lambda world, before, least: before[:2])


def memory():
    return Memory(None, PROGRESS, np.zeros(1), {}, "")


@pytest.mark.parametrize(
    "other",
    [
        replace(PROGRESS, sums=PROGRESS.sums.plus(Sums(1.0, 0.0, 1.0, 8.0))),  # it has counted the step's images
        replace(PROGRESS, epoch=2, step_in_epoch=0, sums=Sums()),  # it has ended the epoch
        replace(PROGRESS, sums=Sums()),
    ],
)
def test_they_go_on_from_who_knows_most(other):
    left, found = elastic._go_on(Left(json.dumps(asdict(other))), BEFORE, memory(), least=1)
    assert left == BEFORE[:2]
    assert found.progress == (PROGRESS if other.sums.images == 0 and other.epoch == 1 else other)
    assert found.said == "lost rank 2 (process 3 on host): 2 ranks go on after step 12"


def test_where_one_had_not_begun_all_begin(capsys):
    assert elastic._go_on(Left(), BEFORE, memory(), least=1) == (BEFORE[:2], None)
    assert elastic._go_on(Left(json.dumps(asdict(PROGRESS))), BEFORE, None, least=1) == (BEFORE[:2], None)
