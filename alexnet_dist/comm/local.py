"""Strategy `local`, for a world of one rank: there is nothing to sum, so every block is updated at once.

The gradient of a block is in scratch memory, and the update reads it while it is in the cache: the whole gradient, as
large as the parameters, is not written to memory and read back. Only for an optimizer that needs norms first, and for
steps of several parts, it is stored.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from alexnet_dist.comm.strategy import StrategyOptions, Summed, swap_ranges_, update_with_norms
from alexnet_dist.support.workspace import Workspace, zeros


def owned_block(
    options: StrategyOptions, block: tuple[int, int], stored: np.ndarray, workspace: Workspace
) -> AbstractContextManager[np.ndarray]:
    """Memory for the gradient of a block (lo, hi) that only this rank computes, so that no sum over ranks is needed.

    It is applied at the end of the context, or kept in `stored` [hi - lo] for an optimizer that needs norms, or until the
    last part of the step. `stored` may be empty where `stores` says that nothing is kept.
    """
    if options.update.partials or not options.parts.last:
        return options.parts.adding(stored, workspace)
    return _updating(options, block, stored, workspace)


def stores(options: StrategyOptions) -> bool:
    """Whether `owned_block` needs memory for the gradient."""
    return options.update.partials > 0 or options.parts.count > 1


@contextmanager
def _updating(
    options: StrategyOptions, block: tuple[int, int], stored: np.ndarray, workspace: Workspace
) -> Iterator[np.ndarray]:
    lo, hi = block
    with workspace.frame():
        gradient = workspace.take((hi - lo,))
        yield gradient
        if options.parts.count > 1:
            np.add(stored, gradient, out=gradient)
        options.update.apply(lo, hi, gradient, workspace)


class Local:
    """The sink of the only replica's gradients."""

    def __init__(self, options: StrategyOptions) -> None:
        self._options = options
        self.values = zeros((options.size,))
        self.state = {name: options.buffer() for name in options.update.state}
        self._gradients = options.buffer() if stores(options) else zeros((0,))

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """Memory for the gradient of [lo, hi), which is applied at the end of the context, or else in `finish`."""
        return owned_block(self._options, (lo, hi), self._gradients[lo:hi], workspace)

    def poll(self) -> None:
        """Does nothing: there are no messages."""

    def finish(self) -> None:
        """Makes the update if it needs norms; else it has been made already, block by block."""
        if self._options.update.partials:
            lo, hi = self._options.trained
            everything = [Summed(lo, hi, self._gradients[lo:hi])]
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

    def swap_(self, one: np.ndarray, other: np.ndarray) -> None:
        """The replica's arrays exchange their contents."""
        swap_ranges_(one, other, [self._options.trained], self._options.team)

    def copied(self) -> list[tuple[int, int]]:
        """None: there are no others."""
        return []

    def close(self) -> None:
        """Does nothing: garbage collection frees the replica."""
