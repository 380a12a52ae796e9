"""The model behind scaling.py: the cost of an Allreduce, and from it the cost of a step on many nodes. Measures nothing.

Alpha-beta: an Allreduce of n bytes over p ranks takes ceil(log2 p) alpha + 2 (p-1)/p n beta seconds. That is Rabenseifner's
algorithm, and a ring's for long messages: everyone sends and receives each byte twice, but for its own share. Alpha is a
round of halving together with the round of gathering that mirrors it, so two messages; beta is seconds a byte.

A step on N nodes is a step on one node, measured with all that happens inside it, and an exchange among the nodes. What a
node sends in a step is `sent` of the table of strategies (training/strategies.py), which a test compares with the bytes on
the cable (tests/end_to_end/test_hosts.py). Messages are counted here, one after another, each with its latency:

- sharded: the first ranks of the nodes sum one gradient a node, an Allreduce for each bucket, while the others wait: so
  one core of a node adds what arrives.
- allreduce puts one gradient a rank on the wire, all through the node's one link: the worst case, of a library that ignores
  which ranks share a node. One that sums inside the node first, or a ring in the order of the nodes, sends as little as
  sharded. Each rank adds what arrives.
- hybrid: the convolutions' gradient as with sharded, in smaller buckets, and activations: a message to each other node in
  each of 8 exchanges (forward 3 gathers and the logits, backward their gradients and 3 sums), and the header, which tells
  who has which images, in ceil(log2 N). All ranks add the partial sums. Bytes grow with the global batch, not with the
  parameters. Layers are divided in parts of 16 outputs: on more than 256 nodes some own none, and the others send more.

Arithmetic is divided as on one node: with hybrid a node computes its share of the fully connected layers' outputs for all
images, which is as much as all outputs for its own images. That both take the same time is assumed, and so is that each
node updates all parameters, though with hybrid it updates its share only.

The two bounds: nothing of the exchange is hidden behind the node's step, or all of it but the sums, which need the cores,
and the half of hybrid's activations for which the next layer waits (forward, and the gradients of the logits).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from alexnet_dist.comm.buckets import BUCKET, SMALL_BUCKET
from alexnet_dist.model.architecture import Network
from alexnet_dist.training.activation_sizes import FLOAT, activations_sent, linear_shapes
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import STRATEGIES, Demand

IMAGES = 1_281_167  # of ImageNet's training set
TIE = 0.1  # strategies whose speeds differ by less count as equally fast: this machine drifts by as much between steps

# arXiv 1709.05011 (You, Zhang, Hsieh, Demmel, Keutzer): AlexNet with batch normalisation and LARS, batch 32K, 100 epochs,
# 58.6 % top-1. Its abstract there counts 1024 CPUs (Skylake); as published (ICPP 2018), 2048 Xeon Platinum 8160.
PAPER_NODES, PAPER_EPOCHS, PAPER_SECONDS = 1024, 100, 11 * 60.0
PAPER_SPEED = PAPER_EPOCHS * IMAGES / PAPER_SECONDS  # images a second


def non_negative(columns: Sequence[tuple[float, float]], seconds: Sequence[float]) -> tuple[float, float]:
    """Non-negative least squares of relative errors: the factors of the two columns whose sum is to equal the seconds."""
    scaled = np.asarray(columns, np.float64) / np.asarray(seconds, np.float64)[:, None]
    ones = np.ones(len(scaled))
    both = np.linalg.lstsq(scaled / (scale := np.linalg.norm(scaled, axis=0)), ones, rcond=None)[0] / scale
    if both.min() >= 0:
        return float(both[0]), float(both[1])
    alone = [float(column @ ones / (column @ column)) for column in scaled.T]
    errors = [float(((column * factor - 1) ** 2).sum()) for column, factor in zip(scaled.T, alone, strict=True)]
    return (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])


@dataclass(frozen=True)
class Link:
    """What connects ranks or nodes."""

    alpha: float  # seconds of a round, there and back
    beta: float  # seconds a byte

    @classmethod
    def of(cls, microseconds: float, gigabits: float) -> "Link":
        """A network with this latency of a message, and this bandwidth in each direction at once."""
        return cls(2e-6 * microseconds, 8e-9 / gigabits)

    def allreduce(self, size: float, ranks: int, messages: int = 1) -> float:
        """Seconds to sum `size` bytes, in `messages` messages one after another."""
        rounds, moved = terms(size, ranks)
        return messages * rounds * self.alpha + moved * self.beta


def terms(size: float, ranks: int) -> tuple[float, float]:
    """The factors of alpha and beta."""
    return math.ceil(math.log2(ranks)), 2 * (ranks - 1) / ranks * size


@dataclass(frozen=True)
class Sample:
    """An Allreduce that was measured."""

    ranks: int
    size: int  # bytes
    seconds: float


def fit_link(samples: Sequence[Sample]) -> Link:
    """Alpha and beta with the least relative errors; of at least two samples that differ."""
    columns = [terms(sample.size, sample.ranks) for sample in samples]
    return Link(*non_negative(columns, [sample.seconds for sample in samples]))


def residuals(link: Link, samples: Sequence[Sample]) -> list[float]:
    """The relative errors of the model; positive where it is too high."""
    return [link.allreduce(sample.size, sample.ranks) / sample.seconds - 1 for sample in samples]


@dataclass(frozen=True)
class Line:
    """A node's seconds for a step, by its number of images."""

    fixed: float
    per_image: float

    def __call__(self, images: float) -> float:
        return self.fixed + self.per_image * images

    def faster(self, times: float) -> "Line":
        """That of a node so many times as fast."""
        return Line(self.fixed / times, self.per_image / times)


