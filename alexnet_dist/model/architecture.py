"""AlexNet, described once: a table of layers from which shapes, parameters, checkpoint keys and the summary follow.

The network is torchvision's AlexNet: Krizhevsky et al. (2012) in one column, with the widths of "One weird trick for
parallelizing convolutional neural networks" (Krizhevsky, arXiv 1404.5997).
"""

from dataclasses import dataclass
from typing import NamedTuple

from alexnet_dist.kernels.conv_im2col import output_extent
from alexnet_dist.model.parameters import ParameterSpec

Shape = tuple[int, ...]  # of one image: (H, W, C) inside the network, or (features,)


@dataclass(frozen=True)
class Conv2d:
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    paper_bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        h, w, _ = shape
        return (*(output_extent(extent, self.kernel, self.stride, self.padding) for extent in (h, w)), self.filters)


@dataclass(frozen=True)
class ReLU:
    def output(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class MaxPool2d:
    kernel: int = 3
    stride: int = 2

    def output(self, shape: Shape) -> Shape:
        h, w, c = shape
        return output_extent(h, self.kernel, self.stride, 0), output_extent(w, self.kernel, self.stride, 0), c


@dataclass(frozen=True)
class AdaptiveAvgPool2d:
    size: int = 6

    def output(self, shape: Shape) -> Shape:
        return self.size, self.size, shape[2]


@dataclass(frozen=True)
class Dropout:
    probability: float = 0.5

    def output(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Linear:
    outputs: int
    paper_bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        return (self.outputs,)


Layer = Conv2d | ReLU | MaxPool2d | AdaptiveAvgPool2d | Dropout | Linear


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


class Row(NamedTuple):
    """One layer in its place: its name in the summary, the shapes around it, its parameters."""

    name: str
    layer: Layer
    input: Shape
    output: Shape
    parameters: tuple[ParameterSpec, ...]


def rows(network: Network) -> tuple[list[Row], list[Row]]:
    """The layers of features and of classifier with their shapes.

    Between the two, torchvision averages the map to 6 x 6; where it is that already, the layer changes nothing and is
    left out. Raises ValueError for images too small for the network.
    """
    features, classifier = network.layers()
    counts: dict[str, int] = {}
    shape: Shape = (network.image_size, network.image_size, 3)

    def place(key: str, layer: Layer, last: bool = False) -> Row:
        nonlocal shape
        before, shape = shape, layer.output(shape)
        if min(shape) < 1:
            raise ValueError(f"images of {network.image_size} pixels are too small: a map shrinks to {shape[:2]}")
        number = sum(counts.values()) + 1
        kind = type(layer).__name__
        counts[kind] = counts.get(kind, 0) + 1
        return Row(f"{kind}-{number}", layer, before, shape, _parameters(key, layer, before, last))

    top = [place(f"features.{index}", layer) for index, layer in enumerate(features)]
    pool = AdaptiveAvgPool2d()
    bottom = [] if pool.output(shape) == shape else [place("avgpool", pool)]
    end = len(classifier) - 1
    bottom += [place(f"classifier.{index}", layer, index == end) for index, layer in enumerate(classifier)]
    return top, bottom


def _parameters(key: str, layer: Layer, shape: Shape, last: bool) -> tuple[ParameterSpec, ...]:
    inside: Shape
    file: Shape
    axes: tuple[int, ...]
    if isinstance(layer, Conv2d):
        k, c, outputs = layer.kernel, shape[2], layer.filters
        fan_in = k * k * c
        inside, file, axes = (k, k, c, outputs), (outputs, c, k, k), (3, 2, 0, 1)
    elif isinstance(layer, Linear):
        outputs = layer.outputs
        fan_in = 1
        for extent in shape:
            fan_in *= extent
        # After the convolutions, our rows run over (H, W, C) and torchvision's over (C, H, W).
        inside, file = (outputs, *shape), (outputs, fan_in)
        axes = (0, 3, 1, 2) if len(shape) == 3 else (0, 1)
    else:
        return ()
    return (
        ParameterSpec(f"{key}.weight", inside, file, axes, fan_in, layer.paper_bias, last),
        ParameterSpec(f"{key}.bias", (outputs,), (outputs,), (0,), fan_in, layer.paper_bias, last),
    )


def summary(network: Network) -> str:
    """The table of layers as text: names, output shapes [N, C, H, W], numbers of parameters, and totals."""
    top, bottom = rows(network)
    lines = [("Layer", "Output shape", "Parameters")]
    total = 0
    for row in top + bottom:
        flat = isinstance(row.layer, (Dropout, Linear)) or len(row.output) == 1
        channels_first = (row.output[-1], *row.output[:-1])
        features = 1
        for extent in row.output:
            features *= extent
        shape = ["N", *map(str, (features,) if flat else channels_first)]
        count = sum(spec.size for spec in row.parameters)
        total += count
        lines.append((row.name, f"[{', '.join(shape)}]", f"{count:,}"))
    table = [f"{name:<22}{shape:<22}{count:>14}" for name, shape, count in lines]
    table.insert(1, "-" * len(table[0]))
    table += [table[1], f"Total parameters: {total:,} (all trainable, {total * 4 / 1e6:.0f} MB in float32)"]
    return "\n".join(table)
