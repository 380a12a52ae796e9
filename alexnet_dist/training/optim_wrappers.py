"""What can be put around any optimizer: clipping of the gradient's norm, and a moving average of the weights.

Each is an optimizer itself, so that every strategy holds, saves and restores what it keeps as it does an optimizer's state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.optim import BLOCK, Optimizer, StepContext, blocks, make_optimizer

AVERAGE = "ema"  # the name of the averaged weights among an optimizer's state
TINY = 1e-6  # as in PyTorch: keeps the factor finite where the gradient is zero


@dataclass(frozen=True)
class Clipped:
    """The optimizer with the gradient g of all parameters scaled by min(1, max_norm / (|g| + 1e-6)), |g| its L2 norm.

    As torch.nn.utils.clip_grad_norm_ (Pascanu et al., arXiv 1211.5063, algorithm 1). Weight decay comes after it.
    """

    optimizer: Optimizer
    max_norm: float

    elementwise: ClassVar[bool] = False  # needs the norm first

    @property
    def state(self) -> tuple[str, ...]:
        """The optimizer's own."""
        return self.optimizer.state

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        """One step, as Optimizer says."""
        factor = self.max_norm / (step.total_gradient_norm + TINY)
        if not factor < 1:
            self.optimizer.update_(p, g, state, step, workspace)
            return
        step = replace(
            step, gradient_norm=step.gradient_norm * factor, total_gradient_norm=step.total_gradient_norm * factor
        )
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for pp, gg, *ss in blocks((p, g, *state)):
                clipped = scratch[: pp.size]
                np.multiply(gg, factor, out=clipped)
                self.optimizer.update_(pp, clipped, ss, step, workspace)


@dataclass(frozen=True)
class Averaged:
    """The optimizer, and after each of its steps average = decay * average + (1 - decay) * p; p itself after the first step.

    The exponential form of Polyak and Juditsky's averaging (SIAM J. Control Optim. 30, 1992), as in PyTorch's
    swa_utils.get_ema_avg_fn. The steps themselves don't depend on the average.
    """

    optimizer: Optimizer
    decay: float

    @property
    def state(self) -> tuple[str, ...]:
        """The optimizer's own, then the average."""
        return (*self.optimizer.state, AVERAGE)

    @property
    def elementwise(self) -> bool:
        """As the optimizer: the average asks for nothing more."""
        return self.optimizer.elementwise

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        """One step, as Optimizer says."""
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for pp, gg, *ss, average in blocks((p, g, *state)):
                self.optimizer.update_(pp, gg, ss, step, workspace)
                if step.index == 0:
                    np.copyto(average, pp)
                    continue
                share = scratch[: pp.size]
                np.multiply(average, self.decay, out=average)
                np.multiply(pp, 1 - self.decay, out=share)
                np.add(average, share, out=average)


def configured_optimizer(config: TrainingConfig) -> Optimizer:
    """The optimizer of a run, with what its flags put around it."""
    optimizer = make_optimizer(config.opt, config)
    if config.clip_grad_norm is not None:
        optimizer = Clipped(optimizer, config.clip_grad_norm)
    if config.ema_decay is not None:
        optimizer = Averaged(optimizer, config.ema_decay)
    return optimizer