def fit_line(points: Sequence[tuple[int, float]]) -> Line:
    """Through (images, seconds) that were measured. With a single batch size, seconds are assumed proportional to images."""
    if len({images for images, _ in points}) == 1:
        return Line(0.0, float(np.mean([seconds / images for images, seconds in points])))
    return Line(*non_negative([(1.0, images) for images, _ in points], [seconds for _, seconds in points]))


@dataclass(frozen=True)
class Prediction:
    """One step on `nodes` nodes. Times are in seconds."""

    strategy: str
    nodes: int
    images: int  # of a step, on all nodes
    local: float  # the step on one node
    wire: float
    sums: float
    exposed: float  # of the wire's time, what nothing can hide
    sent: float  # bytes of a node
    messages: int  # of a node, one after another

    @property
    def slowest(self) -> float:
        """Nothing hidden."""
        return self.local + self.sums + self.wire

    @property
    def quickest(self) -> float:
        """The wire hidden behind everything else, as far as it can be."""
        return max(self.local + self.sums, self.wire - self.exposed) + self.exposed

    def speed(self, hidden: bool) -> float:
        """Images a second."""
        return self.images / (self.quickest if hidden else self.slowest)

    def minutes(self, epochs: int, hidden: bool) -> float:
        """Minutes for `epochs` epochs of ImageNet."""
        return epochs * IMAGES / self.speed(hidden) / 60

    def as_json(self, epochs: int) -> dict[str, Any]:
        """All of it, with both bounds."""
        bounds = {
            name: {
                "images_per_second": round(self.speed(hidden), 1),
                "minutes": round(self.minutes(epochs, hidden), 2),
            }
            for name, hidden in (("none_hidden", False), ("all_hidden", True))
        }
        return asdict(self) | bounds


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    cores: int
    ranks: int
    summing: float  # seconds a core needs to add a byte to another while the node's other ranks do so, too


