"""AlexNet in execution: forward and backward through the blocks of features and classifier.

The table of layers is in architecture.py, the memory of parameters in parameters.py; here the two are bound together.
"""

import numpy as np

from alexnet_dist.architecture import AdaptiveAvgPool2d, Conv2d, Dropout, Linear, MaxPool2d, Network, ReLU, Row, rows
from alexnet_dist.convolutions import choose
from alexnet_dist.layers import AveragePool, Bound, ConvBlock, DropoutKey, LinearBlock
from alexnet_dist.parameters import GradientSink, ParameterLayout
from alexnet_dist.threads import Team
from alexnet_dist.workspace import empty

Block = ConvBlock | AveragePool | LinearBlock


def layout_of(network: Network) -> ParameterLayout:
    """Where the network's parameters lie in a flat buffer."""
    top, bottom = rows(network)
    return ParameterLayout([spec for row in top + bottom for spec in row.parameters])


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
        self.features = self._bind_features(top)
        self.classifier = self._bind_classifier(bottom)
        self._inputs: list[np.ndarray] = []  # of each block in the latest forward pass
        if training:
            # A block's dx is needed until the block before has read it as its dy: two buffers in turn are enough.
            largest = max(int(np.prod(block.y.shape[1:])) for block in self.blocks[:-1])
            self._gradients = [empty((batch * largest,)) for _ in range(2)]

    @property
    def blocks(self) -> list[Block]:
        return [*self.features, *self.classifier]

    def forward(self, x: np.ndarray, dropout: DropoutKey | None = None) -> np.ndarray:
        """Logits [N, classes] of x [N, H, W, 3], normalised; valid until the next call. A key turns dropout on."""
        size = self.network.image_size
        if x.shape[1:] != (size, size, 3) or len(x) > self.batch:
            raise ValueError(f"x is {x.shape}, not up to {self.batch} images of ({size}, {size}, 3)")
        self._inputs = []
        for block in self.blocks:
            self._inputs.append(x)
            x = block.forward(x, dropout)
        return x

    def backward(self, dlogits: np.ndarray, sink: GradientSink) -> None:
        """Hands the gradient of every parameter to the sink, last layer first; overwrites dlogits [N, classes].

        Belongs to the latest forward pass, whose x must still be there.
        """
        dy = dlogits
        for number, (block, x) in reversed(list(enumerate(zip(self.blocks, self._inputs, strict=True)))):
            dx = None if number == 0 else self._gradients[number % 2][: x.size].reshape(x.shape)
            block.backward(x, dy.reshape(len(x), *block.y.shape[1:]), dx, sink)
            sink.poll()
            if dx is not None:
                dy = dx

    def _bound(self, row: Row) -> Bound:
        weight, bias = (spec.name for spec in row.parameters)
        lo, mid = self.layout.ranges[weight]
        return Bound(self._views[weight], self._views[bias], lo, mid, self.layout.ranges[bias][1])

    def _bind_features(self, table: list[Row]) -> list[ConvBlock]:
        blocks = []
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

    def _bind_classifier(self, table: list[Row]) -> list[Block]:
        blocks: list[Block] = []
        dropout = 0.0
        for index, row in enumerate(table):
            if isinstance(row.layer, AdaptiveAvgPool2d):
                blocks.append(AveragePool(row.input, row.output, self.batch, self.team))
            elif isinstance(row.layer, Dropout):
                dropout = row.layer.probability
            elif isinstance(row.layer, Linear):
                relu = index + 1 < len(table) and isinstance(table[index + 1].layer, ReLU)
                number = len(blocks)
                blocks.append(
                    LinearBlock(self._bound(row), number, dropout, relu, self.batch, self.team, self.training)
                )
                dropout = 0.0
        return blocks
