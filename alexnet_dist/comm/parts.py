"""The parts of a step: a batch that is computed in several parts, one after the other, whose gradients add up.

A strategy hands out memory for the gradient of a block as always. In the first part a layer fills that memory itself, in
the later ones scratch memory that is added to it. Only what the last part hands over is complete: it alone is exchanged
and applied. With one part (the default) nothing is added, and nothing is copied.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from alexnet_dist.support.workspace import Workspace


class Parts:
    """Which of a step's `count` parts is computed: `begin` is called before each. One object for all of a rank's sinks."""

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"a step has at least 1 part, not {count}")
        self.count, self.index = count, 0

    def begin(self, index: int) -> None:
        """Part `index`, from 0, is computed from here on."""
        self.index = index

    @property
    def last(self) -> bool:
        """Whether the gradients that are handed over now are complete."""
        return self.index == self.count - 1

    def adding(self, memory: np.ndarray, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """An array to be filled with this part's gradient of a block; `memory` is afterwards the sum of the parts so far."""
        return _added_to(memory, workspace) if self.index else nullcontext(memory)


@contextmanager
def _added_to(memory: np.ndarray, workspace: Workspace) -> Iterator[np.ndarray]:
    with workspace.frame():
        gradient = workspace.take(memory.shape)
        yield gradient
        np.add(memory, gradient, out=memory)
