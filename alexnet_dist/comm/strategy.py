"""What the strategies have in common."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.workspace import Workspace

# (lo, hi, gradient [hi - lo], workspace): one step of the optimizer on [lo, hi) of the flat buffers, on any one thread
Apply = Callable[[int, int, np.ndarray, Workspace], None]
# (name, start, end): a bucket's exchange, in seconds of time.perf_counter
Record = Callable[[str, float, float], None]


def forget(name: str, start: float, end: float) -> None:
    """A Record for those who want none."""


class Strategy(GradientSink, Protocol):
    """A sink of gradients that brings about one update of the parameters in each step; it owns their memory."""

    values: np.ndarray  # the parameters, flat; private to the rank, or shared by the ranks of a node
    momentum: np.ndarray  # of the same shape

    def finish(self) -> None:
        """Returns when every parameter is updated."""
        ...

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        ...

    def broadcast_(self, array: np.ndarray) -> None:
        """Collective: overwrites `values` or `momentum` with rank 0's."""
        ...

    def close(self) -> None:
        """Collective: gives back what memory alone doesn't. `values` and `momentum` must not be used after."""
        ...
