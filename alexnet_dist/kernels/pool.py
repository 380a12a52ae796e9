"""Max-pooling, and adaptive average pooling.

Legend: x [N, H, W, C], y [N, P, Q, C], float32; winner [N, P, Q, C] uint8, the place in its window (row by row) of each
maximum. Of equal values the first wins, as in PyTorch: flat regions of an image make ties common, and a gradient handed
to every tied pixel would count several times.
"""

import math
from collections.abc import Iterator

import numpy as np

from alexnet_dist.workspace import Workspace


def _taps(x: np.ndarray, p: int, q: int, kernel: int, stride: int) -> Iterator[np.ndarray]:
    """The view [N, P, Q, C] of x at each place of the window, row by row."""
    for i in range(kernel):
        for j in range(kernel):
            yield x[:, i : i + stride * (p - 1) + 1 : stride, j : j + stride * (q - 1) + 1 : stride]


def maxpool_forward(
    x: np.ndarray, y: np.ndarray, winner: np.ndarray | None, *, kernel: int, stride: int, workspace: Workspace
) -> None:
    """y = the maximum of each window (no padding; a rest too small for a window is dropped).

    `winner` is None where no gradient will be asked for.
    """
    _, p, q, _ = y.shape
    with workspace.frame():
        larger = workspace.take(y.shape, np.bool_)
        for place, tap in enumerate(_taps(x, p, q, kernel, stride)):
            if place == 0:
                y[...] = tap
                if winner is not None:
                    winner.fill(0)
                continue
            if winner is not None:
                np.greater(tap, y, out=larger)
                np.copyto(winner, place, where=larger)
            np.maximum(tap, y, out=y)


def maxpool_backward(
    dy: np.ndarray, winner: np.ndarray, dx: np.ndarray, *, kernel: int, stride: int, workspace: Workspace
) -> None:
    """dx = dy at each window's winner, added up where windows overlap, and zero elsewhere."""
    _, p, q, _ = dy.shape
    dx.fill(0)
    with workspace.frame():
        mask = workspace.take(dy.shape, np.bool_)
        part = workspace.take(dy.shape)
        for place, tap in enumerate(_taps(dx, p, q, kernel, stride)):
            np.equal(winner, place, out=mask)
            np.multiply(dy, mask, out=part)
            tap += part


def averaging_matrix(extent: int, bins: int) -> np.ndarray:
    """[bins, extent] float32: row i averages x[floor(i * extent / bins) : ceil((i + 1) * extent / bins)]."""
    matrix = np.zeros((bins, extent), np.float32)
    for i in range(bins):
        lo, hi = i * extent // bins, math.ceil((i + 1) * extent / bins)
        matrix[i, lo:hi] = 1 / (hi - lo)
    return matrix


def adaptive_avgpool_forward(
    x: np.ndarray, rows: np.ndarray, columns: np.ndarray, y: np.ndarray, *, workspace: Workspace
) -> None:
    """y[n, :, :, c] = rows @ x[n, :, :, c] @ columns^T, with an averaging matrix for either axis."""
    n, h, w, c = x.shape
    p, q = y.shape[1:3]
    with workspace.frame():
        half = workspace.take((n, p, w, c))
        np.matmul(rows, x.reshape(n, h, w * c), out=half.reshape(n, p, w * c))
        np.matmul(columns, half, out=y.reshape(n, p, q, c))


def adaptive_avgpool_backward(
    dy: np.ndarray, rows: np.ndarray, columns: np.ndarray, dx: np.ndarray, *, workspace: Workspace
) -> None:
    """dx[n, :, :, c] = rows^T @ dy[n, :, :, c] @ columns."""
    adaptive_avgpool_forward(dy, rows.T, columns.T, dx, workspace=workspace)
