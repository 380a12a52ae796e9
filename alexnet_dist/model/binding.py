"""Makes blocks from the table of layers: each pattern takes the layers that one block runs.

So every layer of the table runs, or an error is raised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_dist.model.architecture import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Layer,
    Linear,
    MaxPool2d,
    PlacedLayer,
    ReLU,
)
from alexnet_dist.model.convolutions import choose_convolution
from alexnet_dist.model.layers.average_pool import AveragePool
from alexnet_dist.model.layers.base import Block, BlockContext, LayerParameters
from alexnet_dist.model.layers.conv import ConvBlock, ConvShape
from alexnet_dist.model.layers.linear import LinearBlock, LinearShape
from alexnet_dist.model.parameters import ParameterMap


@dataclass(frozen=True)
class Binder:
    """What a pattern needs to make a block: the parameters' memory, the threads, and the memory for results."""

    parameters: ParameterMap
    views: dict[str, np.ndarray]
    context: BlockContext
    conv: str  # one of convolutions.MODES
    data: bool  # whether the gradient of the first layer's x is needed; that of the images isn't
    first_mask: int  # the index of the first block's dropout masks; no other block has the same

    @property
    def alone(self) -> bool:
        """Whether this rank's team computes alone; with other ranks, only fully connected layers can run."""
        return self.context.workers is self.context.team

    def parameters_of(self, layer: PlacedLayer) -> LayerParameters:
        """A layer's weight and bias."""
        weight, bias = (spec.name for spec in layer.parameters)
        starts = (self.parameters.ranges[name][0] for name in (weight, bias))
        return LayerParameters(self.views[weight], self.views[bias], *starts)


@dataclass(frozen=True)
class Match:
    """The block that runs the first `count` of the layers passed to a pattern."""

    block: Block
    count: int


# (the remaining layers of a part, how many blocks the part has already, binder) -> the match, or None if these layers
# don't begin as the pattern does.
Pattern = Callable[[Sequence[PlacedLayer], int, Binder], Match | None]


def match_conv(layers: Sequence[PlacedLayer], index: int, binder: Binder) -> Match | None:
    """Conv2d, optional ReLU, optional MaxPool2d."""
    first = layers[0]
    if not isinstance(first.layer, Conv2d) or not binder.alone:
        return None
    conv, parameters, pooling = first.layer, binder.parameters_of(first), None
    relu = _is_kind(layers, 1, ReLU)
    end = 1 + relu
    if end < len(layers) and isinstance(pool := layers[end].layer, MaxPool2d):
        pooling = {"kernel": pool.kernel, "stride": pool.stride}
        end += 1
    pixels = index == 0 and not binder.data
    convolution = choose_convolution(binder.conv, parameters.w, first.output, conv.stride, conv.padding, pixels=pixels)
    shape = ConvShape(first.output, layers[end - 1].output, pooling, relu)
    return Match(ConvBlock(parameters, convolution, shape, binder.context), end)


def match_average_pool(layers: Sequence[PlacedLayer], index: int, binder: Binder) -> Match | None:
    """AdaptiveAvgPool2d."""
    first = layers[0]
    if not isinstance(first.layer, AdaptiveAvgPool2d) or not binder.alone:
        return None
    return Match(AveragePool(first.input, first.output, binder.context), 1)


def match_linear(layers: Sequence[PlacedLayer], index: int, binder: Binder) -> Match | None:
    """Optional Dropout, Linear, optional ReLU."""
    first = layers[0].layer
    dropout = first.probability if isinstance(first, Dropout) else None
    start = 0 if dropout is None else 1
    if not _is_kind(layers, start, Linear):
        return None
    relu = _is_kind(layers, start + 1, ReLU)
    shape = LinearShape(binder.first_mask + index, dropout or 0.0, relu)
    return Match(LinearBlock(binder.parameters_of(layers[start]), shape, binder.context), start + 1 + relu)


PATTERNS: list[Pattern] = [match_conv, match_average_pool, match_linear]


def _is_kind(layers: Sequence[PlacedLayer], index: int, kind: type[Layer]) -> bool:
    return index < len(layers) and isinstance(layers[index].layer, kind)


def bind(layers: Sequence[PlacedLayer], binder: Binder) -> list[Block]:
    """The blocks that run these layers. Raises ValueError for a layer that no pattern takes."""
    blocks: list[Block] = []
    start = 0
    while start < len(layers):
        rest = layers[start:]
        match = next((match for pattern in PATTERNS if (match := pattern(rest, len(blocks), binder))), None)
        if match is None:
            raise ValueError(f"{rest[0].name} can't run where it stands: no pattern of model/binding.py takes it")
        blocks.append(match.block)
        start += match.count
    return blocks
