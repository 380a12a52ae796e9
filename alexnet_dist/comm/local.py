"""Strategy `local`, for a world of one rank: there is nothing to sum, so every block is updated at once.

The gradient of a block is in scratch memory, and the update reads it while it is in the cache: the whole gradient, as
large as the parameters, is not written to memory and read back. Only for an optimizer that needs norms first it is
stored.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from alexnet_dist.comm.strategy import StrategyOptions, Summed, Update, update_with_norms
from alexnet_dist.support.workspace import Workspace, zeros


@contextmanager
def updating(update: Update, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
    """Scratch memory for the gradient of [lo, hi); afterwards the parameters are updated with it."""
    with workspace.frame():
        gradient = workspace.take((hi - lo,))
        yield gradient
        update.apply(lo, hi, gradient, workspace)


class Local:
    """The sink of the only replica's gradients."""

    def __init__(self, options: StrategyOptions) -> None:
        self._options = options
        self.values = zeros((options.size,))
        self.state = {name: zeros((options.size,)) for name in options.update.state}
        self._gradients = zeros((options.size if options.update.partials else 0,))

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """Memory for the gradient of [lo, hi), which is applied at the end of the context, or else in `finish`."""
        if self._options.update.partials:
            return nullcontext(self._gradients[lo:hi])
        return updating(self._options.update, lo, hi, workspace)

    def poll(self) -> None:
        """Does nothing: there are no messages."""

    def finish(self) -> None:
        """Makes the update if it needs norms; else it has been made already, block by block."""
        if self._options.update.partials:
            everything = [Summed(0, self._options.size, self._gradients)]
            update_with_norms(everything, everything, self._options)

    def waited(self) -> float:
        """Zero: there are no other ranks."""
        return 0.0

    def whole(self, array: np.ndarray) -> np.ndarray:
        """The only replica is complete."""
        return array

    def blank(self, array: np.ndarray) -> np.ndarray:
        """The replica itself."""
        return array

    def distribute_(self, array: np.ndarray, whole: np.ndarray | None) -> None:
        """There are no others."""

    def close(self) -> None:
        """Does nothing: garbage collection frees the replica."""
