"""Max-pooling, and adaptive average pooling.

The maximum over a window is that over its columns of the maxima over its rows. So each axis is pooled by itself, with k
comparisons for a value of its output instead of k^2 for one of y, and a byte stores which of the k values was the
maximum (the winner). Of equal values the first wins, which in both steps together is the first of the window in
row-major order, as in PyTorch: ties are common in flat regions of an image, and a gradient passed to every tied pixel
would count several times.

Legend: x [N, H, W, C], y [N, P, Q, C], float32; half [N, R, Q, C], the R = stride (P - 1) + kernel rows of x that are
used, pooled along W; winners: of half and of y, two arrays of uint8 with their shapes.
"""

import math

import numpy as np

from alexnet_dist.support.workspace import Workspace

Winners = tuple[np.ndarray, np.ndarray]


def used_extent(pooled: int, kernel: int, stride: int) -> int:
    """How many rows or columns of x the windows cover; a remainder too small for a window is ignored."""
    return stride * (pooled - 1) + kernel


def _taps(x: np.ndarray, axis: int, count: int, kernel: int, stride: int) -> list[np.ndarray]:
    """For each position in a window, the view of x with that position of all `count` windows along one axis (1 or 2)."""
    parts = [slice(tap, tap + stride * (count - 1) + 1, stride) for tap in range(kernel)]
    return [x[:, part] if axis == 1 else x[:, :, part] for part in parts]


def maxpool_forward(
    x: np.ndarray, y: np.ndarray, winners: Winners | None, *, kernel: int, stride: int, workspace: Workspace
) -> None:
    """y = the maximum of each window, without padding. `winners` is None where there is no backward pass.

    Those of half may be of its first rows only: where the rows of an image are divided, the others are of the part below.
    """
    n, p, q, c = y.shape
    rows = used_extent(p, kernel, stride)
    of_columns, of_rows = winners or (None, None)
    kept = 0 if of_columns is None else of_columns.shape[1]
    with workspace.frame():
        half = workspace.take((n, rows, q, c))
        for part, winner in ((slice(0, kept), of_columns), (slice(kept, rows), None)):
            if part.start < part.stop:
                _max_forward(_taps(x[:, part], 2, q, kernel, stride), half[:, part], winner, workspace)
        _max_forward(_taps(half, 1, p, kernel, stride), y, of_rows, workspace)


def maxpool_backward(
    dy: np.ndarray, winners: Winners, dx: np.ndarray, *, kernel: int, stride: int, workspace: Workspace
) -> None:
    """dx = dy at each window's winner, added up where windows overlap, and zero elsewhere."""
    n, p, q, c = dy.shape
    rows, columns = used_extent(p, kernel, stride), used_extent(q, kernel, stride)
    of_columns, of_rows = winners
    with workspace.frame():
        half = workspace.take((n, rows, q, c))
        half[:, stride * p :] = 0
        _max_backward(dy, of_rows, _taps(half, 1, p, kernel, stride), stride, workspace)
        dx[:, rows:] = 0
        dx[:, :rows, min(stride * q, columns) :] = 0
        _max_backward(half, of_columns, _taps(dx[:, :rows], 2, q, kernel, stride), stride, workspace)


def _max_forward(taps: list[np.ndarray], y: np.ndarray, winner: np.ndarray | None, workspace: Workspace) -> None:
    """y = the largest of the taps, winner = the index of the first one that is as large."""
    if winner is not None:
        winner.fill(0)
    best = taps[0]
    with workspace.frame():
        larger = workspace.take(y.shape, np.bool_)
        candidate = larger.view(np.uint8)
        for index, tap in enumerate(taps[1:], 1):
            if winner is not None:
                np.greater(tap, best, out=larger)
                # The indices ascend, so the last tap that was larger has the largest index: no branch is needed.
                np.multiply(candidate, index, out=candidate)
                np.maximum(winner, candidate, out=winner)
            np.maximum(best, tap, out=y)
            best = y
    if len(taps) == 1:
        y[...] = best


def _max_backward(
    dy: np.ndarray, winner: np.ndarray, taps: list[np.ndarray], stride: int, workspace: Workspace
) -> None:
    """Adds dy to the tap that has won. The first `stride` taps don't overlap, so they are written, not added to."""
    with workspace.frame():
        mask = workspace.take(dy.shape, np.bool_)
        part = workspace.take(dy.shape)
        for index, tap in enumerate(taps):
            np.equal(winner, index, out=mask)
            if index < stride:
                np.multiply(dy, mask, out=tap)
            else:
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
    """y[n, :, :, c] = rows @ x[n, :, :, c] @ columns^T, with one averaging matrix for each axis."""
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
