"""The fully connected layers of a node, run by its ranks together on the images of all of them (strategy `hybrid`).

Activations and their gradients are in memory that the node's ranks share. Each rank writes its images' features there,
all compute their part of every product, and each reads its images' logits; backward likewise.
"""

import math

import numpy as np

from alexnet_dist.comm.node import Node, NodeTeam
from alexnet_dist.model.architecture import Linear, Network, layer_table
from alexnet_dist.model.layers.base import BlockContext, DropoutKey
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team


def activation_bytes(network: Network, images: int) -> int:
    """Bytes of shared memory that a NodeClassifier takes at most, on a node whose ranks together have `images` images."""
    linear = [layer for layer in layer_table(network).classifier if isinstance(layer.layer, Linear)]
    shapes = [(math.prod(layer.input), layer.output[0]) for layer in linear]
    largest = max(inputs for inputs, _ in shapes)
    # For each layer the output, the dropout mask and the masked input; the logits' gradient; features, two gradients.
    floats = sum(2 * inputs + outputs for inputs, outputs in shapes) + shapes[-1][1] + 3 * largest
    return 4 * images * floats


class NodeClassifier:
    """Replaces a network's own classifier in training. Every method is collective over the node's ranks."""

    def __init__(self, net: AlexNet, node: Node, team: Team) -> None:
        self.node = node
        images = node.sum(net.batch)
        table = layer_table(net.network)
        features, logits = table.classifier[0].input, table.classifier[-1].output
        self._features, self._dlogits = node.shared((images, *features)), node.shared((images, *logits))
        self._positions, self._counts = node.shared((images,), np.int64), node.shared((node.size,), np.int64)
        self._chain = net.bind_classifier(BlockContext(images, team, NodeTeam(node, team), True, node.shared))
        self.blocks = self._chain.blocks
        self._mine, self._total = slice(0, 0), 0  # which of the node's images are this rank's, and how many there are

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """Logits [N, classes] of this rank's features x [N, H, W, C]; valid until the next call."""
        node = self.node
        self._counts[node.rank] = len(x)
        node.barrier()
        start, self._total = int(self._counts[: node.rank].sum()), int(self._counts.sum())
        self._mine = slice(start, start + len(x))
        self._features[self._mine] = x
        key = None
        if dropout is not None:
            self._positions[self._mine] = dropout.positions
            key = DropoutKey(dropout.seed, dropout.step, self._positions[: self._total])
        node.barrier()
        return self._chain.forward(self._features[: self._total], key)[self._mine]

    def backward(self, dy: np.ndarray, sink: GradientSink, data: bool) -> np.ndarray:
        """The gradient of this rank's features, if `data` is true; those of the parameters go to the sink."""
        self._dlogits[self._mine] = dy
        self.node.barrier()
        return self._chain.backward(self._dlogits[: self._total], sink, data)[self._mine]
