"""The model behind scaling.py: the cost of an Allreduce, and from it the cost of a step on many nodes. Measures nothing.

Alpha-beta: an Allreduce of n bytes over p ranks takes ceil(log2 p) alpha + 2 (p-1)/p n beta seconds. That is Rabenseifner's
algorithm, and a ring's for long messages: everyone sends and receives each byte twice, but for its own share. Alpha is a
round of halving together with the round of gathering that mirrors it, so two messages; beta is seconds a byte.

A step on N nodes is a step on one node, measured with all that happens inside it, and an exchange among the nodes:

- sharded and hybrid put one gradient a node on the wire. They differ inside the node only, which is measured.
- allreduce puts one a rank on the wire, all through the node's one link: the worst case, of a library that ignores which
  ranks share a node. One that sums inside the node first, or a ring in the order of the nodes, sends as little as sharded.
- Sums of what has arrived take the cores' time, at the speed measured here when all ranks add at once.

The two bounds: nothing of the exchange is hidden behind the node's step, or all of it but the sums, which need the cores.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet_dist.comm.buckets import BUCKET

IMAGES = 1_281_167  # of ImageNet's training set

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

    @property
    def slowest(self) -> float:
        """Nothing hidden."""
        return self.local + self.sums + self.wire

    @property
    def quickest(self) -> float:
        """The wire hidden behind everything else."""
        return max(self.local + self.sums, self.wire)

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
class Cluster:
    """Nodes like this machine, and the network between them."""

    link: Link
    ranks: int  # of each node
    size: float  # bytes of a gradient
    summing: float  # seconds a rank needs to add a byte to another while its node's other ranks do so, too

    def wire(self, strategy: str, nodes: int) -> float:
        """Seconds for the exchange among the nodes."""
        buckets = math.ceil(self.size / (4 * BUCKET))
        return self.link.allreduce(self.size * (self.ranks if strategy == "allreduce" else 1), nodes, buckets)

    def sums(self, strategy: str, nodes: int) -> float:
        """Seconds in which each rank adds what it receives: the whole gradient, or its slice."""
        mine = self.size if strategy == "allreduce" else self.size / self.ranks
        return (nodes - 1) / nodes * mine * self.summing

    def predict(self, strategy: str, local: Line, nodes: int, batch: int) -> Prediction:
        """`batch`: of all nodes. The others wait for the node with the most images."""
        seconds = local(math.ceil(batch / nodes))
        return Prediction(strategy, nodes, batch, seconds, self.wire(strategy, nodes), self.sums(strategy, nodes))


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to `largest`."""
    return [1 << exponent for exponent in range(largest.bit_length())]
