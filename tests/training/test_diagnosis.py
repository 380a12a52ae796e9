"""When a run is said not to learn, and what it is told to do: from figures given, without a network."""

import math
import re

import numpy as np
import pytest

from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.diagnosis import FIRST, STUCK_AFTER, WINDOW, Diagnosis, Guessing
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.symptoms import Reading

TEN = Guessing.of(np.arange(50) % 10, 10, 0.0)


class FakeProbe:
    """Gives the readings that it is told to."""

    def __init__(self, dead=0.2, update=0.003):
        self.dead, self.update = dead, update
        self.looked = self.forgotten = 0

    def before_step(self):
        self.looked += 1

    def after_step(self):
        return Reading({"Conv2d-1": 0.0, "Linear-16": self.dead}, {"Conv2d-1": 1e-9, "Linear-21": self.update})

    def forget(self):
        self.forgotten += 1

    def first_not_finite(self):
        return "Conv2d-4"


class Watched:
    """A diagnosis, and what it has said."""

    def __init__(self, probe=None, guessing=TEN, **config):
        self.said = []
        self.probe = probe or FakeProbe()
        self.diagnosis = Diagnosis(TrainingConfig(**config), self.probe, guessing, self.say)

    def say(self, kind, progress, text):
        self.said.append((kind, text))

    def run(self, epochs, steps, loss=2.3, top1=0.1, images=100):
        """So many epochs of steps, each with the same loss and accuracy; returns what was said, as (kind, text)."""
        for epoch in range(epochs):
            sums = Sums()
            for step in range(steps):
                self.diagnosis.before_step(epoch * steps + step, steps)
                sums = sums.plus(Sums(loss * images, top1 * images, 0.0, images))
                self.diagnosis.after_step(Progress(epoch, step + 1, epoch * steps + step + 1, sums))
            self.diagnosis.after_epoch(Progress(epoch, steps, (epoch + 1) * steps, sums))
        return self.said


def test_a_healthy_run_hears_nothing():
    assert Watched().run(20, 100, loss=1.9, top1=0.62) == []


def test_guessing_is_said_once():
    ((kind, text),) = Watched().run(20, 100)
    assert kind == "guessing"
    assert "after 300 steps" in text
    assert re.search(r"2\.3000, and top-1, 10\.00%", text)
    assert "2.3026 and 10.00%" in text


def test_a_run_that_is_right_in_62_percent_is_learning_whatever_its_loss():
    assert Watched().run(20, 100, loss=2.5, top1=0.62) == []


@pytest.mark.parametrize(("epochs", "steps"), [(90, 3), (2, 900)])
def test_a_beginning_is_given_time(epochs, steps):
    assert Watched().run(epochs, steps) == []


def test_so_is_a_warmup():
    assert Watched(lr_warmup_epochs=5).run(7, 100) == []
    assert len(Watched(lr_warmup_epochs=5).run(8, 100)) == 1


def test_a_long_epoch_is_not_waited_for():
    ((_, text),) = Watched().run(1, STUCK_AFTER + 5)
    assert f"after {STUCK_AFTER} steps" in text


def test_guessing_is_the_entropy_of_the_classes():
    assert TEN.loss == pytest.approx(math.log(10))
    assert TEN.top1 == pytest.approx(0.1)
    uneven = Guessing.of(np.array([0, 0, 0, 1]), 3, 0.0)  # nothing of the third class
    assert uneven.loss == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert uneven.top1 == 0.75
    smoothed = Guessing.of(np.array([0, 0, 0, 1]), 2, 0.2)
    assert smoothed.loss == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))


def test_uneven_classes_are_not_learned_by_knowing_which_is_frequent():
    """The loss is far below ln(2), and top-1 is 75 %."""
    guessing = Guessing.of(np.array([0, 0, 0, 1]), 2, 0.0)
    assert len(Watched(guessing=guessing).run(3, 100, loss=0.5623, top1=0.75)) == 1
    assert Watched(guessing=guessing).run(3, 100, loss=0.5, top1=0.75) == []


def looked_at(epochs, steps):
    watched, seen = Watched(), []
    for step in range(epochs * steps):
        before = watched.probe.looked
        watched.diagnosis.before_step(step, steps)
        seen += [step] * (watched.probe.looked - before)
    return seen


