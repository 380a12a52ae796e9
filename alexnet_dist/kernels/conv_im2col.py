"""Convolution as a matrix multiplication over unrolled patches (im2col; Chellapilla, Puri and Simard, 2006).

    col[p, (r, s, c)] = x[image of p, row of p * stride + r - padding, column of p * stride + s - padding, c]
    y = col @ w        dw += col^T @ dy        dcol = dy @ w^T, and each patch is added back to where it came from

Any kernel, stride, padding and size. As in every framework, "convolution" is cross-correlation. The
bias is not added here: after the pooling there are fewer values to add it to.

Legend: N images, H W height and width of x, C its channels, K filters, R S height and width of a filter, P Q height and
width of y. x [N, H, W, C], w [R, S, C, K], y [N, P, Q, K]; float32, C-contiguous. N is a chunk of the batch: it
sets the size of the scratch memory, N * P * Q * R * S * C floats.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from alexnet_dist.workspace import Workspace


def output_extent(extent: int, kernel: int, stride: int, padding: int) -> int:
    """Height or width of a convolution's or a pooling's output."""
    return (extent + 2 * padding - kernel) // stride + 1


def pad(x: np.ndarray, padding: int, extent: tuple[int, int], workspace: Workspace) -> np.ndarray:
    """x with `padding` zeros above and left of it, and as many below and right as make it [N, *extent, C].

    x itself where nothing is to be added.
    """
    n, h, w, c = x.shape
    if (h, w) == extent:
        return x
    padded = workspace.take((n, *extent, c))
    bottom, right = padding + h, padding + w
    padded[:, :padding] = 0
    padded[:, bottom:] = 0
    padded[:, padding:bottom, :padding] = 0
    padded[:, padding:bottom, right:] = 0
    padded[:, padding:bottom, padding:right] = x
    return padded


def windows(x: np.ndarray, r: int, s: int, p: int, q: int, stride: int) -> np.ndarray:
    """Every window of a padded x, as a view without a copy: [N, P, Q, R, S, C]."""
    dn, dh, dw, dc = x.strides
    return as_strided(x, (x.shape[0], p, q, r, s, x.shape[3]), (dn, stride * dh, stride * dw, dh, dw, dc))


def im2col(x: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, padding: int, workspace: Workspace) -> np.ndarray:
    """The patches of x as rows: [N * P * Q, R * S * C]; of w and y, only the shapes are read."""
    r, s, c, _ = w.shape
    n, p, q, _ = y.shape
    col = workspace.take((n, p, q, r, s, c))
    extent = (x.shape[1] + 2 * padding, x.shape[2] + 2 * padding)
    np.copyto(col, windows(pad(x, padding, extent, workspace), r, s, p, q, stride))
    return col.reshape(n * p * q, r * s * c)


def conv_im2col_forward(
    x: np.ndarray, w: np.ndarray, y: np.ndarray, *, stride: int, padding: int, workspace: Workspace
) -> None:
    """y = x convolved with w."""
    k = w.shape[3]
    with workspace.frame():
        col = im2col(x, w, y, stride, padding, workspace)
        np.matmul(col, w.reshape(-1, k), out=y.reshape(-1, k))


def conv_im2col_backward_weight(
    x: np.ndarray, dy: np.ndarray, dw: np.ndarray, *, add: bool, stride: int, padding: int, workspace: Workspace
) -> None:
    """dw = the gradient of w over the images of x, or adds it to dw."""
    k = dw.shape[3]
    rows = dy.reshape(-1, k)
    with workspace.frame():
        col = im2col(x, dw, dy, stride, padding, workspace)
        whole = dw.reshape(-1, k)
        part = workspace.take(whole.shape) if add else whole
        np.matmul(col.T, rows, out=part)
        if add:
            whole += part


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
