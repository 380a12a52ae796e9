"""Convolutions against the float64 reference: forward, and both gradients."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import conv_im2col, pointwise
from alexnet_dist.support.workspace import Workspace

# height, width, channels, filters, kernel, stride, padding: AlexNet's five on small maps, then odd ones
SHAPES = [
    (39, 39, 3, 8, 11, 4, 2),
    (13, 13, 8, 16, 5, 1, 2),
    (13, 13, 16, 8, 3, 1, 1),
    (12, 9, 3, 5, 4, 3, 0),
    (7, 10, 2, 3, 3, 2, 1),
    (5, 5, 1, 1, 5, 1, 0),
    (6, 6, 4, 2, 1, 1, 0),
]
TOLERANCE = 5e-6  # of the largest value, in float32


def make(shape, rng, n=3):
    h, w, c, k, kernel, stride, padding = shape
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, c, k)).astype(np.float32)
    bias = rng.standard_normal(k).astype(np.float32)
    extents = [conv_im2col.output_extent(extent, kernel, stride, padding) for extent in (h, w)]
    dy = rng.standard_normal((n, *extents, k)).astype(np.float32)
    return x, weight, bias, dy, {"stride": stride, "padding": padding}


def run(x, w, b, dy, geometry, workspace):
    """y, dx, dw, db by the kernels."""
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    dw, db = np.full_like(w, np.nan), np.full((len(x), len(b)), np.nan, np.float32)
    with workspace.frame():
        col = patches(x, w, dy, geometry, workspace)
        conv_im2col.conv_im2col_forward(col, w, y)
        weights(col, dy, dw, add=False, workspace=workspace)
    conv_im2col.conv_im2col_backward_data(dy, w, dx, **geometry, workspace=workspace)
    pointwise.bias_backward(dy, db)
    return y + b, dx, dw, db.sum(axis=0)


def patches(x, w, dy, geometry, workspace):
    """col, made in two parts of the map's rows."""
    col = workspace.take((*dy.shape[:3], *w.shape[:3]))
    cut = dy.shape[1] // 3
    for rows in (slice(0, cut), slice(cut, None)):
        if col[:, rows].size:
            conv_im2col.im2col(x, col[:, rows], rows.start, **geometry, workspace=workspace)
    return col


def weights(col, dy, dw, add, workspace):
    """dw, made in two parts of its rows."""
    k = dy.shape[3]
    col, rows = col.reshape(-1, dw.size // k), dw.reshape(-1, k)
    cut = len(rows) // 3
    for part in (slice(0, cut), slice(cut, None)):
        conv_im2col.conv_im2col_backward_weight(
            col[:, part], dy.reshape(-1, k), rows[part], add=add, workspace=workspace
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape, rng):
    x, w, b, dy, geometry = make(shape, rng)
    y, dx, dw, db = run(x, w, b, dy, geometry, Workspace())
    assert reference.error(y, reference.conv_forward(x, w, b, **geometry)) < TOLERANCE
    for actual, expected in zip((dx, dw, db), reference.conv_backward(x, w, dy, **geometry), strict=True):
        assert reference.error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_by_projection(shape, rng):
    x, w, b, dy, geometry = make(shape, rng)
    _, dx, dw, db = run(x, w, b, dy, geometry, Workspace())

    def loss(x, w, b):
        return float((reference.conv_forward(x, w, b, **geometry) * dy).sum())

    assert reference.gradient_error(lambda v: loss(v, w, b), x, dx) < 2e-5
    assert reference.gradient_error(lambda v: loss(x, v, b), w, dw) < 2e-5
    assert reference.gradient_error(lambda v: loss(x, w, v), b, db) < 2e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_second_call_on_a_dirty_workspace_gives_the_same_bits(shape, rng, soil):
    case = make(shape, rng)
    workspace = Workspace()
    first = run(*case, workspace)
    second = run(*case, soil(workspace))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


def test_weight_gradients_add_up_over_calls(rng):
    x, w, b, dy, geometry = make(SHAPES[1], rng, n=4)
    workspace = Workspace()
    _, _, whole, _ = run(x, w, b, dy, geometry, workspace)
    dw = np.zeros_like(w)
    for part in (slice(0, 1), slice(1, 4)):
        with workspace.frame():
            weights(patches(x[part], w, dy[part], geometry, workspace), dy[part], dw, add=True, workspace=workspace)
    assert reference.error(dw, whole) < TOLERANCE


def test_no_images(rng):
    x, w, b, dy, geometry = make(SHAPES[1], rng, n=0)
    y, dx, dw, db = run(x, w, b, dy, geometry, Workspace())
    assert len(y) == len(dx) == 0
    assert not dw.any()
    assert not db.any()
