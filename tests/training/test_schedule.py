"""Learning rates at known epochs, and the plateau's decisions."""

import math

import pytest

from alexnet_dist.training.schedule import Plateau, Schedule


def test_warmup_is_linear_from_its_decay_to_the_rate():
    schedule = Schedule("cosine", lr=1.0, epochs=10, warmup_epochs=2, warmup_decay=0.1)
    assert [schedule.rate(epoch, Plateau()) for epoch in (0, 1, 2)] == pytest.approx([0.1, 0.55, 1.0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("step", lr=1.0, epochs=90, step_size=30), {0: 1, 29.9: 1, 30: 0.1, 60: 0.01}),
        # As torchvision's references, whose SequentialLR begins StepLR after the warmup.
        (Schedule("step", lr=1.0, epochs=90, step_size=30, warmup_epochs=5), {5: 1, 34.9: 1, 35: 0.1, 65: 0.01}),
        (Schedule("cosine", lr=1.0, epochs=10), {0: 1, 5: 0.5, 10: 0}),
        (Schedule("cosine", lr=1.0, epochs=10, lr_min=0.2), {5: 0.6, 10: 0.2, 11: 0.2}),
        (Schedule("polynomial", lr=1.0, epochs=10), {0: 1, 2.5: 0.75, 10: 0}),
        (Schedule("polynomial", lr=1.0, epochs=10, power=2), {5: 0.25}),
        (Schedule("polynomial", lr=1.0, epochs=12, warmup_epochs=2), {2: 1, 7: 0.5}),
    ],
)
def test_rates(schedule, expected):
    for epoch, rate in expected.items():
        assert schedule.rate(epoch, Plateau()) == pytest.approx(rate)


def test_plateau_divides_by_ten_three_times_then_stops():
    schedule = Schedule("plateau", lr=0.01, patience=1, reductions=3)
    plateau, rates = Plateau(), []
    for error in [0.9, 0.8] + [0.8] * 8:
        plateau = plateau.observe(error, 1.0, schedule)
        rates.append(schedule.rate(5, plateau))
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 2 + [0.0001] * 2 + [0.00001] * 3)
    assert plateau.finished


def test_an_improvement_starts_the_patience_again():
    schedule = Schedule("plateau", patience=2)
    plateau = Plateau()
    for error in (0.9, 0.9, 0.9, 0.5, 0.6, 0.6):
        plateau = plateau.observe(error, 1.0, schedule)
    assert plateau == Plateau(best=0.5, best_loss=1.0, bad_epochs=2, reductions=0)
    assert plateau.observe(0.5, 1.0, schedule).reductions == 1


def test_other_schedulers_only_remember_the_best():
    schedule = Schedule("cosine", patience=0)
    plateau = Plateau()
    for error in (0.5, 0.6, 0.7, 0.4):
        plateau = plateau.observe(error, 1.0, schedule)
    assert (plateau.best, plateau.reductions, plateau.finished) == (0.4, 0, False)


@pytest.mark.parametrize(
    ("before", "error", "loss", "better"),
    [
        (Plateau(), 1.0, math.inf, True),  # the first
        (Plateau(best=0.5, best_loss=1.0), 0.4, 2.0, True),
        (Plateau(best=0.5, best_loss=1.0), 0.6, 0.1, False),
        (Plateau(best=0.5, best_loss=1.0), 0.5, 0.9, True),
        (Plateau(best=0.5, best_loss=1.0), 0.5, 1.0, False),  # of all equal the first
        (Plateau(best=0.5, best_loss=1.0), 0.5, math.nan, False),
        (Plateau(best=0.5), 0.5, 0.1, False),  # of a state that doesn't say the loss
    ],
)
def test_the_loss_decides_between_equal_errors_and_not_on_the_learning_rate(before, error, loss, better):
    after = before.observe(error, loss, Schedule("plateau"))
    assert after.is_better(before) == better
    assert (after.best, after.best_loss) == ((error, loss) if better else (before.best, before.best_loss))
    assert after.bad_epochs == (0 if error < before.best else 1)
    assert before.observe(error, loss, Schedule("plateau", patience=0)).reductions == (0 if error < before.best else 1)
