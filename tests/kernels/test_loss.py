"""Fully connected, pointwise and loss kernels against float64."""

import math

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import linear, loss, pointwise
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.workspace import Workspace


@pytest.fixture
def dense(rng):
    shapes = {"x": (5, 70), "w": (40, 70), "b": (40,), "dy": (5, 40)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_linear_equals_reference_on_blocks(dense):
    x, w, b, dy = dense.values()
    y, dw, dx, db = np.empty_like(dy), np.empty_like(w), np.empty_like(x), np.empty_like(b)
    for lo in range(0, 40, 16):
        part = slice(lo, lo + 16)
        linear.linear_gemm_forward(x, w[part], b[part], y[:, part], Workspace())
        linear.linear_gemm_backward_weight(x, dy[:, part], dw[part])
    for lo in range(0, 70, 32):
        part = slice(lo, lo + 32)
        linear.linear_gemm_backward_data(dy, w[:, part], dx[:, part])
    linear.linear_gemm_backward_bias(dy, db)
    x64, w64, b64, dy64 = (v.astype(np.float64) for v in dense.values())
    assert reference.error(y, x64 @ w64.T + b64) < 1e-6
    assert reference.error(dw, dy64.T @ x64) < 1e-6
    assert reference.error(dx, dy64 @ w64) < 1e-6
    assert reference.error(db, dy64.sum(axis=0)) < 1e-6

    def scalar(x, w, b):
        return float(((x.astype(np.float64) @ w.astype(np.float64).T + b) * dy).sum())

    assert reference.gradient_error(lambda v: scalar(v, w, b), x, dx) < 2e-5
    assert reference.gradient_error(lambda v: scalar(x, v, b), w, dw) < 2e-5
    assert reference.gradient_error(lambda v: scalar(x, w, v), b, db) < 2e-5


def test_relu(rng):
    x = rng.standard_normal((4, 9)).astype(np.float32)
    dy = rng.standard_normal((4, 9)).astype(np.float32)
    y, dx = x.copy(), dy.copy()
    pointwise.relu_forward_(y)
    pointwise.relu_backward_(y, dx, Workspace())
    assert np.array_equal(y, np.where(x > 0, x, 0))
    assert np.array_equal(dx, np.where(x > 0, dy, 0))


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.9])
def test_dropout_mask_has_mean_one_and_two_values(probability):
    mask = np.empty(100_000, np.float32)
    pointwise.dropout_mask(generator(0, Purpose.DROPOUT, 3), probability, mask)
    assert set(np.unique(mask)) <= {np.float32(0), np.float32(1 / (1 - probability))}
    share = 1 - probability
    deviations = (mask.astype(bool).mean() - share) / math.sqrt(max(share * probability, 1e-12) / mask.size)
    assert abs(deviations) < 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_reference(smoothing, rng):
    logits = (5 * rng.standard_normal((6, 11))).astype(np.float32)
    labels = rng.integers(0, 11, 6)
    dlogits = np.empty_like(logits)
    value = loss.cross_entropy(logits, labels, dlogits, total=24, smoothing=smoothing)
    assert value == pytest.approx(reference.cross_entropy(logits, labels, smoothing).sum(), rel=1e-6)

    def mean(v):
        return float(reference.cross_entropy(v, labels, smoothing).sum() / 24)

    assert reference.gradient_error(mean, logits, dlogits) < 2e-5


def test_cross_entropy_of_huge_logits_and_missing_images(rng):
    logits = np.array([[1e4, -1e4, 0], [1, 2, 3], [0, 0, 1e4]], np.float32)
    dlogits = np.empty_like(logits)
    value = loss.cross_entropy(logits, np.array([0, loss.NO_LABEL, 0]), dlogits, total=2)
    assert value == pytest.approx(1e4)
    assert np.isfinite(dlogits).all()
    assert not dlogits[1].any()
    assert dlogits[2].tolist() == [-0.5, 0, 0.5]


def test_cross_entropy_of_no_rows():
    empty = np.empty((0, 4), np.float32)
    assert loss.cross_entropy(empty, np.empty(0, np.int64), empty.copy(), total=1) == 0


def test_count_correct_against_sorting(rng):
    logits = rng.standard_normal((200, 12)).astype(np.float32)
    labels = rng.integers(0, 12, 200)
    order = np.argsort(-logits, axis=1)
    expected = [int((order[:, :k] == labels[:, None]).any(axis=1).sum()) for k in (1, 5)]
    assert loss.count_correct(logits, labels) == expected


def test_count_correct_of_dead_and_diverged_networks():
    labels = np.array([0, 1, 2, 3, 4, 5, 6, loss.NO_LABEL])
    assert loss.count_correct(np.zeros((8, 7), np.float32), labels) == [1, 5]
    assert loss.count_correct(np.full((8, 7), np.nan, np.float32), labels) == [0, 0]
