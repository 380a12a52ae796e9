"""Convolution as a matrix multiplication over unrolled patches (im2col; Chellapilla, Puri and Simard, 2006).

    col[p, (r, s, c)] = x[image of p, row of p * stride + r - padding, column of p * stride + s - padding, c]
    y = col @ w        dw += col^T @ dy        dcol = dy @ w^T, and each patch is added back to where it came from

Any kernel, stride, padding and size. As in every framework, "convolution" is cross-correlation. The
bias is not added here: after the pooling there are fewer values to add it to.

Legend: N images, H W height and width of x, C its channels, K filters, R S height and width of a filter, P Q height and
width of y. x [N, H, W, C], w [R, S, C, K], y [N, P, Q, K], col [N, P, Q, R, S, C]; float32. N is a chunk of the batch:
it sets the size of col.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from alexnet_dist.support.workspace import Workspace


def output_extent(extent: int, kernel: int, stride: int, padding: int) -> int:
    """Height or width of a convolution's or a pooling's output."""
    return (extent + 2 * padding - kernel) // stride + 1


def padded_rows(x: np.ndarray, padding: int, lo: int, hi: int, *, width: int, workspace: Workspace) -> np.ndarray:
    """Rows lo to hi of x with zeros around it: [N, hi - lo, width, C].

    Row 0 and column 0 of x are number `padding` here; rows and columns past the end of x are zero, too. Returns a view
    of x where no zeros are needed.
    """
    n, h, w, c = x.shape
    if padding == 0 and width == w and hi <= h:
        return x[:, lo:hi]
    rows = workspace.take((n, hi - lo, width, c))
    top, bottom = (min(max(edge - lo, 0), hi - lo) for edge in (padding, padding + h))
    rows[:, :top] = 0
    rows[:, bottom:] = 0
    rows[:, top:bottom, :padding] = 0
    rows[:, top:bottom, padding + w :] = 0
    rows[:, top:bottom, padding : padding + w] = x[:, lo + top - padding : lo + bottom - padding]
    return rows


def im2col(x: np.ndarray, col: np.ndarray, first: int, *, stride: int, padding: int, workspace: Workspace) -> None:
    """Fills col [N, P, Q, R, S, C] with the patches of x for P rows of the map, beginning with row `first`."""
    p, r = col.shape[1], col.shape[3]
    lo = first * stride
    with workspace.frame():
        rows = padded_rows(
            x, padding, lo, lo + (p - 1) * stride + r, width=x.shape[2] + 2 * padding, workspace=workspace
        )
        dn, dh, dw, dc = rows.strides
        np.copyto(col, as_strided(rows, col.shape, (dn, stride * dh, stride * dw, dh, dw, dc)))


def conv_im2col_forward(col: np.ndarray, w: np.ndarray, y: np.ndarray) -> None:
    """y = the patches in col times w. If N is 1, y [N, P, Q, K] may be a view of some rows of a larger map."""
    k = w.shape[3]
    np.matmul(col.reshape(-1, w.size // k), w.reshape(-1, k), out=y.reshape(-1, k))


def conv_im2col_backward_weight(
    col: np.ndarray, dy: np.ndarray, dw: np.ndarray, *, add: bool, workspace: Workspace
) -> None:
    """dw = the gradient of some rows of w [R S C, K], or dw += it if `add`; col [patches, rows], dy [patches, K]."""
    with workspace.frame():
        part = workspace.take(dw.shape) if add else dw
        np.matmul(col.T, dy, out=part)
        if add:
            dw += part


def conv_im2col_backward_data(
    dy: np.ndarray, w: np.ndarray, dx: np.ndarray, *, stride: int, padding: int, workspace: Workspace
) -> None:
    """dx = the gradient of x."""
    r, s, c, k = w.shape
    n, p, q, _ = dy.shape
    _, h, width, _ = dx.shape
    with workspace.frame():
        dcol = workspace.take((n * p * q, r * s * c))
        np.matmul(dy.reshape(-1, k), w.reshape(-1, k).T, out=dcol)
        patches = dcol.reshape(n, p, q, r, s, c)
        padded = workspace.take((n, h + 2 * padding, width + 2 * padding, c))
        padded.fill(0)
        for i in range(r):
            for j in range(s):
                padded[:, i : i + stride * p : stride, j : j + stride * q : stride] += patches[:, :, :, i, j]
        dx[...] = padded[:, padding : padding + h, padding : padding + width]
