"""The optimizers against float64 on plain arrays, and on ranges."""

import numpy as np
import pytest
from optimizers64 import REFERENCES

from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.optim import (
    BLOCK,
    OPTIMIZERS,
    StepContext,
    hyperparameter_owners,
    hyperparameters,
    make_optimizer,
)


def context(name, p, g, lr, index):
    norms = {"parameter_norm": float(np.linalg.norm(p)), "gradient_norm": float(np.linalg.norm(g))}
    return StepContext(lr, index, name.endswith("bias"), **norms)


@pytest.mark.parametrize(("opt", "nesterov"), [*((opt, False) for opt in OPTIMIZERS), ("sgd", True)])
@pytest.mark.parametrize("name", ["weight", "layer.bias"])
@pytest.mark.parametrize("size", [1, 1000, 2 * BLOCK + 17])
def test_twenty_steps_equal_the_formula(opt, nesterov, name, size, rng):
    values = {
        "nesterov": nesterov,
        "bias_weight_decay": 0.3,
        "momentum": 0.8,
        "weight_decay": 0.02,
        "trust_coefficient": 0.01,
        "beta1": 0.8,
        "beta2": 0.99,
        "eps": 1e-6,
    }
    values = {field: values[field] for field in hyperparameters(opt)}
    ours, theirs = OPTIMIZERS[opt](**values), REFERENCES[opt](**values)
    p = rng.standard_normal(size).astype(np.float32)
    largest, workspace = 0.0, Workspace()
    state, p64 = [np.zeros(size, np.float32) for _ in ours.state], p.astype(np.float64)
    for index in range(20 if size < BLOCK else 3):
        lr = 0.1 / (1 + index % 3)
        g = rng.standard_normal(size).astype(np.float32)
        kept = g.copy()
        ours.update_(p, g, state, context(name, p, g, lr, index), workspace)
        assert np.array_equal(g, kept)
        p64 = theirs.step(name, p64, g.astype(np.float64), lr)
        largest = max(largest, np.abs(p64).max())  # a parameter may come close to zero
    assert np.abs(p - p64).max() < 1e-6 * largest


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_ranges_give_the_bits_of_the_whole(opt, rng):
    optimizer, n = OPTIMIZERS[opt](), 3 * BLOCK
    p, g = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    results = []
    for ranges in ([(0, n)], [(BLOCK + 5, n), (0, 7), (7, BLOCK + 5)]):
        values, state = p.copy(), [np.zeros(n, np.float32) for _ in optimizer.state]
        for lo, hi in ranges:
            step = context("weight", p, g, 0.1, 0)
            optimizer.update_(values[lo:hi], g[lo:hi], [array[lo:hi] for array in state], step, Workspace())
        results.append([values, *state])
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_all_zero_parameters_and_gradients_stay_finite(opt):
    optimizer, zero = OPTIMIZERS[opt](), np.zeros(10, np.float32)
    p, state = zero.copy(), [zero.copy() for _ in optimizer.state]
    optimizer.update_(p, zero, state, context("weight", p, zero, 0.1, 0), Workspace())
    assert not p.any()


def test_the_configuration_has_every_hyperparameter_with_the_same_default():
    for opt, kind in OPTIMIZERS.items():
        assert make_optimizer(opt, TrainingConfig(opt=opt)) == kind()
    assert hyperparameter_owners()["momentum"] == ["sgd", "lars"]
