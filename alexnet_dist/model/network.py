"""The network as it runs: forward and backward through the blocks of its features and of its classifier.

The table of layers is in architecture.py, the memory of parameters in parameters.py; binding.py brings the two together.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from alexnet_dist.model.architecture import Network, PlacedLayer, layer_table
from alexnet_dist.model.binding import Binder, bind
from alexnet_dist.model.layers.base import Allocate, Block, BlockContext, DropoutKey
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import empty


class Chain:
    """Blocks that run one after the other.

    `floats` is the size of the largest gradient of a block's x; `allocate` makes memory for two of them: workspace.empty,
    or a function that makes memory shared by all workers.
    """

    def __init__(self, blocks: Sequence[Block], floats: int, allocate: Allocate = empty) -> None:
        self.blocks = blocks
        self._inputs: list[np.ndarray] = []  # of each block in the latest forward pass
        # A block's dx is needed until the block before it has read it as its dy: two alternating buffers are enough.
        self._gradients = [allocate((floats,)) for _ in range(2)]

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """The output of the last block for x [N, ...]; valid until the next call."""
        self._inputs = []
        for block in self.blocks:
            self._inputs.append(x)
            x = block.forward(x, dropout)
        return x

    def backward(self, dy: np.ndarray, sink: GradientSink, data: bool) -> np.ndarray:
        """Passes the gradient of every parameter to the sink, last block first; overwrites dy [N, ...].

        It is that of the latest forward pass, whose x must be unchanged. Returns the gradient of x if `data` is true.
        """
        for index, (block, x) in reversed(list(enumerate(zip(self.blocks, self._inputs, strict=True)))):
            dx = self._gradients[index % 2][: x.size].reshape(x.shape) if data or index else None
            block.backward(x, dy.reshape(len(x), *block.y.shape[1:]), dx, sink)
            sink.poll()
            if dx is not None:
                dy = dx
        return dy


class Classifier(Protocol):
    """Computes logits from features: a Chain, or something that distributes the fully connected layers over ranks."""

    blocks: Sequence[Block]

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """As Chain.forward."""
        ...

    def backward(self, dy: np.ndarray, sink: GradientSink, data: bool) -> np.ndarray:
        """As Chain.backward."""
        ...


class AlexNet:
    """The network with the memory for up to `batch` images.

    `flat` holds the parameters as `parameter_map(network)` says; it is read, never written, and may change only before the
    first forward pass, between a backward pass and the next forward one, and before a call of `weights_changed`.
    `training` allocates what backward and dropout need besides; `conv` is one of convolutions.MODES; `classifier` makes what
    takes the place of a Chain of the classifier's layers. Raises ValueError for a table that no blocks can run.
    """

    def __init__(
        self,
        network: Network,
        flat: np.ndarray,
        batch: int,
        team: Team,
        *,
        training: bool = False,
        conv: str = "auto",
        classifier: "Callable[[AlexNet], Classifier] | None" = None,
    ) -> None:
        self.network, self.batch = network, batch
        self._table = layer_table(network)
        self.parameters = self._table.parameters
        self._views, self._conv = self.parameters.views(flat), conv
        context = BlockContext(batch, team, team, training)
        self.features = self._chain(self._table.features, context, data=False)
        self.classifier: Classifier = (
            classifier(self) if classifier else self._chain(self._table.classifier, context, data=True)
        )

    def forward(self, x: np.ndarray, dropout: DropoutKey | None = None) -> np.ndarray:
        """Logits [N, classes] of normalised images x [N, H, W, 3]; valid until the next call. A key turns dropout on."""
        size = self.network.image_size
        if x.shape[1:] != (size, size, 3) or len(x) > self.batch:
            raise ValueError(f"x is {x.shape}, not up to {self.batch} images of ({size}, {size}, 3)")
        return self.classifier.forward(self.features.forward(x, dropout), dropout)

    def backward(self, dlogits: np.ndarray, sink: GradientSink) -> None:
        """Passes the gradient of every parameter to the sink, last layer first; overwrites dlogits [N, classes].

        It is that of the latest forward pass, whose x must be unchanged.
        """
        self.features.backward(self.classifier.backward(dlogits, sink, data=True), sink, data=False)

    def weights_changed(self) -> None:
        """Forgets what earlier forward passes have kept of the parameters: they have changed without a backward pass."""
        for block in self.blocks:
            if isinstance(block, ConvBlock):
                block.weights_changed()

    @property
    def blocks(self) -> list[Block]:
        """The blocks of features and classifier, in the order in which they run."""
        return [*self.features.blocks, *self.classifier.blocks]

    def classifier_blocks(self, context: BlockContext) -> list[Block]:
        """Blocks for the layers of the classifier with memory of their own, on this network's parameters."""
        return self._blocks(self._table.classifier, context, data=True)

    def _blocks(self, layers: list[PlacedLayer], context: BlockContext, data: bool) -> list[Block]:
        # The classifier's masks count from 0; those of features, which AlexNet doesn't have, begin at a number far above.
        return bind(layers, Binder(self.parameters, self._views, context, self._conv, data, 0 if data else 1 << 16))

    def _chain(self, layers: list[PlacedLayer], context: BlockContext, data: bool) -> Chain:
        """A chain of these layers; `data`: the gradient of its x will be needed."""
        blocks = self._blocks(layers, context, data)
        inputs = [layer.input for layer in layers[:1]] * data + [block.y.shape[1:] for block in blocks[:-1]]
        largest = max((math.prod(shape) for shape in inputs), default=0)
        return Chain(blocks, context.batch * largest if context.training else 0, context.allocate)
