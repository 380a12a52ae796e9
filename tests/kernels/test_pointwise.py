"""ReLU against NumPy, and the statistics of dropout's masks."""

import math

import numpy as np
import pytest

from alexnet_dist.kernels import pointwise
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.workspace import Workspace


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
