"""SGD against float64, and on ranges."""

import numpy as np
import pytest

from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.optim import BLOCK, SGD, StepContext


@pytest.mark.parametrize("size", [1, 1000, BLOCK, 2 * BLOCK + 17])
def test_three_steps_equal_the_formula(size, rng):
    sgd = SGD(momentum=0.9, weight_decay=0.01)
    p, v = rng.standard_normal(size).astype(np.float32), np.zeros(size, np.float32)
    p64, v64 = p.astype(np.float64), np.zeros(size)
    workspace = Workspace()
    for lr in (0.1, 0.05, 0.2):
        g = rng.standard_normal(size).astype(np.float32)
        kept = g.copy()
        sgd.update_(p, g, [v], StepContext(lr, 0), workspace)
        assert np.array_equal(g, kept)
        v64 = 0.9 * v64 + (g + 0.01 * p64)
        p64 -= lr * v64
    assert np.abs(p - p64).max() < 1e-6 * np.abs(p64).max()
    assert np.abs(v - v64).max() < 1e-6 * np.abs(v64).max()


def test_ranges_give_the_bits_of_the_whole(rng):
    sgd, n = SGD(), 3 * BLOCK
    p, g = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    v = np.zeros(n, np.float32)
    whole = p.copy(), v.copy()
    sgd.update_(whole[0], g, [whole[1]], StepContext(0.1, 0), Workspace())
    for lo, hi in ((BLOCK + 5, n), (0, 7), (7, BLOCK + 5)):
        sgd.update_(p[lo:hi], g[lo:hi], [v[lo:hi]], StepContext(0.1, 0), Workspace())
    assert np.array_equal(p, whole[0])
    assert np.array_equal(v, whole[1])
