"""The flat parameters, its conversion to torchvision's, and the initialisers."""

import numpy as np
import pytest
from small import SMALL

from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.model.parameters import INITIALIZERS, initialize


@pytest.fixture
def parameters():
    return parameter_map(SMALL)


def test_views_cover_the_buffer_without_gaps(parameters):
    flat = np.zeros(parameters.size, np.float32)
    for view in parameters.views(flat).values():
        view += 1
    assert (flat == 1).all()


def test_a_wrong_buffer_is_refused(parameters):
    with pytest.raises(ValueError, match="buffer"):
        parameters.views(np.zeros(parameters.size + 1, np.float32))


def test_file_layout_is_torchvisions_and_back(parameters):
    flat = np.random.default_rng(0).standard_normal(parameters.size).astype(np.float32)
    views = parameters.views(flat)
    back = np.zeros_like(flat)
    for spec in parameters.specs:
        stored = spec.to_file(views[spec.name])
        assert stored.shape == spec.file_shape
        assert stored.flags.c_contiguous
        spec.from_file(stored, parameters.views(back)[spec.name])
    assert np.array_equal(flat, back)
    conv, linear = parameters.specs[2], parameters.specs[10]
    assert conv.to_file(views[conv.name])[3, 1, 2, 4] == views[conv.name][2, 4, 1, 3]
    # Column c * 36 + h * 6 + w of torchvision's first fully connected layer is our (h, w, c).
    assert linear.to_file(views[linear.name])[5, 2 * 36 + 3 * 6 + 4] == views[linear.name][5, 3, 4, 2]


@pytest.mark.parametrize("scheme", sorted(INITIALIZERS))
def test_initialisers(scheme, parameters):
    flat = np.full(parameters.size, np.nan, np.float32)
    initialize(parameters, flat, scheme, seed=0)
    views = parameters.views(flat)
    spec = parameters.specs[10]
    weight, bias = views[spec.name], views["classifier.1.bias"]
    expected = {"he": np.sqrt(2 / spec.fan_in), "paper": 0.01, "torchvision": 1 / np.sqrt(3 * spec.fan_in)}[scheme]
    assert weight.std() == pytest.approx(expected, rel=0.02)
    assert abs(weight.mean()) < 3 * expected / np.sqrt(weight.size)
    assert np.abs(views["classifier.6.weight"]).max() < {"he": 0.06, "paper": 0.06, "torchvision": 0.07}[scheme]
    if scheme == "torchvision":
        assert 0 < np.abs(bias).max() <= 1 / np.sqrt(spec.fan_in)
    else:
        assert (bias == (1 if scheme == "paper" else 0)).all()


def test_seeds_differ_and_repeat(parameters):
    first, second, third = (np.empty(parameters.size, np.float32) for _ in range(3))
    for flat, seed in ((first, 1), (second, 1), (third, 2)):
        initialize(parameters, flat, "he", seed)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
