"""Strategy `immediate`, for a world of one rank: nothing is to be summed, so every block is updated at once.

The gradient of a block lives in scratch memory, and the update reads it while it is in the cache: the whole gradient,
as large as the parameters, is never stored, nor written to memory and read back.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from alexnet_dist.comm.strategy import Apply
from alexnet_dist.support.workspace import Workspace, zeros


@contextmanager
def updating(apply: Apply, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
    """Scratch memory for the gradient of [lo, hi); afterwards the parameters are updated with it."""
    with workspace.frame():
        gradient = workspace.take((hi - lo,))
        yield gradient
        apply(lo, hi, gradient, workspace)


class Immediate:
    """The sink of the only replica's gradients."""

    def __init__(self, size: int, apply: Apply) -> None:
        self.values, self.momentum = (zeros((size,)) for _ in range(2))
        self._apply = apply

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """Scratch memory for the gradient of [lo, hi), which is applied as soon as it is there."""
        return updating(self._apply, lo, hi, workspace)

    def poll(self) -> None:
        """Nothing is under way."""

    def finish(self) -> None:
        """Everything has been done already."""

    def waited(self) -> float:
        """There is nobody to wait for."""
        return 0.0

    def broadcast_(self, array: np.ndarray) -> None:
        """There is nobody to tell."""

    def close(self) -> None:
        """Nothing outlives the replica."""
