"""The optimizers, in place on ranges of the flat buffers. OPTIMIZERS is their table, by the names of --opt.

An optimizer declares the buffers that it keeps besides the parameters (`state`), and whether it is `elementwise`: then it
updates each block of the parameters while its gradient is in the cache. Otherwise it is called when all gradients are
complete, on ranges within one parameter, with the norms of that parameter and of its gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from alexnet_dist.support.workspace import Workspace

BLOCK = 1 << 18  # floats: parameters, state and gradient of a block stay in the cache between the operations


@dataclass(frozen=True)
class StepContext:
    """What an update depends on besides its arrays. `index` counts the run's steps before this one.

    For optimizers that aren't elementwise: whether the parameter that the range belongs to is a bias, the Euclidean norms
    of the whole parameter and of its gradient, and that of the gradient of all parameters together.
    """

    lr: float
    index: int
    is_bias: bool = False
    parameter_norm: float = 0.0
    gradient_norm: float = 0.0
    total_gradient_norm: float = 0.0


class Optimizer(Protocol):
    """A dataclass whose fields are named like fields of TrainingConfig."""

    @property
    def state(self) -> tuple[str, ...]: ...

    @property
    def elementwise(self) -> bool: ...

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        """One step on the parameters p, with gradient g and the buffers of `state`: flat float32 of one length.

        g is only read. State is zero before the first step.
        """
        ...


def _blocks(arrays: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """Arrays of one length, cut into blocks of BLOCK."""
    return [tuple(array[lo : lo + BLOCK] for array in arrays) for lo in range(0, arrays[0].size, BLOCK)]


def _momentum_step_(p: np.ndarray, v: np.ndarray, step: np.ndarray, momentum: float, lr: float) -> None:
    """v = momentum * v + step; p = p - lr * v; step is overwritten."""
    np.multiply(v, momentum, out=v)
    np.add(v, step, out=v)
    np.multiply(v, lr, out=step)
    np.subtract(p, step, out=p)


@dataclass(frozen=True)
class SGD:
    """v = momentum * v + (g + weight_decay * p); p = p - lr * v. As in PyTorch, lr is outside of v."""

    momentum: float = 0.9
    weight_decay: float = 5e-4

    state: ClassVar[tuple[str, ...]] = ("momentum",)
    elementwise: ClassVar[bool] = True

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for pp, gg, vv in _blocks((p, g, *state)):
                change = scratch[: pp.size]
                np.multiply(pp, self.weight_decay, out=change)
                np.add(change, gg, out=change)
                _momentum_step_(pp, vv, change, self.momentum, step.lr)


@dataclass(frozen=True)
class LARS:
    """Layer-wise adaptive rates (You, Gitman and Ginsburg, arXiv 1708.03888, algorithm 1), for large batches.

    v = momentum * v + lr * rate * (g + weight_decay * p); p = p - v, where each layer's weight has a rate of its own,
    trust_coefficient * |p| / (|g| + weight_decay * |p|). Biases, and weights or gradients that are all zero, have the
    rate 1; biases don't decay.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    trust_coefficient: float = 0.001

    state: ClassVar[tuple[str, ...]] = ("momentum",)
    elementwise: ClassVar[bool] = False

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        decay = 0.0 if step.is_bias else self.weight_decay
        lr = step.lr * self._rate(step)
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for pp, gg, vv in _blocks((p, g, *state)):
                change = scratch[: pp.size]
                np.multiply(pp, decay, out=change)
                np.add(change, gg, out=change)
                np.multiply(change, lr, out=change)
                _momentum_step_(pp, vv, change, self.momentum, 1.0)

    def _rate(self, step: StepContext) -> float:
        if step.is_bias or not step.parameter_norm or not step.gradient_norm:
            return 1.0
        return (
            self.trust_coefficient
            * step.parameter_norm
            / (step.gradient_norm + self.weight_decay * step.parameter_norm)
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as in PyTorch.

    p = p - lr * weight_decay * p; m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
    p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps), in step t counted from 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 5e-4

    state: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    elementwise: ClassVar[bool] = True

    def update_(
        self, p: np.ndarray, g: np.ndarray, state: Sequence[np.ndarray], step: StepContext, workspace: Workspace
    ) -> None:
        t = step.index + 1
        rate = step.lr / (1 - self.beta1**t)
        root = 1 / math.sqrt(1 - self.beta2**t)
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for pp, gg, mm, vv in _blocks((p, g, *state)):
                change = scratch[: pp.size]
                np.multiply(pp, 1 - step.lr * self.weight_decay, out=pp)
                np.multiply(mm, self.beta1, out=mm)
                np.multiply(gg, 1 - self.beta1, out=change)
                np.add(mm, change, out=mm)
                np.multiply(vv, self.beta2, out=vv)
                np.multiply(gg, gg, out=change)
                np.multiply(change, 1 - self.beta2, out=change)
                np.add(vv, change, out=vv)
                np.sqrt(vv, out=change)
                np.multiply(change, root, out=change)
                np.add(change, self.eps, out=change)
                np.divide(mm, change, out=change)
                np.multiply(change, rate, out=change)
                np.subtract(pp, change, out=pp)


OPTIMIZERS: dict[str, type[Any]] = {"sgd": SGD, "lars": LARS, "adamw": AdamW}


def hyperparameters(name: str) -> tuple[str, ...]:
    """The fields of the optimizer with this name."""
    return tuple(field.name for field in fields(OPTIMIZERS[name]))


def hyperparameter_owners() -> dict[str, list[str]]:
    """For each hyperparameter, the names of the optimizers that have it."""
    names = sorted({field for name in OPTIMIZERS for field in hyperparameters(name)})
    return {field: [name for name in OPTIMIZERS if field in hyperparameters(name)] for field in names}


def make_optimizer(name: str, config: object) -> Optimizer:
    """The optimizer with this name of OPTIMIZERS; a field that `config` doesn't have keeps its default."""
    values = {field: getattr(config, field) for field in hyperparameters(name) if hasattr(config, field)}
    optimizer: Optimizer = OPTIMIZERS[name](**values)
    return optimizer
