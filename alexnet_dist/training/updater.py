"""One step of an optimizer on ranges of the flat buffers: what the strategies call, block by block, from any thread.

Norms are summed in float64 from squares in float32. Each block's sum is kept until all are there, and added up in the
order of the blocks: so the result doesn't depend on which thread was first.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from alexnet_dist.model.parameters import ParameterMap
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.optim import Optimizer, StepContext


class Updater:
    """The optimizer bound to the parameters. Call `bind` once, `begin` before each step.

    The last layer's learning rate is `head_lr_factor` times that of the others.
    """

    def __init__(self, optimizer: Optimizer, parameters: ParameterMap, head_lr_factor: float = 1.0) -> None:
        self.optimizer, self._specs = optimizer, parameters.specs
        self._edges = [lo for lo, _ in parameters.ranges.values()] + [parameters.size]
        self._factors = [head_lr_factor if spec.last else 1.0 for spec in self._specs]
        self.state = optimizer.state
        # The sum of squares of each parameter, then that of each parameter's gradient.
        self.partials = 0 if optimizer.elementwise else 2 * len(self._specs)
        self._squares: dict[tuple[int, int], tuple[float, float]] = {}  # by parameter and start of the block
        self._contexts: list[StepContext] = []  # of each parameter
        self.gradient_norm = 0.0  # of all parameters in the latest step, if `partials` asks for norms

    def bind(self, values: np.ndarray, state: dict[str, np.ndarray]) -> None:
        """Sets the flat buffers, which a strategy has allocated."""
        self._values, self._state = values, [state[name] for name in self.state]

    def begin(self, lr: float, step_index: int) -> None:
        """Sets the learning rate and the index of the next step."""
        self._contexts = [
            StepContext(lr * factor, step_index, spec.is_bias)
            for spec, factor in zip(self._specs, self._factors, strict=True)
        ]

    def apply(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        """Updates [lo, hi) with its gradient [hi - lo], which is only read."""
        for index, start, end in self._parts(lo, hi):
            state = [array[start:end] for array in self._state]
            of_part = gradient[start - lo : end - lo]
            self.optimizer.update_(self._values[start:end], of_part, state, self._contexts[index], workspace)

    def measure(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        """Adds what [lo, hi) contributes to the partial sums."""
        with workspace.frame():
            scratch = workspace.take((hi - lo,))
            for index, start, end in self._parts(lo, hi):
                both = (self._values[start:end], gradient[start - lo : end - lo])
                of_values, of_gradient = (_sum_of_squares(array, scratch[: end - start]) for array in both)
                self._squares[index, start] = of_values, of_gradient

    def take_partials(self) -> np.ndarray:
        """The partial sums [partials], float64, of what has been measured here since the last call."""
        sums = np.zeros((2, len(self._specs)))
        for (index, _), squares in sorted(self._squares.items()):
            sums[:, index] += squares
        self._squares = {}
        return sums.reshape(-1)

    def complete(self, sums: np.ndarray) -> None:
        """Receives the sums [partials] over all ranges."""
        squares = sums.reshape(2, len(self._specs))
        norms, self.gradient_norm = np.sqrt(squares), float(np.sqrt(squares[1].sum()))
        self._contexts = [
            replace(
                context,
                parameter_norm=float(of_values),
                gradient_norm=float(of_gradient),
                total_gradient_norm=self.gradient_norm,
            )
            for context, of_values, of_gradient in zip(self._contexts, *norms, strict=True)
        ]

    def _parts(self, lo: int, hi: int) -> Iterator[tuple[int, int, int]]:
        """[lo, hi) cut where one parameter ends and the next begins: (index of the parameter, start, end)."""
        for index in range(bisect_right(self._edges, lo) - 1, len(self._specs)):
            start, end = max(lo, self._edges[index]), min(hi, self._edges[index + 1])
            if start >= hi:
                return
            yield index, start, end


def _sum_of_squares(array: np.ndarray, scratch: np.ndarray) -> float:
    np.multiply(array, array, out=scratch)
    return float(np.add.reduce(scratch, dtype=np.float64))
