"""AlexNet, described once: a table of layers from which shapes, parameters, checkpoint keys, the summary and the blocks
that run it are derived.

The network is torchvision's AlexNet: Krizhevsky et al. (2012) in one column, with the widths of "One weird trick for
parallelizing convolutional neural networks" (Krizhevsky, arXiv 1404.5997).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from alexnet_dist.kernels.conv_im2col import output_extent
from alexnet_dist.model.parameters import ParameterMap, ParameterSpec

Shape = tuple[int, ...]  # of one image: (H, W, C) inside the network, or (features,)


class Layer:
    """One entry of the table. Each kind of layer is a subclass; the summary prints its name. Shapes are of one image."""

    def output(self, shape: Shape) -> Shape:
        """The shape after the layer, from that before it."""
        return shape

    def parameters(self, key: str, shape: Shape) -> tuple[ParameterSpec, ...]:
        """Weight and bias of the layer whose key in a checkpoint is `key` (`features.0`), from the shape before it."""
        return ()


@dataclass(frozen=True)
class Conv2d(Layer):
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    paper_bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        h, w, _ = shape
        return (*(output_extent(extent, self.kernel, self.stride, self.padding) for extent in (h, w)), self.filters)

    def parameters(self, key: str, shape: Shape) -> tuple[ParameterSpec, ...]:
        k, c = self.kernel, shape[2]
        own_shape, file_shape, file_axes = (k, k, c, self.filters), (self.filters, c, k, k), (3, 2, 0, 1)
        weight = ParameterSpec("weight", own_shape, file_shape, file_axes, k * k * c, self.paper_bias)
        return weight_and_bias(key, weight)


@dataclass(frozen=True)
class ReLU(Layer):
    pass


@dataclass(frozen=True)
class MaxPool2d(Layer):
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.kernel:
            raise ValueError(f"a pooling's stride is {self.stride}, but must be from 1 to its kernel, {self.kernel}")

    def output(self, shape: Shape) -> Shape:
        h, w, c = shape
        return output_extent(h, self.kernel, self.stride, 0), output_extent(w, self.kernel, self.stride, 0), c


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Layer):
    size: int

    def output(self, shape: Shape) -> Shape:
        return self.size, self.size, shape[2]


@dataclass(frozen=True)
class Dropout(Layer):
    probability: float = 0.5


@dataclass(frozen=True)
class Linear(Layer):
    outputs: int
    paper_bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        return (self.outputs,)

    def parameters(self, key: str, shape: Shape) -> tuple[ParameterSpec, ...]:
        # After the convolutions, the inputs are in the order (H, W, C) here and (C, H, W) in torchvision.
        file_axes = (0, 3, 1, 2) if len(shape) == 3 else (0, 1)
        own_shape, fan_in = (self.outputs, *shape), math.prod(shape)
        weight = ParameterSpec("weight", own_shape, (self.outputs, fan_in), file_axes, fan_in, self.paper_bias)
        return weight_and_bias(key, weight)


def weight_and_bias(key: str, weight: ParameterSpec) -> tuple[ParameterSpec, ParameterSpec]:
    """This weight, and one bias for each output; for a layer whose outputs are the first axis of its weight in a file."""
    outputs = (weight.file_shape[0],)
    bias = replace(weight, name=f"{key}.bias", shape=outputs, file_shape=outputs, file_axes=(0,))
    return replace(weight, name=f"{key}.weight"), bias


@dataclass(frozen=True)
class Network:
    """The settings of a network. `width` scales every hidden layer: small networks for tests and small machines.
    `interpolation` is how its images are scaled, one of data.augment.INTERPOLATIONS: what reads them asks for it."""

    num_classes: int = 1000
    image_size: int = 224
    dropout: float = 0.5
    width: float = 1.0
    interpolation: str = "bilinear"

    def layers(self) -> tuple[list[Layer], list[Layer]]:
        """torchvision's `features` and `classifier`; a layer's index in its list is its number in a checkpoint's keys."""

        def scaled(channels: int) -> int:
            return max(1, round(channels * self.width))

        features: list[Layer] = [
            Conv2d(scaled(64), kernel=11, stride=4, padding=2),
            ReLU(),
            MaxPool2d(),
            Conv2d(scaled(192), kernel=5, padding=2, paper_bias=1),
            ReLU(),
            MaxPool2d(),
            Conv2d(scaled(384), kernel=3, padding=1),
            ReLU(),
            Conv2d(scaled(256), kernel=3, padding=1, paper_bias=1),
            ReLU(),
            Conv2d(scaled(256), kernel=3, padding=1, paper_bias=1),
            ReLU(),
            MaxPool2d(),
            AdaptiveAvgPool2d(6),
        ]
        classifier: list[Layer] = [
            Dropout(self.dropout),
            Linear(scaled(4096), paper_bias=1),
            ReLU(),
            Dropout(self.dropout),
            Linear(scaled(4096), paper_bias=1),
            ReLU(),
            Linear(self.num_classes),
        ]
        return features, classifier


