"""Winograd's algorithm: its matrices exactly, its tiles as adjoints, its convolutions against float64."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels.conv_winograd import Winograd, gather, points, scatter
from alexnet_dist.model.convolutions import (
    ALGORITHMS,
    Im2colConv,
    StridedWinogradConv,
    WinogradConv,
    choose_convolution,
)
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace

OTHERS = [Winograd(2, 3, points(0, 1, -1)), Winograd(4, 3, points(0, 1, -1, 2, -2)), Winograd(1, 2, points(0))]
ALL = [*ALGORITHMS.values(), *OTHERS]
LIMIT = 5e-5  # of the largest value


@pytest.mark.parametrize("f", ALL, ids=lambda f: f"F({f.m},{f.r})")
def test_one_dimension_is_correlation(f, rng):
    d, g = rng.standard_normal(f.t), rng.standard_normal(f.r)
    y = f.a.astype(float).T @ ((f.g.astype(float) @ g) * (f.b.astype(float).T @ d))
    assert np.allclose(y, np.correlate(d, g, "valid"), atol=1e-5)


def test_known_matrices_of_f23():
    f = OTHERS[0]
    assert f.a.T.tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert np.abs(f.b).max() == 1
    assert np.abs(f.g).max() == 1


@pytest.mark.parametrize("f", ALL, ids=lambda f: f"F({f.m},{f.r})")
@pytest.mark.parametrize("overlap", [True, False])
def test_scatter_is_the_adjoint_of_gather(f, overlap, rng):
    matrix = np.ascontiguousarray(f.b.T) if overlap else f.a
    k, i, j = matrix.shape[1], 2, 3
    x = rng.standard_normal((2, i * f.m + k - f.m, j * f.m + k - f.m, 5)).astype(np.float32)
    m = rng.standard_normal((f.t, f.t, 2, i, j, 5)).astype(np.float32)
    v, back = np.full_like(m, np.nan), np.full_like(x, np.nan)
    gather(matrix, x, v, f.m, Workspace())
    scatter(matrix.T, m, back, f.m, Workspace())
    left, right = (v.astype(float) * m).sum(), (x.astype(float) * back).sum()
    assert left == pytest.approx(right, abs=1e-6 * float(np.linalg.norm(v) * np.linalg.norm(m)))
    assert np.isfinite(back).all()


# height, width, channels, filters, kernel, stride, padding, pixels
ALEXNET = [
    (224, 224, 3, 64, 11, 4, 2, True),
    (27, 27, 64, 192, 5, 1, 2, False),
    (13, 13, 192, 384, 3, 1, 1, False),
    (13, 13, 384, 256, 3, 1, 1, False),
    (13, 13, 256, 256, 3, 1, 1, False),
]
ODD = [
    (9, 17, 3, 5, 3, 1, 0, False),
    (6, 5, 2, 3, 5, 1, 2, False),
    (30, 41, 3, 4, 9, 4, 1, True),
    (3, 3, 4, 4, 3, 1, 1, False),
]


def make(shape, rng, n=3):
    h, w, c, k, kernel, stride, padding, pixels = shape
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    if not pixels:
        x = np.maximum(x, 0)  # what a ReLU leaves
    weight = (rng.standard_normal((kernel, kernel, c, k)) * np.sqrt(2 / (kernel**2 * c))).astype(np.float32)
    p, q = ((extent + 2 * padding - kernel) // stride + 1 for extent in (h, w))
    dy = rng.standard_normal((n, p, q, k)).astype(np.float32)
    return x, weight, dy, choose_convolution("winograd", weight, (p, q, k), stride, padding, pixels=pixels)


def run(convolution, x, w, dy, team):
    """y, dx, dw as a layer has them computed: the gradients in two chunks, written first, then added to."""
    p, q = dy.shape[1:3]
    z, dz = (np.zeros((len(x), *convolution.map_shape), np.float32) for _ in range(2))
    dx = None if isinstance(convolution, StridedWinogradConv) else np.full_like(x, np.nan)
    dz[:, :p, :q] = dy
    convolution.prepare(team)
    convolution.forward(team, x, z)
    du, dw = np.full(convolution.gradient_shape, np.nan, np.float32), np.full_like(w, np.nan)
    for part in (slice(0, 1), slice(1, None)):
        convolution.backward(team, x[part], dz[part], None if dx is None else dx[part], du, add=part.start > 0)
    convolution.finish(team, du, dw)
    return z[:, :p, :q], dx, dw


@pytest.mark.parametrize("shape", [*ALEXNET, *ODD], ids=str)
def test_equals_float64(shape, rng):
    x, w, dy, convolution = make(shape, rng)
    assert not isinstance(convolution, Im2colConv)
    stride, padding = shape[5:7]
    with Team(2) as team:
        y, dx, dw = run(convolution, x, w, dy, team)
    expected_dx, expected_dw, _ = reference.conv_backward(x, w, dy, stride, padding)
    assert reference.error(y, reference.conv_forward(x, w, np.zeros(len(w[0, 0, 0])), stride, padding)) < LIMIT
    assert reference.error(dw, expected_dw) < LIMIT
    if dx is not None:
        assert reference.error(dx, expected_dx) < LIMIT


@pytest.mark.parametrize("shape", ODD, ids=str)
def test_second_call_on_dirty_memory_gives_the_same_bits(shape, rng, soil):
    x, w, dy, convolution = make(shape, rng)
    with Team(2) as team:
        first = run(convolution, x, w, dy, team)
        for workspace in (*team.workspaces, team.shared):
            soil(workspace)
        second = run(convolution, x, w, dy, team)
    assert all(a is b or np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("mode", ["winograd", "direct"])
@pytest.mark.parametrize("threads", [3, 8])
def test_more_threads_than_images_give_the_same(mode, threads, rng):
    # Winograd's products are the same ones whoever makes them: to the bit. Patches are grouped otherwise: to rounding.
    x, w, dy, _ = make(ALEXNET[4], rng, n=2)
    results = []
    for size in (1, threads):
        with Team(size) as team:
            results.append(run(choose_convolution(mode, w, dy.shape[1:], 1, 1, pixels=False), x, w, dy, team))
    for one, many in zip(*results, strict=True):
        assert np.array_equal(one, many) if mode == "winograd" else reference.error(many, one) < 2e-6


@pytest.mark.parametrize("shape", ALEXNET[:2], ids=str)
def test_an_image_by_one_thread_is_that_by_the_team(shape, rng):
    # A large map: where each thread has an image it does all of it, else the team divides the points. To rounding, which
    # depends on BLAS's kernels: 2e-6 with those for AVX-512, 4e-6 with those for AVX2.
    x, w, dy, convolution = make(shape, rng, n=2)
    results = []
    for size in (2, 5):
        with Team(size) as team:
            results.append(run(convolution, x, w, dy, team))
    for one, many in zip(*results, strict=True):
        assert one is many or reference.error(many, one) < LIMIT / 2


def test_the_table_chooses():
    def algorithm(mode, h, c, k, kernel, stride, pixels=False):
        w = np.zeros((kernel, kernel, c, k), np.float32)
        return choose_convolution(mode, w, (h, h, k), stride, kernel // 2, pixels=pixels)

    assert isinstance(algorithm("auto", 13, 8, 8, 3, 1), WinogradConv)
    assert isinstance(algorithm("auto", 55, 3, 8, 11, 4, pixels=True), StridedWinogradConv)
    assert isinstance(algorithm("auto", 55, 3, 8, 11, 4), Im2colConv)  # no gradient of x by blocks
    assert isinstance(algorithm("auto", 1, 8, 8, 3, 1), Im2colConv)  # a tile for one pixel is a waste
    assert isinstance(algorithm("winograd", 1, 8, 8, 3, 1), WinogradConv)
    assert isinstance(algorithm("winograd", 13, 8, 8, 7, 1), Im2colConv)  # no points for seven taps
    assert isinstance(algorithm("direct", 13, 8, 8, 3, 1), Im2colConv)
