"""Convolutions against the float64 reference: forward, and both gradients."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import conv_im2col, pointwise
from alexnet_dist.workspace import Workspace

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
    dw, db = np.full_like(w, np.nan), np.full_like(b, np.nan)
    conv_im2col.conv_im2col_forward(x, w, y, **geometry, workspace=workspace)
    conv_im2col.conv_im2col_backward_weight(x, dy, dw, add=False, **geometry, workspace=workspace)
    conv_im2col.conv_im2col_backward_data(dy, w, dx, **geometry, workspace=workspace)
    pointwise.bias_backward(dy, db, add=False, workspace=workspace)
    return y + b, dx, dw, db


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
    _, _, whole, whole_bias = run(x, w, b, dy, geometry, workspace)
    dw, db = np.zeros_like(w), np.zeros_like(b)
    for part in (slice(0, 1), slice(1, 4)):
        conv_im2col.conv_im2col_backward_weight(x[part], dy[part], dw, add=True, **geometry, workspace=workspace)
        pointwise.bias_backward(dy[part], db, add=True, workspace=workspace)
    assert reference.error(dw, whole) < TOLERANCE
    assert reference.error(db, whole_bias) < TOLERANCE


def test_no_images(rng):
    x, w, b, dy, geometry = make(SHAPES[1], rng, n=0)
    y, dx, dw, db = run(x, w, b, dy, geometry, Workspace())
    assert len(y) == len(dx) == 0
    assert not dw.any()
    assert not db.any()
