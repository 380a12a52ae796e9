"""AlexNet, described once: a table of layers from which shapes, parameters, checkpoint keys, the summary and the network
in execution follow.

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
    """One entry of the table; a kind of layer is a subclass, whose name the summary prints. Shapes are of one image."""

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
        inside, file, axes = (k, k, c, self.filters), (self.filters, c, k, k), (3, 2, 0, 1)
        return weight_and_bias(key, ParameterSpec("weight", inside, file, axes, k * k * c, self.paper_bias))


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
        # After the convolutions, our rows run over (H, W, C) and torchvision's over (C, H, W).
        axes = (0, 3, 1, 2) if len(shape) == 3 else (0, 1)
        inside, fan_in = (self.outputs, *shape), math.prod(shape)
        weight = ParameterSpec("weight", inside, (self.outputs, fan_in), axes, fan_in, self.paper_bias)
        return weight_and_bias(key, weight)


def weight_and_bias(key: str, weight: ParameterSpec) -> tuple[ParameterSpec, ParameterSpec]:
    """The parameters of a layer whose file keeps its outputs on the first axis: this weight, and a bias an output."""
    outputs = (weight.file_shape[0],)
    bias = replace(weight, name=f"{key}.bias", shape=outputs, file_shape=outputs, file_axes=(0,))
    return replace(weight, name=f"{key}.weight"), bias


@dataclass(frozen=True)
class Network:
    """What a network is made from. `width` scales every hidden layer: small nets for tests and small machines."""

    num_classes: int = 1000
    image_size: int = 224
    dropout: float = 0.5
    width: float = 1.0

    def layers(self) -> tuple[list[Layer], list[Layer]]:
        """torchvision's `features` and `classifier`; a layer's place in its list is its number in a checkpoint's keys."""

        def wide(channels: int) -> int:
            return max(1, round(channels * self.width))

        features: list[Layer] = [
            Conv2d(wide(64), kernel=11, stride=4, padding=2),
            ReLU(),
            MaxPool2d(),
            Conv2d(wide(192), kernel=5, padding=2, paper_bias=1),
            ReLU(),
            MaxPool2d(),
            Conv2d(wide(384), kernel=3, padding=1),
            ReLU(),
            Conv2d(wide(256), kernel=3, padding=1, paper_bias=1),
            ReLU(),
            Conv2d(wide(256), kernel=3, padding=1, paper_bias=1),
            ReLU(),
            MaxPool2d(),
            AdaptiveAvgPool2d(6),
        ]
        classifier: list[Layer] = [
            Dropout(self.dropout),
            Linear(wide(4096), paper_bias=1),
            ReLU(),
            Dropout(self.dropout),
            Linear(wide(4096), paper_bias=1),
            ReLU(),
            Linear(self.num_classes),
        ]
        return features, classifier


class PlacedLayer(NamedTuple):
    """One layer in its place: its name in the summary, the shapes around it, its parameters."""

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
        """Those of both parts."""
        return self.features + self.classifier

    @property
    def parameters(self) -> ParameterMap:
        """Where the parameters lie in a flat buffer: those of the features first."""
        return ParameterMap([spec for layer in self.layers for spec in layer.parameters])

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
    """The layers of a network in their places.

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
    for part in table:  # the last layer with parameters starts otherwise than the others
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
