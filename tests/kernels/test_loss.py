"""Cross-entropy against float64, and the count of right answers against sorting."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import loss


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
