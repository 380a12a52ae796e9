"""Float64 truths that the kernels are held against, and the gradient checker.

Written from the definitions, tap by tap, in another way than the kernels: slow, and plain enough to be believed.
Shapes as in the kernels: x [N, H, W, C], w [R, S, C, K], y [N, P, Q, K].
"""

from collections.abc import Callable

import numpy as np


def conv_forward(x, w, b, stride, padding):
    x, w = x.astype(np.float64), w.astype(np.float64)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    r, s, _, k = w.shape
    p, q = (x.shape[1] - r) // stride + 1, (x.shape[2] - s) // stride + 1
    y = np.zeros((len(x), p, q, k)) + b.astype(np.float64)
    for i in range(p):
        for j in range(q):
            window = x[:, i * stride : i * stride + r, j * stride : j * stride + s]
            y[:, i, j] += np.tensordot(window, w, axes=3)
    return y


def conv_backward(x, w, dy, stride, padding):
    """dx, dw, db."""
    x, w, dy = x.astype(np.float64), w.astype(np.float64), dy.astype(np.float64)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    r, s, _, _ = w.shape
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            window = np.s_[:, i * stride : i * stride + r, j * stride : j * stride + s]
            dw += np.tensordot(padded[window], dy[:, i, j], axes=(0, 0))
            dpadded[window] += np.tensordot(dy[:, i, j], w, axes=(1, 3))
    end = np.s_[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
    return dpadded[end], dw, dy.sum(axis=(0, 1, 2))


def maxpool_forward(x, kernel, stride):
    """y, and for each y the place of its maximum in the window, the first one where several are equal."""
    x = x.astype(np.float64)
    n, h, w, c = x.shape
    p, q = (h - kernel) // stride + 1, (w - kernel) // stride + 1
    y, place = np.zeros((n, p, q, c)), np.zeros((n, p, q, c), int)
    for i in range(p):
        for j in range(q):
            window = x[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel].reshape(n, -1, c)
            y[:, i, j], place[:, i, j] = window.max(axis=1), window.argmax(axis=1)
    return y, place


def maxpool_backward(x, dy, kernel, stride):
    _, place = maxpool_forward(x, kernel, stride)
    dx = np.zeros(x.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        row, column = divmod(place[n, i, j, c], kernel)
        dx[n, i * stride + row, j * stride + column, c] += dy[n, i, j, c]
    return dx


def adaptive_avgpool_forward(x, size):
    x = x.astype(np.float64)
    n, h, w, c = x.shape
    y = np.zeros((n, size, size, c))
    for i in range(size):
        for j in range(size):
            rows = slice(i * h // size, -(-(i + 1) * h // size))
            columns = slice(j * w // size, -(-(j + 1) * w // size))
            y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return y


def cross_entropy(logits, labels, smoothing=0.0):
    """The losses, one a row."""
    logits = logits.astype(np.float64)
    k = logits.shape[1]
    target = np.full(logits.shape, smoothing / k)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -(target * log_p).sum(axis=1)


def error(actual, expected) -> float:
    """The largest difference, as a share of the largest expected value."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-300))


def gradient_error(
    function: Callable[[np.ndarray], float], x: np.ndarray, gradient: np.ndarray, seed: int = 0, directions: int = 5
) -> float:
    """How far `gradient` is from that of a scalar float64 function at x, relative, by random projection.

    Along a random direction d, the central difference of the function is compared with gradient . d; of several
    directions the worst counts. Differences of a smooth float64 function at a step of 1e-5 of x's scale are good to
    about 1e-9, so that an error of 0.1 % stands out by far.
    """
    rng = np.random.default_rng(seed)
    x, gradient = x.astype(np.float64), gradient.astype(np.float64)
    step = 1e-5 * max(np.abs(x).max(), 1e-3)
    worst = 0.0
    for _ in range(directions):
        # A direction that leans to the gradient, so that the projection can't be small by accident.
        d = rng.standard_normal(x.shape) + np.sqrt(x.size) * gradient / max(np.linalg.norm(gradient), 1e-300)
        d /= np.abs(d).max()
        numeric = (function(x + step * d) - function(x - step * d)) / (2 * step)
        projected = float((gradient * d).sum())
        worst = max(worst, abs(numeric - projected) / max(abs(numeric), abs(projected), 1e-300))
    return worst
