"""The fully connected kernels against float64, on blocks of their outputs."""

import numpy as np
import pytest
import reference

from alexnet_dist.kernels import linear
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


@pytest.mark.parametrize("images", [0, 1, 3, 4, 5])
def test_images_of_zeros_are_added_where_there_are_few(rng, images):
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((images, 70), (40, 70), (40,)))
    y, workspace = np.empty((images, 40), np.float32), Workspace()
    for _ in range(2):  # the second time, the workspace is dirty
        linear.linear_gemm_forward(x, w, b, y, workspace, images=4)
        assert reference.error(y, x.astype(np.float64) @ w.T.astype(np.float64) + b) < 1e-6 if images else y.size == 0
        workspace.take((1 << 16,)).fill(np.nan)
