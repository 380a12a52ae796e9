"""The checker is checked: it passes a right gradient, and catches one that is wrong by 0.1 %."""

import numpy as np
import pytest
import reference


def cubic(x):
    return float((x**3 / 3 + np.roll(x, 1) * x).sum())


def cubic_gradient(x):
    return x**2 + np.roll(x, 1) + np.roll(x, -1)


def test_accepts_the_right_gradient(rng):
    x = rng.standard_normal((4, 50))
    x = x.reshape(-1)
    assert reference.gradient_error(cubic, x, cubic_gradient(x)) < 1e-8


@pytest.mark.parametrize("planted", ["scaled", "one sign", "shifted"])
def test_catches_a_planted_error(planted, rng):
    x = rng.standard_normal(200)
    gradient = cubic_gradient(x)
    if planted == "scaled":
        gradient *= 1.001
    elif planted == "one sign":
        gradient[np.abs(gradient).argmax()] *= -1
    else:
        gradient += 0.001 * np.linalg.norm(gradient) / np.sqrt(gradient.size)
    assert reference.gradient_error(cubic, x, gradient) > 2e-5  # the tolerance of the kernels' tests