@dataclass(frozen=True)
class Cluster:
    """Equal nodes, and the network between them."""

    link: Link
    node: Node
    network: Network = field(default_factory=Network)

    def demand(self, nodes: int, batch: int) -> Demand:
        """The last of the nodes: divided by 16, layers leave it the largest part. All have as many images as the fullest."""
        return Demand(self.network, SGD(), math.ceil(batch / nodes), (1,) * nodes, nodes - 1)

    def sent(self, strategy: str, nodes: int, batch: int) -> int:
        """Bytes that a node sends in a step of `batch` images of all nodes, without headers of messages."""
        of_each = STRATEGIES[strategy].sent(self.demand(nodes, batch))
        return of_each * self.node.ranks if strategy == "allreduce" else of_each

    def activations(self, strategy: str, nodes: int, batch: int) -> int:
        """The part of `sent` that is activations and their gradients."""
        demand = self.demand(nodes, batch)
        sizes = demand.ranks_of_nodes
        return activations_sent(self.network, sizes, demand.node, demand.batch) if strategy == "hybrid" else 0

    def messages(self, strategy: str, nodes: int) -> tuple[int, int]:
        """Messages that a rank sends to other nodes one after another in a step, and those of them that nothing hides."""
        rounds, demand = math.ceil(math.log2(nodes)), self.demand(nodes, nodes)
        if strategy != "hybrid":
            return 2 * rounds * math.ceil(demand.size / BUCKET), 0
        layers = len(linear_shapes(self.network))
        exposed = rounds + (layers + 2) * (nodes - 1)  # the header, gathers, logits and their gradients
        sums = layers * (nodes - 1) + 2 * rounds * math.ceil(demand.classifier_start / SMALL_BUCKET)
        return exposed + sums, exposed

    def sums(self, strategy: str, nodes: int, batch: int) -> float:
        """Seconds in which cores add what arrives: one core of a rank the gradients, all cores the partial sums."""
        demand = self.demand(nodes, batch)
        gradient = demand.classifier_start if strategy == "hybrid" else demand.size
        partial_sums = self.activations(strategy, nodes, batch) / 2
        return (FLOAT * gradient * (nodes - 1) / nodes + partial_sums / self.node.cores) * self.node.summing

    def memory(self, nodes: int, batch: int) -> int:
        """Bytes of shared memory that hybrid takes of a node: above all activations of the whole batch."""
        return STRATEGIES["hybrid"].shared_memory_of_a_node(self.demand(nodes, batch))

    def break_even(self, nodes: int) -> float:
        """The global batch with which hybrid sends as many bytes as sharded."""
        nothing, some = (self.sent("hybrid", nodes, images) for images in (0, 1000 * nodes))
        return (self.sent("sharded", nodes, 0) - nothing) / (some - nothing) * 1000 * nodes

    def predict(self, strategy: str, local: Line, nodes: int, batch: int) -> Prediction:
        """`batch`: of all nodes. The others wait for the node with the most images. `local`: a node's step."""
        sent, (messages, waited_for) = self.sent(strategy, nodes, batch), self.messages(strategy, nodes)
        latency = self.link.alpha / 2
        return Prediction(
            strategy,
            nodes,
            batch,
            local=local(math.ceil(batch / nodes)),
            wire=sent * self.link.beta + messages * latency,
            sums=self.sums(strategy, nodes, batch),
            exposed=self.activations(strategy, nodes, batch) / 2 * self.link.beta + waited_for * latency,
            sent=sent,
            messages=messages,
        )


def fastest(steps: Sequence[Prediction], hidden: bool) -> list[tuple[int, tuple[str, ...]]]:
    """From which number of nodes on which strategies are the fastest: all within TIE of the best. One node is left out."""
    runs: list[tuple[int, tuple[str, ...]]] = []
    for nodes in sorted({step.nodes for step in steps if step.nodes > 1}):
        speeds = {step.strategy: step.speed(hidden) for step in steps if step.nodes == nodes}
        names = tuple(sorted(name for name, speed in speeds.items() if speed >= (1 - TIE) * max(speeds.values())))
        if not runs or runs[-1][1] != names:
            runs.append((nodes, names))
    return runs


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to `largest`."""
    return [1 << exponent for exponent in range(largest.bit_length())]
