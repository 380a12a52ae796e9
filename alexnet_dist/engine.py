"""The parallel training step: forward, loss, backward while gradients are summed over the ranks, update."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from alexnet_dist.architecture import Network
from alexnet_dist.comm.bucketed import Bucketed
from alexnet_dist.comm.world import World
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.layers import DropoutKey
from alexnet_dist.model import AlexNet, layout_of
from alexnet_dist.optim import SGD
from alexnet_dist.progress import Sums
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, empty, zeros

UPDATE_BLOCK = 1 << 18  # floats to one task of the update


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
        self, network: Network, world: World, team: Team, batch: int, sgd: SGD, smoothing: float = 0.0, seed: int = 0
    ) -> None:
        self.world, self.team, self.sgd, self.smoothing, self.seed = world, team, sgd, smoothing, seed
        self.layout = layout_of(network)
        self.values, self.gradients, self.momentum = (zeros((self.layout.size,)) for _ in range(3))
        self.net = AlexNet(network, self.values, batch, team, training=True)
        self.sync = Bucketed(world, self.gradients)
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
        watch = self.watch
        with watch.phase("forward"):
            logits = self.net.forward(images, DropoutKey(self.seed, number, positions))
            dlogits = self._dlogits[: len(labels)]
            loss = cross_entropy(logits, labels, dlogits, total=max(total, 1), smoothing=self.smoothing)
            top1, top5 = count_correct(logits, labels)
            mine = Sums(loss, top1, top5, int((labels >= 0).sum()))
        with watch.phase("backward"):
            self.net.backward(dlogits, self.sync)
        with watch.phase("update"):
            waited = self.sync.finish(lambda lo, hi: self._update(lo, hi, lr))
        watch.seconds["wait"] += waited
        watch.seconds["update"] -= waited
        with watch.phase("wait"):
            return Sums(*self.world.sum(list(mine)))

    def _update(self, lo: int, hi: int, lr: float) -> None:
        def task(start: int, end: int, workspace: Workspace) -> None:
            part = slice(lo + start, lo + end)
            self.sgd.update_(self.values[part], self.gradients[part], self.momentum[part], lr, workspace)

        self.team.for_each(hi - lo, UPDATE_BLOCK, task)
