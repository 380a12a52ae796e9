"""Pooling against the float64 reference."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import pool
from alexnet_dist.kernels.conv_im2col import output_extent
from alexnet_dist.support.workspace import Workspace

SHAPES = [(55, 55, 3, 2), (13, 13, 3, 2), (9, 14, 3, 2), (8, 8, 2, 2), (7, 6, 3, 1), (11, 5, 4, 3)]


def run_maxpool(x, dy, kernel, stride, workspace):
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    n, p, q, c = dy.shape
    half = (n, pool.used_extent(p, kernel, stride), q, c)
    winners = np.full(half, 77, np.uint8), np.full(dy.shape, 77, np.uint8)
    pool.maxpool_forward(x, y, winners, kernel=kernel, stride=stride, workspace=workspace)
    pool.maxpool_backward(dy, winners, dx, kernel=kernel, stride=stride, workspace=workspace)
    return y, dx


def make(shape, rng, ties):
    h, w, kernel, stride = shape
    x = rng.standard_normal((2, h, w, 3)).astype(np.float32)
    if ties:
        x = np.round(x)  # a handful of values: most windows have several maxima
    extents = [output_extent(extent, kernel, stride, 0) for extent in (h, w)]
    return x, rng.standard_normal((2, *extents, 3)).astype(np.float32), kernel, stride


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_maxpool_equals_reference(shape, ties, rng):
    x, dy, kernel, stride = make(shape, rng, ties)
    y, dx = run_maxpool(x, dy, kernel, stride, Workspace())
    assert np.array_equal(y, reference.maxpool_forward(x, kernel, stride)[0])
    assert reference.error(dx, reference.maxpool_backward(x, dy, kernel, stride)) < 1e-6


def test_maxpool_gradient_by_projection(rng):
    x, dy, kernel, stride = make(SHAPES[1], rng, ties=False)
    _, dx = run_maxpool(x, dy, kernel, stride, Workspace())

    def loss(v):
        return float((reference.maxpool_forward(v, kernel, stride)[0] * dy).sum())

    assert reference.gradient_error(loss, x, dx) < 2e-5


def test_a_tied_window_passes_its_gradient_on_once(rng):
    dy = rng.standard_normal((1, 3, 3, 2)).astype(np.float32)
    _, dx = run_maxpool(np.zeros((1, 7, 7, 2), np.float32), dy, 3, 2, Workspace())
    assert dx.sum() == pytest.approx(dy.sum(), rel=1e-5)


def test_without_winners_the_same_maxima(rng):
    x, dy, kernel, stride = make(SHAPES[0], rng, ties=True)
    y = np.empty_like(dy)
    pool.maxpool_forward(x, y, None, kernel=kernel, stride=stride, workspace=Workspace())
    assert np.array_equal(y, reference.maxpool_forward(x, kernel, stride)[0])


def test_maxpool_on_a_dirty_workspace_gives_the_same_bits(rng, soil):
    case = make(SHAPES[2], rng, ties=True)
    workspace = Workspace()
    first = run_maxpool(*case, workspace)
    second = run_maxpool(*case, soil(workspace))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 5), (6, 7), (9, 6), (13, 12)])
def test_adaptive_avgpool_equals_reference(h, w, rng):
    x = rng.standard_normal((3, h, w, 4)).astype(np.float32)
    dy = rng.standard_normal((3, 6, 6, 4)).astype(np.float32)
    y, dx = np.empty_like(dy), np.empty_like(x)
    rows, columns = pool.averaging_matrix(h, 6), pool.averaging_matrix(w, 6)
    workspace = Workspace()
    pool.adaptive_avgpool_forward(x, rows, columns, y, workspace=workspace)
    pool.adaptive_avgpool_backward(dy, rows, columns, dx, workspace=workspace)
    assert reference.error(y, reference.adaptive_avgpool_forward(x, 6)) < 1e-6

    def loss(v):
        return float((reference.adaptive_avgpool_forward(v, 6) * dy).sum())

    assert reference.gradient_error(loss, x, dx) < 2e-5
