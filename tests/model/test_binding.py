"""Any table of layers runs as it says, or is refused: networks that are not AlexNet, against float64."""

from dataclasses import dataclass

import numpy as np
import pytest
from small import images, make_net
from vgg import VggLike
from whole import assert_equals_reference

from alexnet_dist.model.architecture import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    Network,
    ReLU,
    layer_table,
    summary,
)
from alexnet_dist.model.layers.base import DropoutKey
from alexnet_dist.support.threads import Team


@pytest.mark.parametrize("hidden", [1, 2])  # two and three fully connected layers
@pytest.mark.parametrize("threads", [1, 2])
def test_a_vgg_like_table_equals_the_reference(hidden, threads):
    network = VggLike(hidden=hidden)
    with Team(threads) as team:
        net, flat = make_net(team, network, batch=4)
        masks = assert_equals_reference(net, flat, *images(network, 4), DropoutKey(0, 3, np.arange(4)))
        assert len(masks) == hidden


def test_its_parameters_follow_from_the_table():
    table = layer_table(VggLike(hidden=2))
    keys = [spec.name for spec in table.parameters.specs if not spec.is_bias]
    places = ["features.0", "features.2", "features.5", "features.7", "classifier.0", "classifier.3", "classifier.6"]
    assert keys == [f"{place}.weight" for place in places]
    convolutions = 3 * 9 * 6 + 6 + 6 * 9 * 8 + 8 + 8 * 9 * 10 + 10 + 10 * 9 * 7 + 7
    assert table.classifier_start == convolutions
    assert table.parameters.ranges["classifier.0.weight"][0] == convolutions
    assert [spec.name for spec in table.parameters.specs if spec.last] == ["classifier.6.weight", "classifier.6.bias"]
    assert "Conv2d-8" in summary(VggLike())


@dataclass(frozen=True)
class Table(Network):
    """Whatever layers a test wants."""

    num_classes: int = 3
    image_size: int = 12
    features: tuple = ()
    classifier: tuple = ()

    def layers(self):
        return list(self.features), list(self.classifier)


CONV, LAST = Conv2d(4, kernel=3), Linear(3)


@pytest.mark.parametrize(
    ("features", "classifier"),
    [
        ((CONV,), (LAST,)),
        ((CONV, MaxPool2d(3, 1), Conv2d(5, kernel=1), AdaptiveAvgPool2d(2)), (LAST,)),
        ((CONV, AdaptiveAvgPool2d(3), Conv2d(5, kernel=2)), (Dropout(0.3), LAST)),
        ((CONV, MaxPool2d(2, 2)), (Linear(6), Linear(7), ReLU(), LAST)),
        ((), (LAST,)),
        ((AdaptiveAvgPool2d(20), Conv2d(4, 11, 4, 2)), (LAST,)),
        ((CONV, Dropout(0.4), Linear(9)), (Dropout(0.4), Linear(9), Dropout(0.4), LAST)),
    ],
)
def test_other_tables_equal_the_reference(features, classifier):
    network = Table(features=features, classifier=classifier)
    with Team(2) as team:
        net, flat = make_net(team, network, batch=3)
        masks = assert_equals_reference(net, flat, *images(network, 3), DropoutKey(0, 3, np.arange(3)))
    assert len({mask.tobytes() for mask in masks}) == len(masks), "two layers have the same mask"


@pytest.mark.parametrize(
    ("features", "classifier", "name"),
    [
        ((ReLU(), CONV), (LAST,), "ReLU-1"),
        ((CONV, ReLU(), ReLU()), (LAST,), "ReLU-3"),
        ((CONV, MaxPool2d(), ReLU()), (LAST,), "ReLU-3"),
        ((MaxPool2d(), CONV), (LAST,), "MaxPool2d-1"),
        ((CONV, Dropout()), (LAST,), "Dropout-2"),
        ((CONV,), (LAST, Dropout()), "Dropout-3"),
        ((CONV,), (Dropout(), Dropout(), LAST), "Dropout-2"),
    ],
)
def test_a_layer_that_would_not_run_is_refused(features, classifier, name):
    with Team(1) as team, pytest.raises(ValueError, match=f"{name} can't run where it stands"):
        make_net(team, Table(features=features, classifier=classifier))


def test_windows_that_leave_pixels_out_are_refused():
    with pytest.raises(ValueError, match="stride is 3, but must be from 1 to its kernel, 2"):
        MaxPool2d(kernel=2, stride=3)
