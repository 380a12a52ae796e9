"""The model of benchmarks/scaling.py, on timings that follow it exactly."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from scaling_model import Cluster, Line, Link, Sample, fit_line, fit_link, powers_of_two, residuals

SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 26)
GRADIENT = 4 * 61_100_840
STRATEGIES = ("allreduce", "sharded", "hybrid")


@pytest.fixture
def cluster():
    return Cluster(Link.of(1.5, 100), 2, GRADIENT, 1e-10)


def made(link, ranks=(2, 3, 4, 8)):
    return [Sample(p, size, link.allreduce(size, p)) for p in ranks for size in SIZES]


@pytest.mark.parametrize(("alpha", "beta"), [(20e-6, 0.4e-9), (1e-6, 1e-9), (0.0, 1e-9), (1e-4, 0.0)])
def test_alpha_and_beta_are_recovered(alpha, beta):
    samples = made(Link(alpha, beta))
    link = fit_link(samples)
    assert (link.alpha, link.beta) == pytest.approx((alpha, beta), rel=1e-6, abs=1e-15)
    assert residuals(link, samples) == pytest.approx([0] * len(samples), abs=1e-6)


def test_neither_becomes_negative():
    # A time that falls as the message grows: the best straight line would have a negative beta.
    assert fit_link([Sample(2, 1000, 2e-3), Sample(2, 1_000_000, 1e-3)]).beta == 0
    # Twice the bytes in thrice the time: the best would have a negative alpha.
    assert fit_link([Sample(2, 1000, 1e-3), Sample(2, 2000, 3e-3)]).alpha == 0


def test_allreduce_by_hand():
    assert Link(1.0, 0.0).allreduce(1e9, 1024, messages=3) == 30
    assert Link(1.0, 0.0).allreduce(1e9, 5) == 3
    assert Link(0.0, 1.0).allreduce(1000, 4) == 1500
    network = Link.of(1.5, 100)
    assert (network.alpha, network.beta) == pytest.approx((3e-6, 1 / 12.5e9))  # alpha is of two messages


def test_line():
    line = fit_line([(16, 1.16), (128, 2.28), (64, 1.64)])
    assert (line.fixed, line.per_image) == pytest.approx((1, 0.01))
    assert fit_line([(16, 0.32)]) == Line(0, 0.02)
    assert fit_line([(10, 1.0), (20, 3.0)]).fixed == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_node_exchanges_nothing(cluster, strategy):
    alone = cluster.predict(strategy, Line(0.1, 0.01), 1, 32768)
    assert alone.wire == alone.sums == 0
    assert alone.quickest == alone.slowest == pytest.approx(0.1 + 327.68)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_monotone(cluster, strategy):
    steps = [cluster.predict(strategy, Line(0.1, 0.01), nodes, 32768) for nodes in powers_of_two(1024)]
    for fewer, more in pairwise(steps):
        assert more.local < fewer.local
        assert more.wire > fewer.wire
        assert more.sums > fewer.sums
        assert more.speed(hidden=True) > fewer.speed(hidden=True)
    for step in steps:
        assert max(step.local, step.wire) <= step.quickest <= step.slowest
        assert step.minutes(90, hidden=True) <= step.minutes(90, hidden=False)


def test_a_better_network_is_never_slower():
    for strategy in STRATEGIES:
        seconds = [
            Cluster(Link.of(1.5, gigabits), 2, GRADIENT, 1e-10).predict(strategy, Line(0.1, 0.01), 64, 32768).slowest
            for gigabits in (1, 10, 100, 400)
        ]
        assert seconds == sorted(seconds, reverse=True)


def test_strategies_differ_on_the_wire(cluster):
    assert cluster.wire("sharded", 8) == cluster.wire("hybrid", 8)
    assert 1.9 < cluster.wire("allreduce", 8) / cluster.wire("sharded", 8) <= 2
    # A gradient of 244 MB twice, but for an eighth, at 12.5 GB/s, and 15 buckets of 3 rounds of 3 microseconds.
    assert cluster.wire("sharded", 8) == pytest.approx(2 * 7 / 8 * GRADIENT / 12.5e9 + 15 * 3 * 3e-6)


def test_the_slowest_node_counts(cluster):
    assert cluster.predict("sharded", Line(0, 1), 3, 10).local == 4


def test_minutes(cluster):
    step = cluster.predict("sharded", Line(0, 0.01), 1, 100)
    assert step.speed(hidden=False) == pytest.approx(100)
    assert step.minutes(90, hidden=False) == pytest.approx(90 * 1_281_167 / 100 / 60)
    assert step.as_json(90)["none_hidden"] == {"images_per_second": 100.0, "minutes": 19217.51}


def test_powers_of_two():
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(1023)[-1] == 512
