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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_images_equals_reference(smoothing, rng):
    logits = (5 * rng.standard_normal((7, 11))).astype(np.float32)
    labels, others = rng.integers(0, 11, 7), rng.integers(0, 11, 7)
    others[2] = labels[2]  # two images of one class
    shares = rng.uniform(0.5, 1, 7).astype(np.float32)
    shares[3] = 1  # not mixed
    labels[4] = loss.NO_LABEL
    here = np.flatnonzero(labels >= 0)
    dlogits = np.empty_like(logits)
    mixed = loss.Mixed(others, shares)
    value = loss.cross_entropy(logits, labels, dlogits, total=24, smoothing=smoothing, mixed=mixed)

    def total(v):
        both = [reference.cross_entropy(v[here], which[here], smoothing) for which in (labels, others)]
        weights = shares[here].astype(np.float64)
        return float((weights * both[0] + (1 - weights) * both[1]).sum())

    assert value == pytest.approx(total(logits.astype(np.float64)), rel=1e-6)
    assert not dlogits[4].any()
    assert reference.gradient_error(lambda v: total(v) / 24, logits, dlogits) < 2e-5


def test_cross_entropy_of_mixed_images_is_that_of_torch(rng):
    torch = pytest.importorskip("torch")
    logits = (5 * rng.standard_normal((6, 11))).astype(np.float32)
    labels, others = rng.integers(0, 11, 6), rng.integers(0, 11, 6)
    shares = rng.uniform(0.5, 1, 6).astype(np.float32)
    dlogits = np.empty_like(logits)
    value = loss.cross_entropy(logits, labels, dlogits, total=6, smoothing=0.1, mixed=loss.Mixed(others, shares))
    targets = shares[:, None] * np.eye(11)[labels] + (1 - shares[:, None]) * np.eye(11)[others]
    x = torch.from_numpy(logits).double().requires_grad_()
    theirs = torch.nn.functional.cross_entropy(x, torch.from_numpy(targets), label_smoothing=0.1)
    theirs.backward()
    assert value / 6 == pytest.approx(theirs.item(), rel=1e-6)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_that_keep_all_of_themselves_have_the_loss_of_unmixed_ones(smoothing, rng):
    logits = (5 * rng.standard_normal((6, 11))).astype(np.float32)
    labels, others = rng.integers(0, 11, 6), rng.integers(0, 11, 6)
    alone, both = np.empty_like(logits), np.empty_like(logits)
    mixed = loss.Mixed(others, np.ones(6, np.float32))
    value = loss.cross_entropy(logits, labels, alone, total=6, smoothing=smoothing)
    assert loss.cross_entropy(logits, labels, both, total=6, smoothing=smoothing, mixed=mixed) == value
    np.testing.assert_array_equal(both, alone)


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


def test_sums_of_losses_don_t_depend_on_their_order(rng):
    logits = (5 * rng.standard_normal((64, 11))).astype(np.float32)
    labels = rng.integers(0, 11, 64)

    def value(rows):
        return loss.cross_entropy(logits[rows], labels[rows], np.empty_like(logits[rows]), total=64)

    whole = value(slice(None))
    for size in (1, 3, 8, 32):
        starts = rng.permutation(range(0, 64, size))
        assert sum(value(slice(start, start + size)) for start in starts) == whole
