"""The parallel training step: forward, loss, backward while gradients are summed over the ranks, update."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from alexnet_dist.comm.allreduce import Bucketed
from alexnet_dist.comm.hybrid import Hybrid
from alexnet_dist.comm.local import Immediate
from alexnet_dist.comm.node import open_node, require_room
from alexnet_dist.comm.sharded import Sharded
from alexnet_dist.comm.strategy import Strategy
from alexnet_dist.comm.world import World
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.layers import DropoutKey
from alexnet_dist.model.network import AlexNet, Chain, layout_of, split_of
from alexnet_dist.runs.timeline import EXCHANGE, PHASES, Nothing, Recorder
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, empty
from alexnet_dist.training.node_classifier import NodeClassifier
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.progress import Sums

STRATEGIES = ("immediate", "allreduce", "sharded", "hybrid")


class Stopwatch:
    """Seconds by phase: data, forward, backward, wait, update."""

    def __init__(self, recorder: Recorder) -> None:
        self.seconds = dict.fromkeys(("data", "forward", "backward", "wait", "update"), 0.0)
        self._recorder = recorder

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self.seconds[name] += end - start
            self._recorder.add(name, start, end, PHASES)

    def waited(self, name: str, seconds: float) -> None:
        """So many of a phase's seconds were spent waiting for other ranks."""
        self.seconds[name] -= seconds
        self.seconds["wait"] += seconds

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds


class Engine:
    """One rank's replica of the network, and what a step needs: at most `batch` images of this rank in each.

    `sync` is one of STRATEGIES. Where the node has no room for the memory that this strategy shares, all ranks raise
    NoSharedMemory.
    """

    def __init__(
        self,
        network: Network,
        world: World,
        team: Team,
        batch: int,
        sgd: SGD,
        smoothing: float = 0.0,
        seed: int = 0,
        conv: str = "auto",
        sync: str = "allreduce",
        largest_node: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Nothing()
        self.world, self.team, self.sgd, self.smoothing, self.seed = world, team, sgd, smoothing, seed
        self.layout, self.name = layout_of(network), sync
        self.lr = 0.0
        self.sync = self._open(sync, network, batch, largest_node)
        self.values, self.momentum = self.sync.values, self.sync.momentum
        self.net = AlexNet(network, self.values, batch, team, training=True, conv=conv)
        self.classifier: Chain | NodeClassifier = self.net.classifier
        if isinstance(self.sync, Hybrid):
            self.classifier = NodeClassifier(self.net, self.sync.node, team)
        self.watch = Stopwatch(self._recorder)
        self._dlogits = empty((batch, network.num_classes))

    def broadcast(self) -> None:
        """Gives every rank rank 0's parameters and momentum."""
        self.sync.broadcast_(self.values)
        self.sync.broadcast_(self.momentum)

    def close(self) -> None:
        """Collective: gives back what memory alone doesn't. The engine must not be used after."""
        self.sync.close()

    def step(
        self, images: np.ndarray, labels: np.ndarray, positions: np.ndarray, total: int, number: int, lr: float
    ) -> Sums:
        """One step of SGD on the mean loss of the global batch; returns its sums over all ranks.

        images [N, H, W, 3], labels [N] (-1: no image), positions [N] in the global batch: this rank's part of it, which
        may be empty. `total` counts the images of the whole batch, `number` the steps since the beginning (for dropout).
        """
        watch, self.lr = self.watch, lr
        with watch.phase("forward"):
            key = DropoutKey(self.seed, number, positions)
            logits = self.classifier.forward(self.net.features.forward(images, key), key)
            dlogits = self._dlogits[: len(labels)]
            loss = cross_entropy(logits, labels, dlogits, total=max(total, 1), smoothing=self.smoothing)
            top1, top5 = count_correct(logits, labels)
            mine = Sums(loss, top1, top5, int((labels >= 0).sum()))
        watch.waited("forward", self.sync.waited())
        with watch.phase("backward"):
            dfeatures = self.classifier.backward(dlogits, self.sync, data=True)
            self.net.features.backward(dfeatures, self.sync, data=False)
        watch.waited("backward", self.sync.waited())
        with watch.phase("update"):
            self.sync.finish()
        watch.waited("update", self.sync.waited())
        with watch.phase("wait"):
            return Sums(*self.world.sum(list(mine)))

    def _open(self, name: str, network: Network, batch: int, largest_node: int | None) -> Strategy:
        size = self.layout.size

        def record(bucket: str, start: float, end: float) -> None:
            self._recorder.add(bucket, start, end, EXCHANGE)

        if name == "immediate":
            return Immediate(size, self._apply)
        if name == "allreduce":
            return Bucketed(self.world, size, self.team, self._apply, record=record)
        node = open_node(self.world, largest_node)
        if name == "sharded":
            require_room(node, Sharded.memory(node, size))
            return Sharded(node, size, self.team, self._apply, record=record)
        split = split_of(self.layout)
        need = Hybrid.memory(node, size, split) + NodeClassifier.memory(network, node.sum(batch))
        require_room(node, need)
        return Hybrid(node, size, split, self.team, self._apply, record=record)

    def _apply(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        self.sgd.update_(self.values[lo:hi], gradient, self.momentum[lo:hi], self.lr, workspace)
