"""ReLU and dropout, elementwise. Arrays of one shape, float32; a trailing `_` marks a function that changes its array."""

import numpy as np

from alexnet_dist.support.workspace import Workspace


def relu_forward_(x: np.ndarray) -> None:
    """x = max(x, 0)."""
    np.maximum(x, 0, out=x)


def bias_backward(dy: np.ndarray, db: np.ndarray) -> None:
    """db [N, K] = the sums of dy [N, P, Q, K] over the positions of each image."""
    np.add.reduce(dy, axis=(1, 2), out=db)


def relu_backward_(y: np.ndarray, dy: np.ndarray, workspace: Workspace) -> None:
    """dy = 0 where the ReLU's output y is 0."""
    with workspace.frame():
        alive = workspace.take(y.shape, np.bool_)
        np.greater(y, 0, out=alive)
        np.multiply(dy, alive, out=dy)


def dropout_mask(rng: np.random.Generator, probability: float, mask: np.ndarray) -> None:
    """Fills mask with 0 at `probability`, else 1 / (1 - probability): inverted dropout (Srivastava et al., 2014)."""
    rng.random(out=mask, dtype=np.float32)
    np.greater_equal(mask, probability, out=mask, casting="unsafe")
    mask *= 1 / (1 - probability)
