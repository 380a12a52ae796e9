"""Fully connected layers as BLAS calls on a block of rows or columns; the caller divides the blocks among threads.

Legend: N images, I inputs, O outputs. x [N, I], w [O, I], b [O], y [N, O]; float32. The slices below may be views:
BLAS takes any matrix whose last axis is contiguous.
"""

import numpy as np

from alexnet_dist.support.workspace import Workspace


def linear_gemm_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, workspace: Workspace, *, images: int = 0
) -> None:
    """y = x @ w^T + b, for a block of outputs: w [block, I], b [block], y [N, block].

    If there are fewer than `images`, images of zeros are added, so that the product has that many columns.
    """
    n = len(x)
    with workspace.frame():
        if 0 < n < images:
            whole = workspace.take((images, x.shape[1]))
            whole[:n], whole[n:] = x, 0
            x = whole
        # As (w @ x^T)^T: with the large matrix on the left BLAS is up to a third faster for few images.
        transposed = workspace.take((len(w), len(x)))
        np.matmul(w, x.T, out=transposed)
        np.add(transposed.T[:n], b, out=y)


def linear_gemm_backward_weight(x: np.ndarray, dy: np.ndarray, dw: np.ndarray) -> None:
    """dw = dy^T @ x, for a block of outputs: dy [N, block], dw [block, I]."""
    np.matmul(dy.T, x, out=dw)


def linear_gemm_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """db = the sum of dy over the images: dy [N, O], db [O]."""
    np.add.reduce(dy, axis=0, out=db)


def linear_gemm_backward_data(dy: np.ndarray, w: np.ndarray, dx: np.ndarray) -> None:
    """dx = dy @ w, for a block of inputs: w [O, block], dx [N, block]."""
    np.matmul(dy, w, out=dx)
