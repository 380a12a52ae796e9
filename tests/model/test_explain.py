"""Maps of where a network looks: Grad-CAM against finite differences in float64, occlusion against its definition, and both
on pictures of which a known part decides."""

from dataclasses import replace

import detector
import numpy as np
import pytest
import reference
from small import SMALL, images, make_net
from whole import forward64

from alexnet_dist.data.augment import normalize
from alexnet_dist.model.architecture import Conv2d, Dropout, Linear, MaxPool2d, Network, layer_table
from alexnet_dist.model.explain import OCCLUDERS, Explained, _centres, classifier_gradient, grad_cam, occlusion
from alexnet_dist.model.layers.linear import LinearBlock
from alexnet_dist.model.network import AlexNet
from alexnet_dist.support.threads import Team

LARGER = replace(SMALL, image_size=131)  # 7 x 7 places at the last convolution, 3 x 3 after the pooling


def after_last_convolution(net, flat, maps):
    """Logits in float64 from what the last convolution yields, after its ReLU."""
    table = layer_table(net.network)
    last = max(index for index, layer in enumerate(table.features) if isinstance(layer.layer, MaxPool2d))

    class Rest:
        parameters, network = net.parameters, net.network

    layers = table.layers[last:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whole.layer_table", lambda _: type("Table", (), {"layers": layers}))
        return forward64(Rest, flat.astype(np.float64), maps)


def last_convolution(net, flat, x):
    """What the last convolution yields in float64, after its ReLU."""
    table = layer_table(net.network)
    last = max(index for index, layer in enumerate(table.features) if isinstance(layer.layer, MaxPool2d))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whole.layer_table", lambda _: type("Table", (), {"layers": table.layers[:last]}))
        return forward64(net, flat.astype(np.float64), x)


def grad_cam64(net, flat, image, label):
    """The map by its definition: the gradient at every place of the last convolution by central differences."""
    maps = last_convolution(net, flat, image[np.newaxis])
    # Places of a window that are all 0 are equal, and the maximum has no gradient there: a little makes them differ.
    smooth = maps + 1e-6 * np.arange(1, maps.size + 1)[::-1].reshape(maps.shape)
    steps = 1e-7 * np.eye(maps.size).reshape(-1, *maps.shape[1:])
    up, down = (after_last_convolution(net, flat, smooth + sign * steps)[:, label] for sign in (1, -1))
    weights = ((up - down) / 2e-7).reshape(maps.shape).mean(axis=(0, 1, 2))
    heat = np.maximum(maps[0] @ weights, 0)
    return heat / heat.max()


def assert_is_grad_cam(net, flat, x, labels):
    explained = grad_cam(net, x, labels)
    assert explained.heat.shape == (len(x), 7, 7)
    assert explained.heat.dtype == np.float32
    for image, label, heat in zip(x, labels, explained.heat, strict=True):
        assert np.abs(heat - grad_cam64(net, flat, image, label)).max() < 1e-3


def test_grad_cam_is_its_definition():
    x, _ = images(LARGER, 3)
    with Team(2) as team:
        net, flat = make_net(team, LARGER, training=False)
        assert_is_grad_cam(net, flat, x, [5, 0, 5])


def test_a_wrong_gradient_is_noticed(monkeypatch):
    x, _ = images(LARGER, 1)
    with Team(1) as team:
        net, flat = make_net(team, LARGER, training=False)
        monkeypatch.setattr(LinearBlock, "backward_relu_", lambda self, dy: None)
        with pytest.raises(AssertionError, match=r"abs|max|<"):
            assert_is_grad_cam(net, flat, x, [5])


def test_the_classifiers_gradient():
    x, labels = images(LARGER, 2)
    with Team(2) as team:
        net, flat = make_net(team, LARGER, training=False)
        net.forward(x)
        given = net.features.blocks[-1].y[:2].astype(np.float64)
        gradient = classifier_gradient(net, labels)
    weights = [layer for layer in layer_table(LARGER).classifier if layer.parameters]

    def chosen(value):
        value = value.reshape(2, -1)
        for index, layer in enumerate(weights):
            w, b = (flat[slice(*net.parameters.ranges[spec.name])].astype(np.float64) for spec in layer.parameters)
            value = value @ w.reshape(len(b), -1).T + b
            value = value if index == 2 else np.maximum(value, 0)
        return float(value[np.arange(2), labels].sum())

    assert reference.gradient_error(chosen, given, gradient) < 1e-3


@pytest.mark.parametrize("explain", [grad_cam, occlusion])
def test_threads_and_batches_do_not_matter(explain):
    x, _ = images(SMALL, 3)
    maps = []
    for threads, batch in ((1, 3), (3, 5), (2, 8)):
        with Team(threads) as team:
            net, _ = make_net(team, batch=batch, training=False)
            explained = explain(net, x)
            alone = explain(net, x[1:2], explained.labels[1:2])
        np.testing.assert_allclose(alone.heat[0], explained.heat[1], rtol=0, atol=2e-4)
        assert explained.labels == explained.logits.argmax(axis=1).tolist()
        maps.append(explained.heat)
    np.testing.assert_allclose(maps[1], maps[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(maps[2], maps[0], rtol=0, atol=2e-4)


@pytest.mark.parametrize("conv", ["winograd", "direct"])
def test_what_the_convolution_yields_before_the_pooling(conv):
    x, _ = images(LARGER, 2)
    with Team(2) as team:
        given, flat = make_net(team, LARGER, training=False)
        net = type(given)(LARGER, flat, 2, team, conv=conv)
        net.forward(x)
        before, last = net.features.blocks[-3:-1]
        maps = last.unpooled(before.y)
    assert reference.error(maps, last_convolution(net, flat, x)) < 1e-4


def test_occlusion_is_its_definition():
    x, _ = images(SMALL, 1)
    label = 5
    with Team(2) as team:
        net, flat = make_net(team, training=False)
        explained = occlusion(net, x, [label])
        hidden = np.repeat(x, 3, axis=0)
        # 13 pixels around each centre, cut off at the edges: of a corner, of a place within, of the whole.
        hidden[1, 0:9, 0:9] = 0
        hidden[2, 29:42, 57:] = 0
        logits = forward64(net, flat.astype(np.float64), hidden)
    p = np.exp(logits[:, label]) / np.exp(logits).sum(axis=1)
    log_odds = np.log(p / (1 - p))
    assert explained.centres[[0, 7, 13]] == pytest.approx([1.89, 35.39, 64.11], abs=0.01)
    heat = explained.heat[0]
    drops = np.maximum(log_odds[0] - log_odds[1:], 0)
    assert drops.max() > 0
    assert heat.max() == 1
    assert heat.shape == (OCCLUDERS, OCCLUDERS)
    assert drops.min() > 0  # else one side of the comparison below is 0 times anything
    assert heat[0, 0] * drops[1] == pytest.approx(heat[7, 13] * drops[0], abs=1e-3 * drops.max())


def test_where_the_rows_of_a_map_lie():
    assert _centres(Network()).tolist() == [
        15 + 16 * row for row in range(13)
    ]  # what its receptive fields are centred on


@pytest.mark.parametrize("features", [[], [Conv2d(4, kernel=3), Dropout()]], ids=["no convolution", "another layer"])
def test_a_network_that_grad_cam_does_not_fit(features):
    class Other(Network):
        def layers(self):
            return features, [Linear(self.num_classes)]

    with pytest.raises(ValueError, match="end with a convolution"):
        _centres(Other(num_classes=2, image_size=9))


def test_a_map_over_a_picture():
    heat = np.array([[[0, 0.5], [0, 1]]], np.float32)
    explained = Explained(np.zeros((1, 2)), [0], heat, np.array([2.0, 7.0]), size=10)
    over = explained.over(0, 20, 14, (0.25, 2 / 14, 0.75, 12 / 14))  # the crop is 10 x 10 of 20 x 14 pixels
    assert over.shape == (14, 20)
    assert over.dtype == np.float32
    assert over[2 + 7, 5 + 7] == pytest.approx(1)
    assert over[2 + 2, 5 + 7] == pytest.approx(0.5)
    assert over[2 + 7, 5 + 4] == pytest.approx(0.4)  # between the centres
    assert over[11, 14] == pytest.approx(1)  # beyond the last of them
    outside = np.ones(over.shape, bool)
    outside[2:12, 5:15] = False
    assert (over[outside] == 0).all()


def test_a_map_of_nothing_is_zero():
    """Weights of 0: no place speaks for any class, and nothing is divided by 0."""
    x, _ = images(SMALL, 1)
    with Team(1) as team:
        net, flat = make_net(team, training=False)
        flat[:] = 0
        net.weights_changed()
        for explain in (grad_cam, occlusion):
            assert (explain(net, x).heat == 0).all()


@pytest.mark.parametrize("explain", [grad_cam, occlusion])
def test_the_part_that_decides_is_found(explain):
    """Each class has its square, and is found there; whichever of the two is the more probable class."""
    size, rng = detector.NETWORK.image_size, np.random.default_rng(0)
    with Team(2) as team:
        net = AlexNet(detector.NETWORK, detector.weights(), 8, team)
        for _ in range(5):
            red = tuple(int(place) for place in rng.integers(0, size - 3 * detector.SQUARE, 2))
            green = tuple(place + 2 * detector.SQUARE for place in red)
            x = np.empty((2, size, size, 3), np.float32)
            normalize(detector.picture((size, size), ("red", *red), ("green", *green)), x[0])
            x[1] = x[0]
            explained = explain(net, x, [0, 1])
            for index, (left, top) in enumerate((red, green)):
                row, column = detector.hottest(explained.over(index, size, size, (0, 0, 1, 1)))
                assert top <= row < top + detector.SQUARE
                assert left <= column < left + detector.SQUARE
