"""What a run does when a loss or a gradient is NaN or infinite: the choices of --on-nan.

stop: the run ends, with a message. skip: the step changes nothing, and the run goes on with the next images. restore: the
latest checkpoint is loaded, and the run goes on from there with a lower learning rate (restoring.py).

skip has to know before any parameter is updated, and a finite loss of all ranks doesn't tell: gradients may overflow
where it doesn't. So it is an optimizer that, like LARS, isn't elementwise: every strategy then keeps the whole gradient,
and sums its norm over all ranks, before it updates anything. Runs without skip don't pay for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_dist.errors import DIVERGED, SharedError
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.optim import Optimizer, StepContext

ON_NAN = ("stop", "skip", "restore")
SKIPS = 20  # steps in a row that may be skipped: if no step is finite any more, it isn't for the images
RESTORES = 5  # in a run
RESTORED_RATE = 0.5  # what each restoration multiplies the learning rate by


class Diverged(SharedError):
    """A loss, a gradient or a weight is not finite. Raised by all ranks."""

    exit_code = DIVERGED


@dataclass(frozen=True)
class SkipNotFinite:
    """Another optimizer, but for steps whose gradient has a NaN, an infinity, or a value too large to be squared (1e19):
    these leave parameters and state as they are."""

    optimizer: Optimizer

    @property
    def state(self) -> tuple[str, ...]:
        """The other's."""
        return self.optimizer.state

    @property
    def elementwise(self) -> bool:
        """False: it needs the norm of the whole gradient."""
        return False

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        """The other's step, or none."""
        if math.isfinite(step.total_gradient_norm):
            self.optimizer.update_(p, g, state, step, workspace)
