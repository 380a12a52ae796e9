"""Sizes of the activations of fully connected layers that are divided among nodes: pure arithmetic.

Nodes are described by `sizes`, their numbers of ranks; `number` is the one that is meant, and each rank has `batch` images.
"""

import math
from collections.abc import Sequence

from alexnet_dist.model.architecture import Linear, Network, layer_table
from alexnet_dist.support.division import divide

FLOAT = 4  # bytes


def linear_shapes(network: Network) -> list[tuple[int, int]]:
    """Inputs and outputs of the fully connected layers."""
    layers = [layer for layer in layer_table(network).classifier if isinstance(layer.layer, Linear)]
    return [(math.prod(layer.input), layer.output[0]) for layer in layers]


def widest(shapes: Sequence[tuple[int, int]]) -> int:
    """The most values of an image of which a gradient is stored: some layer's inputs, or the logits."""
    return max(*(inputs for inputs, _ in shapes), shapes[-1][1])


def spread_floats(network: Network, sizes: Sequence[int], number: int, batch: int) -> tuple[int, int]:
    """What node `number` sends and receives in any of the exchanges at most, in floats."""
    total, own, others = sum(sizes) * batch, sizes[number] * batch, len(sizes) - 1
    shapes = linear_shapes(network)
    mine = divide(shapes[-1][1], sizes)[number]
    send = receive = total * (mine.stop - mine.start) + own * shapes[-1][1]  # logits, and more than their gradients
    for index, (inputs, _) in enumerate(shapes):
        mine = divide(inputs, sizes)[number]
        owned = own * inputs if index == 0 else total * (mine.stop - mine.start)
        rest = total * inputs - owned
        # To gather, a node sends what it owns and receives the rest; to sum, it sends the rest and each sends what it owns.
        send, receive = max(send, owned, rest), max(receive, rest, others * owned)
    return (send, receive) if others else (0, 0)


def activation_bytes(network: Network, sizes: Sequence[int], number: int, batch: int) -> int:
    """Bytes of shared memory that a WorldClassifier takes at most on node `number`."""
    shapes = linear_shapes(network)
    total, own = sum(sizes) * batch, sizes[number] * batch
    floats = 0
    for index, (inputs, outputs) in enumerate(
        shapes
    ):  # all of x, the outputs computed here, the masks of what is owned
        mine, computed = divide(inputs, sizes)[number], divide(outputs, sizes)[number]
        mask = own * inputs if index == 0 else total * (mine.stop - mine.start)
        floats += total * (inputs + computed.stop - computed.start) + mask
    # The features, the logits and their gradients, and two gradients of a layer's x.
    floats += own * (shapes[0][0] + 2 * shapes[-1][1]) + 2 * total * widest(shapes)
    return FLOAT * (floats + sum(spread_floats(network, sizes, number, batch)))


def activations_sent(network: Network, sizes: Sequence[int], number: int, batch: int, data: bool = True) -> int:
    """Bytes that node `number` sends to the others in a step, without headers of messages.

    Forward it sends what it owns of each layer's x to each other node, backward what others own of its part of dx; and
    the logits that it has computed of their images, and their gradients the other way. Without `data`, the gradient of the
    first layer's x isn't needed.
    """
    total, own, others = sum(sizes) * batch, sizes[number] * batch, len(sizes) - 1
    shapes = linear_shapes(network)
    floats = 0
    for index, (inputs, _) in enumerate(shapes):
        mine = divide(inputs, sizes)[number]
        owned = own * inputs if index == 0 else total * (mine.stop - mine.start)
        floats += others * owned + (total * inputs - owned) * (data or index > 0)
    classes = shapes[-1][1]
    mine = divide(classes, sizes)[number]
    computed = mine.stop - mine.start
    return FLOAT * (floats + (total - own) * computed + own * (classes - computed))