class PlacedLayer(NamedTuple):
    """A layer in its network: its name in the summary, the shapes before and after it, its parameters."""

    name: str
    layer: Layer
    input: Shape
    output: Shape
    parameters: tuple[ParameterSpec, ...]


class LayerTable(NamedTuple):
    """The layers with their shapes, in the order in which they run."""

    features: list[PlacedLayer]
    classifier: list[PlacedLayer]

    @property
    def layers(self) -> list[PlacedLayer]:
        """The layers of both parts."""
        return self.features + self.classifier

    @property
    def parameters(self) -> ParameterMap:
        """Where the parameters lie in a flat buffer: those of the features first."""
        return ParameterMap([spec for layer in self.layers for spec in layer.parameters])

    def first_trained(self, frozen: int) -> int:
        """Where the trained parameters begin in the flat buffer, if the first `frozen` layers with parameters are not."""
        layers = [layer for layer in self.layers if layer.parameters]
        return sum(spec.size for layer in layers[:frozen] for spec in layer.parameters)

    @property
    def classifier_start(self) -> int:
        """Where in the flat buffer the classifier's parameters begin."""
        return sum(spec.size for layer in self.features for spec in layer.parameters)

    @property
    def classifier_matrices(self) -> tuple[tuple[int, int, int], ...]:
        """Of each of the classifier's parameters: where it begins in the flat buffer, its outputs, and floats of each."""
        ranges = self.parameters.ranges
        specs = [spec for layer in self.classifier for spec in layer.parameters]
        return tuple((ranges[spec.name][0], spec.shape[0], spec.size // spec.shape[0]) for spec in specs)


def layer_table(network: Network) -> LayerTable:
    """The layers of a network with their shapes and parameters.

    An adaptive average pooling to the size that the map already has changes nothing and is left out. Raises ValueError
    for images too small for the network.
    """
    features, classifier = network.layers()
    counts: dict[str, int] = {}
    shape: Shape = (network.image_size, network.image_size, 3)

    def place(part: str, layers: list[Layer]) -> list[PlacedLayer]:
        nonlocal shape
        placed = []
        for index, layer in enumerate(layers):
            before, shape = shape, layer.output(shape)
            if min(shape) < 1:
                raise ValueError(f"images of {network.image_size} pixels are too small: a map shrinks to {shape[:2]}")
            if isinstance(layer, AdaptiveAvgPool2d) and shape == before:
                continue
            kind = type(layer).__name__
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}-{sum(counts.values())}"
            specs = layer.parameters(f"{part}.{index}", before)
            placed.append(PlacedLayer(name, layer, before, shape, specs))
        return placed

    table = LayerTable(place("features", features), place("classifier", classifier))
    for part in table:  # the last layer with parameters is initialised differently
        for index, layer in enumerate(part):
            if layer.parameters and layer.parameters[-1] is table.parameters.specs[-1]:
                part[index] = layer._replace(parameters=tuple(replace(spec, last=True) for spec in layer.parameters))
    return table


def parameter_map(network: Network) -> ParameterMap:
    """Where the network's parameters lie in a flat buffer."""
    return layer_table(network).parameters


def summary(network: Network) -> str:
    """The table of layers as text: names, output shapes [N, C, H, W], numbers of parameters, and totals."""
    table = layer_table(network)
    lines = [("Layer", "Output shape", "Parameters")]
    for layer in table.layers:
        *plane, channels = layer.output
        flat = layer in table.classifier
        shape = ["N", *map(str, (math.prod(layer.output),) if flat else (channels, *plane))]
        lines.append((layer.name, f"[{', '.join(shape)}]", f"{sum(spec.size for spec in layer.parameters):,}"))
    text = [f"{name:<22}{shape:<22}{count:>14}" for name, shape, count in lines]
    rule = "-" * len(text[0])
    total = table.parameters.size
    end = f"Total parameters: {total:,} (all trainable, {total * 4 / 1e6:.0f} MB in float32)"
    return "\n".join([text[0], rule, *text[1:], rule, end])
