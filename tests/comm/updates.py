"""Stand-ins for the optimizer, for tests of the strategies."""

import threading

import numpy as np

from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.support.workspace import Workspace


class Calls:
    """An update that only calls `apply(lo, hi, gradient)`, which any range may be given to at once."""

    state = ("momentum",)
    partials = 0

    def __init__(self, apply=lambda lo, hi, gradient: None):
        self._apply = apply

    def apply(self, lo, hi, gradient, workspace):
        self._apply(lo, hi, gradient)


class Norms(Calls):
    """One that waits for the sum and the count of the whole gradient, and notes when it is told them."""

    partials = 2

    def __init__(self, apply):
        super().__init__(apply)
        self.sums, self._partials, self._lock = None, np.zeros(2), threading.Lock()

    def measure(self, lo, hi, gradient, workspace):
        with self._lock:
            self._partials += gradient.sum(dtype=np.float64), hi - lo

    def take_partials(self):
        partials, self._partials = self._partials, np.zeros(2)
        return partials

    def complete(self, sums):
        self.sums = sums.copy()


def options(size, update, team, classifier_start=0, **more):
    """A strategy's options."""
    return StrategyOptions(size, classifier_start, update, team, **more)


def hand_over(strategy, blocks, rng, gradient):
    """Fills the blocks (lo, hi) with their parts of a gradient, in another order each time, as threads would."""
    for index in rng.permutation(len(blocks)):
        lo, hi = blocks[index]
        with strategy.block(lo, hi, Workspace()) as block:
            block[...] = gradient[lo:hi]
        if index % 3 == 0:
            strategy.poll()
