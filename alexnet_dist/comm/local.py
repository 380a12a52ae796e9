"""Strategy `local`, for a world of one rank: nothing is to be summed, so every block is updated at once.

The gradient of a block lives in scratch memory, and the update reads it while it is in the cache: the whole gradient,
as large as the parameters, is never stored, nor written to memory and read back. Only an optimizer that needs norms
first has it stored.
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
        """Memory for the gradient of [lo, hi), which is applied as soon as it is there, or else when all is there."""
        if self._options.update.partials:
            return nullcontext(self._gradients[lo:hi])
        return updating(self._options.update, lo, hi, workspace)

    def poll(self) -> None:
        """Nothing is under way."""

    def finish(self) -> None:
        """Where the update waits for norms, it is done now; else everything has been done already."""
        if self._options.update.partials:
            everything = [Summed(0, self._options.size, self._gradients)]
            update_with_norms(everything, everything, self._options)

    def waited(self) -> float:
        """There is nobody to wait for."""
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
        """Nothing outlives the replica."""
