"""The network as it runs: forward and backward through the blocks of its features and of its classifier.

The table of layers is in architecture.py, the memory of parameters in parameters.py; binding.py brings the two together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from alexnet_dist.model.architecture import Dropout, LayerTable, Network, layer_table
from alexnet_dist.model.binding import Binder, bind
from alexnet_dist.model.layers.base import Allocate, Block, BlockContext, DropoutKey
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import empty

FEATURES, CLASSIFIER = range(2)  # the parts of the table of layers


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
    takes the place of a Chain of the classifier's layers. The first `frozen` layers with parameters aren't trained: they
    get no gradient and no dropout. `group` is as in BlockContext. Raises ValueError for a table that no blocks can run.
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
        frozen: int = 0,
        group: int = 0,
        classifier: "Callable[[AlexNet], Classifier] | None" = None,
    ) -> None:
        self.network, self.batch, self.group = network, batch, group
        self._table = layer_table(network)
        self.parameters = self._table.parameters
        self._views, self._conv = self.parameters.views(flat), conv
        context = BlockContext(batch, team, team, training, group=group)
        of_features, of_classifier = split(self._table, frozen)
        as_it_is = replace(context, training=False)
        still = [(FEATURES, slice(of_features)), (CLASSIFIER, slice(of_classifier))]
        self.frozen = Chain([block for part, layers in still for block in self._blocks(part, layers, as_it_is)], 0)
        self.features = self._chain(FEATURES, slice(of_features, None), context)
        self.classifier: Classifier = (
            classifier(self) if classifier else self._chain(CLASSIFIER, slice(of_classifier, None), context)
        )

    def forward(self, x: np.ndarray, dropout: DropoutKey | None = None, pieces: tuple[slice, ...] = ()) -> np.ndarray:
        """Logits [N, classes] of normalised images x [N, H, W, 3]; valid until the next call. A key turns dropout on.

        x may also be what `forward_frozen` has made of the images. `pieces` are as in ConvBlock, of all convolutions.
        """
        for block in self._convolutions:
            block.pieces = pieces
        if x.shape[1:] != self.frozen_shape:
            x = self.forward_frozen(x)
        return self.classifier.forward(self.features.forward(x, dropout), dropout)

    def forward_frozen(self, x: np.ndarray) -> np.ndarray:
        """What the frozen layers make of normalised images x [N, H, W, 3]: [N, *frozen_shape]; valid until the next call."""
        size = self.network.image_size
        if x.shape[1:] != (size, size, 3) or len(x) > self.batch:
            raise ValueError(f"x is {x.shape}, not up to {self.batch} images of ({size}, {size}, 3)")
        return self.frozen.forward(x, None)

    @property
    def frozen_shape(self) -> tuple[int, ...]:
        """The shape of what the frozen layers make of an image; () where no layer is frozen."""
        return self.frozen.blocks[-1].y.shape[1:] if self.frozen.blocks else ()

    @property
    def block(self) -> int:
        """How many images to evaluate at once: as many as there is memory for, in whole groups."""
        return self.batch - self.batch % self.group if self.group else self.batch

    def backward(self, dlogits: np.ndarray, sink: GradientSink) -> None:
        """Passes the gradient of every parameter to the sink, last layer first; overwrites dlogits [N, classes].

        It is that of the latest forward pass, whose x must be unchanged.
        """
        dy = self.classifier.backward(dlogits, sink, data=bool(self.features.blocks))
        self.features.backward(dy, sink, data=False)

    def weights_changed(self) -> None:
        """Forgets what earlier forward passes have kept of the parameters: they have changed without a backward pass."""
        for block in self._convolutions:
            block.weights_changed()

    @property
    def _convolutions(self) -> list[ConvBlock]:
        return [block for block in (*self.frozen.blocks, *self.features.blocks) if isinstance(block, ConvBlock)]

    @property
    def blocks(self) -> list[Block]:
        """All blocks in the order in which they run."""
        return [*self.frozen.blocks, *self.features.blocks, *self.classifier.blocks]

    def classifier_blocks(self, context: BlockContext) -> list[Block]:
        """Blocks for the layers of the classifier with memory of their own, on this network's parameters."""
        return self._blocks(CLASSIFIER, slice(None), context)

    def _blocks(self, part: int, layers: slice, context: BlockContext) -> list[Block]:
        """Blocks for some layers of a part of the table."""
        before = sum(bool(layer.parameters) for layer in self._table[part][: layers.start or 0])
        # The classifier's masks count from 0; those of features, which AlexNet doesn't have, begin at a number far above.
        first_mask = before + (0 if part == CLASSIFIER else 1 << 16)
        sees_images = part == FEATURES and not before
        binder = Binder(self.parameters, self._views, context, self._conv, not sees_images, first_mask)
        return bind(self._table[part][layers], binder)

    def _chain(self, part: int, layers: slice, context: BlockContext) -> Chain:
        """A chain of some layers of a part of the table."""
        blocks = self._blocks(part, layers, context)
        # Gradients of each block's x; that of the first one's is needed where layers below the classifier are trained.
        first = [self._table.classifier[0].input] if part == CLASSIFIER and self.features.blocks else []
        largest = max((math.prod(shape) for shape in first + [block.y.shape[1:] for block in blocks[:-1]]), default=0)
        return Chain(blocks, context.batch * largest if context.training else 0, context.allocate)


def split(table: LayerTable, frozen: int) -> tuple[int, int]:
    """How many layers of features and of the classifier are frozen: the first `frozen` with parameters, and what follows.

    A layer's dropout, which stands before it, is part of it.
    """
    counts = []
    for layers in table:
        starts = [index for index, layer in enumerate(layers) if layer.parameters]
        count = (starts[frozen] if frozen < len(starts) else len(layers)) if frozen else 0
        counts.append(count - (0 < count < len(layers) and isinstance(layers[count - 1].layer, Dropout)))
        frozen = max(0, frozen - len(starts))
    return counts[0], counts[1]
