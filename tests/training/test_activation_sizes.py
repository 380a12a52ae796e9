"""Sizes of what is divided among nodes: by hand for AlexNet, and what must add up for any nodes."""

import pytest

from alexnet_dist.model.architecture import Network
from alexnet_dist.support.division import divide
from alexnet_dist.training.activation_sizes import activations_sent, linear_shapes, spread_floats


@pytest.mark.parametrize("weights", [(1,), (1, 1), (2, 1), (3, 3, 2), (1,) * 40])
@pytest.mark.parametrize("count", [0, 3, 16, 1000, 4096])
def test_parts_cover_everything_once_and_begin_on_cache_lines(count, weights):
    parts = divide(count, weights)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
    assert all(part.start % 16 == 0 for part in parts)
    for part, weight in zip(parts, weights, strict=True):
        assert abs((part.stop - part.start) - count * weight / sum(weights)) <= 16


def test_alexnet_on_two_nodes_by_hand():
    assert linear_shapes(Network()) == [(9216, 4096), (4096, 4096), (4096, 1000)]
    # An image: half of the features, of both hidden layers and of their gradients; of the images of the other node half of
    # the logits, of its own half of the gradients of the logits. (496 of 1000: parts begin at multiples of 16.)
    floats = 128 * (9216 + 4096 + 4096) + 64 * 496 + 64 * 504
    assert activations_sent(Network(), (1, 1), 0, 64) == 4 * floats
    assert activations_sent(Network(), (1,), 0, 128) == 0


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (3, 3, 2)])
def test_what_all_send_is_what_all_need(sizes):
    network, batch = Network(num_classes=37), 5
    images, others = sum(sizes) * batch, len(sizes) - 1
    # All nodes but the owner get each value of x once, and each owner gets that of dx from all others.
    activations = sum(inputs for inputs, _ in linear_shapes(network)) * images * 2 * others
    logits = 0
    for number, size in enumerate(sizes):  # each logit that is not computed where its image is, there and back
        mine = divide(37, sizes)[number]
        logits += 2 * size * batch * (37 - (mine.stop - mine.start))
    assert sum(activations_sent(network, sizes, k, batch) for k in range(len(sizes))) == 4 * (activations + logits)
    assert all(min(spread_floats(network, sizes, k, batch)) > 0 for k in range(len(sizes)))
