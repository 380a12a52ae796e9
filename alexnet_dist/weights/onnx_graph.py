"""The table of layers as a graph of ONNX operators. Legend: N images, C channels, H W height and width, NCHW as in ONNX."""

from typing import Any

import numpy as np

from alexnet_dist.model.architecture import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    Network,
    PlacedLayer,
    ReLU,
    layer_table,
)

INPUT, OUTPUT = "images", "logits"


class Graph:
    """Nodes and constants that compute OUTPUT [N, classes] from INPUT [N, 3, H, W]; `onnx` is the package's module.

    The parameters are constants by the names that they have in a checkpoint, which the caller adds.
    """

    def __init__(self, onnx: Any, network: Network) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._value = INPUT
        table = layer_table(network)
        for layer in table.features:
            self._add(layer)
        self._node("Flatten", axis=1)
        for layer in table.classifier:
            self._add(layer)
        self.nodes[-1].output[0] = OUTPUT

    def _add(self, placed: PlacedLayer) -> None:
        names = [spec.name for spec in placed.parameters]
        match placed.layer:
            case Conv2d(kernel=kernel, stride=stride, padding=padding):
                shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
                self._node("Conv", *names, **shape)
            case ReLU():
                self._node("Relu")
            case MaxPool2d(kernel=kernel, stride=stride):
                self._node("MaxPool", kernel_shape=[kernel] * 2, strides=[stride] * 2)
            case AdaptiveAvgPool2d(size=size):
                self._average(placed.input[:2], size)
            case Linear():
                self._node("Gemm", *names, transB=1)
            case Dropout():
                pass  # does nothing outside of training
            case other:
                raise TypeError(f"no ONNX operator is known for {other}")

    def _average(self, extents: tuple[int, ...], size: int) -> None:
        """ONNX has no adaptive pooling: the averages over rows, then those over columns, are products with a matrix."""
        rows, columns = (averages(extent, size) for extent in extents)
        self.constants |= {"average.rows": rows, "average.columns": np.ascontiguousarray(columns.T)}
        self._node("MatMul", "average.rows", first=False)
        self._node("MatMul", "average.columns")

    def _node(self, kind: str, *constants: str, first: bool = True, **attributes: object) -> None:
        """An operator on the latest value, which is its first input or its last."""
        inputs = [self._value, *constants] if first else [*constants, self._value]
        self._value = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [self._value], name=self._value, **attributes))


def averages(extent: int, size: int) -> np.ndarray:
    """float32 [size, extent]: each row averages floor(i * extent / size) to ceil((i + 1) * extent / size), as PyTorch does."""
    matrix = np.zeros((size, extent), np.float32)
    for index in range(size):
        lo, hi = index * extent // size, -(-(index + 1) * extent // size)
        matrix[index, lo:hi] = 1 / (hi - lo)
    return matrix
