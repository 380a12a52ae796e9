"""What the strategies have in common."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from alexnet_dist.parameters import GradientSink
from alexnet_dist.workspace import Workspace

# (lo, hi, gradient [hi - lo], workspace): one step of the optimizer on [lo, hi) of the flat buffers, on any one thread
Apply = Callable[[int, int, np.ndarray, Workspace], None]


class Strategy(GradientSink, Protocol):
    """A sink of gradients that brings about one update of the replica in each step."""

    def finish(self) -> float:
        """Returns when every parameter is updated; the seconds that were spent waiting for other ranks."""
        ...
