"""The parallel training step: forward, loss, backward while gradients are summed over the ranks, update."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from alexnet_dist.architecture import Network
from alexnet_dist.comm.bucketed import Bucketed
from alexnet_dist.comm.immediate import Immediate
from alexnet_dist.comm.strategy import Strategy
from alexnet_dist.comm.world import World
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.layers import DropoutKey
from alexnet_dist.model import AlexNet, layout_of
from alexnet_dist.optim import SGD
from alexnet_dist.progress import Sums
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, empty, zeros


class Stopwatch:
    """Seconds by phase: data, forward, backward, wait, update."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("data", "forward", "backward", "wait", "update"), 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds


class Engine:
    """One rank's replica of the network, and what a step needs: at most `batch` images of this rank in each."""

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
        sync: str = "auto",
    ) -> None:
        self.world, self.team, self.sgd, self.smoothing, self.seed = world, team, sgd, smoothing, seed
        self.layout = layout_of(network)
        self.values, self.momentum = (zeros((self.layout.size,)) for _ in range(2))
        self.lr = 0.0
        self.net = AlexNet(network, self.values, batch, team, training=True, conv=conv)
        self.sync = self._strategy(sync)
        self.watch = Stopwatch()
        self._dlogits = empty((batch, network.num_classes))

    def broadcast(self) -> None:
        """Gives every rank rank 0's parameters and momentum."""
        self.world.broadcast_(self.values)
        self.world.broadcast_(self.momentum)

    def step(
        self, images: np.ndarray, labels: np.ndarray, positions: np.ndarray, total: int, number: int, lr: float
    ) -> Sums:
        """One step of SGD on the mean loss of the global batch; returns its sums over all ranks.

        images [N, H, W, 3], labels [N] (-1: no image), positions [N] in the global batch: this rank's part of it, which
        may be empty. `total` counts the images of the whole batch, `number` the steps since the beginning (for dropout).
        """
        watch, self.lr = self.watch, lr
        with watch.phase("forward"):
            logits = self.net.forward(images, DropoutKey(self.seed, number, positions))
            dlogits = self._dlogits[: len(labels)]
            loss = cross_entropy(logits, labels, dlogits, total=max(total, 1), smoothing=self.smoothing)
            top1, top5 = count_correct(logits, labels)
            mine = Sums(loss, top1, top5, int((labels >= 0).sum()))
        with watch.phase("backward"):
            self.net.backward(dlogits, self.sync)
        with watch.phase("update"):
            waited = self.sync.finish()
        watch.seconds["wait"] += waited
        watch.seconds["update"] -= waited
        with watch.phase("wait"):
            return Sums(*self.world.sum(list(mine)))

    def _strategy(self, name: str) -> Strategy:
        if name == "immediate" or (name == "auto" and self.world.size == 1):
            return Immediate(self._apply)
        return Bucketed(self.world, self.layout.size, self.team, self._apply)

    def _apply(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        self.sgd.update_(self.values[lo:hi], gradient, self.momentum[lo:hi], self.lr, workspace)
