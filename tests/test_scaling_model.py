"""The model of benchmarks/scaling.py, on timings that follow it exactly."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from scaling_model import (
    Cluster,
    Line,
    Link,
    Node,
    Prediction,
    Sample,
    fastest,
    fit_line,
    fit_link,
    powers_of_two,
    residuals,
)

from alexnet_dist.training.strategies import STRATEGIES as TABLE

SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 26)
GRADIENT = 4 * 61_100_840
CONVOLUTIONS = 4 * 2_469_696
NODE = Node(2, 2, 1e-10)
STRATEGIES = ("allreduce", "sharded", "hybrid")


@pytest.fixture
def cluster():
    return Cluster(Link.of(1.5, 100), NODE)


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
        assert max(step.local + step.exposed, step.wire) <= step.quickest <= step.slowest
        assert step.minutes(90, hidden=True) <= step.minutes(90, hidden=False)


def test_a_better_network_is_never_slower():
    for strategy in STRATEGIES:
        seconds = [
            Cluster(Link.of(1.5, gigabits), NODE).predict(strategy, Line(0.1, 0.01), 64, 32768).slowest
            for gigabits in (1, 10, 100, 400)
        ]
        assert seconds == sorted(seconds, reverse=True)


def test_gradients_on_the_wire(cluster):
    allreduce, sharded = (cluster.predict(name, Line(0, 1), 8, 32768) for name in ("allreduce", "sharded"))
    # A gradient of 244 MB twice, but for an eighth, at 12.5 GB/s, and 15 buckets of 3 rounds of 3 microseconds.
    assert sharded.sent == pytest.approx(2 * 7 / 8 * GRADIENT)
    assert sharded.wire == pytest.approx(2 * 7 / 8 * GRADIENT / 12.5e9 + 15 * 3 * 3e-6)
    assert allreduce.wire == pytest.approx(2 * 2 * 7 / 8 * GRADIENT / 12.5e9 + 15 * 3 * 3e-6)
    assert sharded.messages == allreduce.messages == 15 * 2 * 3
    assert sharded.exposed == allreduce.exposed == 0
    # Every rank adds a whole gradient but for its share, or one rank does while the other one waits.
    assert sharded.sums == allreduce.sums == pytest.approx(7 / 8 * GRADIENT * 1e-10)


def activations(images):
    """On 2 nodes: half of three inputs there and back, and of 1000 logits those of the other's images (496 and 504)."""
    own = images // 2
    return 4 * (2 * own * (9216 + 4096 + 4096) + own * 504 + own * 496)


@pytest.mark.parametrize(("images", "measured"), [(128, 19.09e6), (32, 12.2e6)])
def test_what_hybrid_sends(cluster, images, measured):
    sent = cluster.sent("hybrid", 2, images)
    assert sent == activations(images) + CONVOLUTIONS  # two halves of the convolutions' gradient
    # What left each of two hosts in a step of full-size AlexNet, by benchmarks/sync.py --hosts 2; headers included.
    assert sent == pytest.approx(measured, rel=0.01)
    assert sent < measured
    assert cluster.activations("hybrid", 2, images) == activations(images)
    assert cluster.activations("sharded", 2, images) == 0


def test_hybrids_step_by_hand(cluster):
    step = cluster.predict("hybrid", Line(0.1, 0.01), 4, 128)
    # 5 buckets of 2 rounds, and a header in 2; with each of 3 other nodes 3 gathers, 3 sums, logits and their gradients.
    assert step.messages == 5 * 2 * 2 + 2 + 8 * 3
    assert cluster.messages("hybrid", 4) == (step.messages, 2 + 5 * 3)
    assert step.wire == pytest.approx(step.sent / 12.5e9 + step.messages * 1.5e-6)
    moved = cluster.activations("hybrid", 4, 128)
    assert step.exposed == pytest.approx(moved / 2 / 12.5e9 + (2 + 5 * 3) * 1.5e-6)
    # One core adds the convolutions' gradient, both of them the partial sums.
    assert step.sums == pytest.approx((3 / 4 * CONVOLUTIONS + moved / 2 / 2) * 1e-10)
    assert step.local == pytest.approx(0.1 + 0.32)
    assert step.quickest == pytest.approx(step.local + step.sums + step.exposed)


@pytest.mark.parametrize("nodes", [2, 3, 5, 16, 100])
def test_the_last_node_sends_the_most(cluster, nodes):
    demand = cluster.demand(nodes, 3200)
    others = [TABLE["hybrid"].sent(replace(demand, node=node)) for node in range(nodes)]
    assert max(others) == pytest.approx(cluster.sent("hybrid", nodes, 3200), rel=0.01)


def test_where_hybrid_sends_as_much_as_sharded(cluster):
    for nodes in (2, 4, 16, 256):
        images = cluster.break_even(nodes)
        assert images == pytest.approx(3300, rel=0.03)
        lower, upper = (int(images * factor) // nodes * nodes for factor in (0.9, 1.1))
        assert cluster.sent("hybrid", nodes, lower) < cluster.sent("sharded", nodes, lower)
        assert cluster.sent("hybrid", nodes, upper) > cluster.sent("sharded", nodes, upper)
    assert cluster.break_even(1024) < 2200  # three quarters of the nodes own no output of the last two layers


def test_hybrids_memory_grows_with_the_global_batch(cluster):
    few, more, most = (cluster.memory(4, images) for images in (1024, 2048, 4096))
    assert most - more == pytest.approx(2 * (more - few), rel=1e-3)
    assert (most - more) / 2048 > 4 * 2 * 9216  # bytes an image: more than the features and their gradient


def test_more_cores_add_partial_sums_faster(cluster):
    large = replace(cluster, node=replace(NODE, cores=64))
    assert large.sums("sharded", 4, 1024) == cluster.sums("sharded", 4, 1024)
    assert large.sums("hybrid", 4, 1024) < cluster.sums("hybrid", 4, 1024)
    assert Line(0.64, 0.032).faster(32) == Line(0.02, 0.001)


def test_fastest():
    seconds = {1: (1, 5), 2: (1, 2), 4: (1, 1.5), 8: (1, 1.01), 16: (2, 1), 32: (2, 1)}
    steps = [
        Prediction(name, nodes, 100, local, 0, 0, 0, 0, 0)
        for nodes, both in seconds.items()
        for name, local in zip(("sharded", "hybrid"), both, strict=True)
    ]
    assert fastest(steps, hidden=False) == [(2, ("sharded",)), (8, ("hybrid", "sharded")), (16, ("hybrid",))]
    assert fastest(steps[:2], hidden=False) == []  # nothing is exchanged on one node


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