def test_few_steps_are_looked_at():
    assert looked_at(2, 1000) == [*FIRST, *range(249, 2000, 250)]
    assert looked_at(50, 3) == [*FIRST, *range(19, 150, 20)]


def test_a_dead_layer_is_said_at_once_and_once():
    ((kind, text),) = Watched(FakeProbe(dead=1.0)).run(1, 100)
    assert kind == "dead"
    assert "in step 1: Linear-16." in text


def test_a_dying_layer_is_judged_by_several_batches():
    assert Watched(FakeProbe(dead=0.95)).run(1, 10) == []
    watched = Watched(FakeProbe(dead=0.95), lr=0.25)
    ((kind, text),) = watched.run(5, 100, loss=1.0, top1=0.5)
    assert kind == "dying"
    assert f"in {WINDOW} batches: 95% of Linear-16." in text
    assert "lower --lr (now 0.25)" in text
    assert watched.probe.forgotten == watched.probe.looked // WINDOW > 1


def test_large_updates_are_said_once():
    ((kind, text),) = Watched(FakeProbe(update=1.5), lr=3.0).run(2, 100, loss=1.0, top1=0.5)
    assert kind == "update"
    assert "step 1 has changed the weights of Linear-21 by 1.5 of their norm" in text
    assert "lower --lr (now 3) or warm up" in text


REMEDIES = [  # the largest update, the share of dead units, flags, words of the remedy, words that would be wrong
    (
        0.003,
        0.1,
        {},
        ["labels", "other learning rates (--lr, now 0.01)"],
        ["--init", "raise", "ower --lr", "--dropout"],
    ),
    (0.003, 0.1, {"init": "torchvision"}, ["--init he (now torchvision)"], ["raise"]),
    (0.003, 0.1, {"init": "paper", "load_pretrained": "w.st"}, ["without --load-pretrained (w.st)"], ["--init"]),
    (0.1, 0.1, {}, ["Lower --lr (now 0.01) or warm up (--lr-warmup-epochs)", "10.0%"], ["raise", "other learning"]),
    (0.1, 0.1, {"lr_warmup_epochs": 1.0}, ["Lower --lr (now 0.01):"], ["warm up"]),
    (1e-8, 0.1, {"lr": 1e-7}, ["Raise --lr (now 1e-07)", "1.0e-08"], ["ower --lr", "other learning", "warm up"]),
    (0.003, 1.0, {}, ["Begin again, and lower --lr (now 0.01)", "Linear-16 died"], ["labels", "raise", "--init"]),
    (0.003, 0.1, {"width": 0.125}, ["lower --dropout (now 0.5)", "--width 0.125"], []),
    (0.003, 0.1, {"width": 0.125, "dropout": 0.0}, [], ["--dropout"]),
]


@pytest.mark.parametrize(("update", "dead", "flags", "words", "wrong"), REMEDIES)
def test_the_remedy_for_guessing_fits(update, dead, flags, words, wrong):
    said = dict(Watched(FakeProbe(dead, update), **flags).run(5, 100))
    for word in words:
        assert word in said["guessing"]
    for word in wrong:
        assert word not in said["guessing"]


@pytest.mark.parametrize(
    ("step", "flags", "words", "wrong"),
    [
        (7, {}, ["Lower --lr (now 0.01) or warm up", "--on-nan restore", "checkpoints"], ["No step"]),
        (7, {"on_nan": "restore"}, ["Lower --lr"], ["--on-nan"]),
        (0, {}, ["No step has been made yet", "images of images.list"], ["ower --lr", "checkpoints"]),
        (0, {"load_pretrained": "w.st"}, ["weights in w.st"], ["ower --lr"]),
    ],
)
def test_the_remedy_for_divergence_fits(step, flags, words, wrong):
    layer, remedy = Watched(**flags).diagnosis.divergence(Progress(step=step))
    assert layer == "Conv2d-4"
    for word in words:
        assert word in remedy
    for word in wrong:
        assert word not in remedy


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "are they all alike?"),
        ({"init": "paper"}, "begin with --init he (now paper)"),
        ({"load_pretrained": "w.st"}, "without --load-pretrained (w.st)"),
    ],
)
def test_layers_that_are_dead_from_the_start_are_not_for_the_learning_rate(flags, words):
    ((_, text),) = Watched(FakeProbe(dead=1.0), **flags).run(1, 1)
    assert words in text
    assert "--lr" not in text
