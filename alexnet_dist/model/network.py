"""AlexNet in execution: forward and backward through the blocks of features and classifier.

The table of layers is in architecture.py, the memory of parameters in parameters.py; here the two are bound together.
"""

import math
from collections.abc import Sequence

import numpy as np

from alexnet_dist.model.architecture import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    Network,
    ReLU,
    Row,
    rows,
)
from alexnet_dist.model.convolutions import choose
from alexnet_dist.model.layers import Allocate, AveragePool, Bound, ConvBlock, DropoutKey, LinearBlock, Workers
from alexnet_dist.model.parameters import GradientSink, ParameterLayout
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import empty

Block = ConvBlock | AveragePool | LinearBlock


def layout_of(network: Network) -> ParameterLayout:
    """Where the network's parameters lie in a flat buffer."""
    top, bottom = rows(network)
    return ParameterLayout([spec for row in top + bottom for spec in row.parameters])


def split_of(layout: ParameterLayout) -> int:
    """Where in the flat buffer the parameters of the fully connected layers begin; those before are of convolutions."""
    return min(lo for name, (lo, _) in layout.ranges.items() if name.startswith("classifier."))


class Chain:
    """Blocks one after the other, and `floats` of memory for the gradient of any block's x.

    `allocate` makes that memory: workspace.empty, or memory that all workers see.
    """

    def __init__(self, blocks: Sequence[Block], floats: int, allocate: Allocate = empty) -> None:
        self.blocks = blocks
        self._inputs: list[np.ndarray] = []  # of each block in the latest forward pass
        # A block's dx is needed until the block before has read it as its dy: two buffers in turn are enough.
        self._gradients = [allocate((floats,)) for _ in range(2)]

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """What the last block makes of x [N, ...]; valid until the next call."""
        self._inputs = []
        for block in self.blocks:
            self._inputs.append(x)
            x = block.forward(x, dropout)
        return x

    def backward(self, dy: np.ndarray, sink: GradientSink, data: bool) -> np.ndarray:
        """Hands the gradient of every parameter to the sink, last block first; overwrites dy [N, ...].

        Belongs to the latest forward pass, whose x must still be there. Returns the gradient of x if `data` asks for it.
        """
        for number, (block, x) in reversed(list(enumerate(zip(self.blocks, self._inputs, strict=True)))):
            dx = self._gradients[number % 2][: x.size].reshape(x.shape) if data or number else None
            block.backward(x, dy.reshape(len(x), *block.y.shape[1:]), dx, sink)
            sink.poll()
            if dx is not None:
                dy = dx
        return dy


class AlexNet:
    """The network with the memory for up to `batch` images.

    `flat` holds the parameters as `layout_of(network)` says; it is read, never written, and may change only before the
    first forward pass, and between a backward pass and the next forward one. `training` allocates what backward and
    dropout need besides; `conv` is one of convolutions.MODES.
    """

    def __init__(
        self, network: Network, flat: np.ndarray, batch: int, team: Team, training: bool = False, conv: str = "auto"
    ) -> None:
        self.network, self.batch, self.team, self.training = network, batch, team, training
        self.layout = layout_of(network)
        self._views = self.layout.views(flat)
        top, bottom = rows(network)
        self.conv = conv
        features = self._bind_features(top)
        if isinstance(bottom[0].layer, AdaptiveAvgPool2d):
            features.append(AveragePool(bottom[0].input, bottom[0].output, batch, team))
        largest = max(math.prod(block.y.shape) for block in features[:-1])
        self.features = Chain(features, largest if training else 0)
        self._bottom = bottom
        self.classifier = self.bind_classifier(batch, team, training)

    @property
    def blocks(self) -> list[Block]:
        return [*self.features.blocks, *self.classifier.blocks]

    def forward(self, x: np.ndarray, dropout: DropoutKey | None = None) -> np.ndarray:
        """Logits [N, classes] of x [N, H, W, 3], normalised; valid until the next call. A key turns dropout on."""
        size = self.network.image_size
        if x.shape[1:] != (size, size, 3) or len(x) > self.batch:
            raise ValueError(f"x is {x.shape}, not up to {self.batch} images of ({size}, {size}, 3)")
        return self.classifier.forward(self.features.forward(x, dropout), dropout)

    def backward(self, dlogits: np.ndarray, sink: GradientSink) -> None:
        """Hands the gradient of every parameter to the sink, last layer first; overwrites dlogits [N, classes].

        Belongs to the latest forward pass, whose x must still be there.
        """
        self.features.backward(self.classifier.backward(dlogits, sink, data=True), sink, data=False)

    def bind_classifier(self, batch: int, team: Workers, training: bool, allocate: Allocate = empty) -> Chain:
        """The fully connected layers with memory of their own, on this network's parameters."""
        blocks: list[LinearBlock] = []
        dropout = 0.0
        for index, row in enumerate(self._bottom):
            if isinstance(row.layer, Dropout):
                dropout = row.layer.probability
            elif isinstance(row.layer, Linear):
                relu = index + 1 < len(self._bottom) and isinstance(self._bottom[index + 1].layer, ReLU)
                bound, number = self._bound(row), len(blocks)
                blocks.append(LinearBlock(bound, number, dropout, relu, batch, team, training, allocate))
                dropout = 0.0
        largest = batch * max(block.inputs for block in blocks)
        return Chain(blocks, largest if training else 0, allocate)

    def _bound(self, row: Row) -> Bound:
        weight, bias = (spec.name for spec in row.parameters)
        lo, mid = self.layout.ranges[weight]
        return Bound(self._views[weight], self._views[bias], lo, mid, self.layout.ranges[bias][1])

    def _bind_features(self, table: list[Row]) -> list[Block]:
        blocks: list[Block] = []
        for start, row in enumerate(table):
            if not isinstance(row.layer, Conv2d):
                continue
            conv, output, pooling = row.layer, row.output, None
            after = table[start + 2] if start + 2 < len(table) else row
            if isinstance(after.layer, MaxPool2d):
                output, pooling = after.output, {"kernel": after.layer.kernel, "stride": after.layer.stride}
            bound = self._bound(row)
            algorithm = choose(self.conv, bound.w, row.output, conv.stride, conv.padding, pixels=start == 0)
            blocks.append(
                ConvBlock(bound, algorithm, row.output, pooling, output, self.batch, self.team, self.training)
            )
        return blocks
