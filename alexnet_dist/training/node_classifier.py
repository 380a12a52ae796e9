"""The fully connected layers of a node, run by all its ranks together on the images of all (strategy `hybrid`).

Activations and their gradients lie in memory that the node's ranks share. Each rank puts its images' features there, all
compute their part of every product, and each takes its images' logits out; the same way back.
"""

import math

import numpy as np

from alexnet_dist.comm.node import Node, NodeTeam
from alexnet_dist.model.architecture import Linear, Network, rows
from alexnet_dist.model.layers import DropoutKey
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team


class NodeClassifier:
    """In the place of net.classifier. Every method is collective over the node's ranks."""

    def __init__(self, net: AlexNet, node: Node, team: Team) -> None:
        self.node = node
        batch = node.sum(net.batch)
        features, logits = net.features.blocks[-1].y.shape[1:], net.classifier.blocks[-1].y.shape[1:]
        self._features, self._dlogits = node.shared((batch, *features)), node.shared((batch, *logits))
        self._positions, self._counts = node.shared((batch,), np.int64), node.shared((node.size,), np.int64)
        self._chain = net.bind_classifier(batch, NodeTeam(node, team), True, node.shared)
        self._mine, self._total = slice(0, 0), 0  # which of the node's images are this rank's, and how many there are

    @staticmethod
    def memory(network: Network, batch: int) -> int:
        """Bytes of shared memory that it takes at most on a node whose ranks have `batch` images in all."""
        shapes = [(math.prod(row.input), row.output[0]) for row in rows(network)[1] if isinstance(row.layer, Linear)]
        largest = max(inputs for inputs, _ in shapes)
        # Of each layer the output, the dropout's mask and what it leaves; the features, and two gradients.
        floats = sum(2 * inputs + outputs for inputs, outputs in shapes) + shapes[-1][1] + 3 * largest
        return 4 * batch * floats

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
        """The gradient of this rank's features, if `data` asks for it; those of the parameters go to the sink."""
        self._dlogits[self._mine] = dy
        self.node.barrier()
        return self._chain.backward(self._dlogits[: self._total], sink, data)[self._mine]
