"""Dropout, a fully connected layer and ReLU as one block: the workers divide the rows of the weights among them.

Legend: N images, I inputs, O outputs.
"""

from dataclasses import dataclass

import numpy as np

from alexnet_dist.kernels import linear, pointwise
from alexnet_dist.model.layers.base import BlockContext, DropoutKey, LayerParameters
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.workspace import Workspace

BLOCK = 1 << 20  # weights in one block of the gradients, about
FORWARD_ROWS = 512  # of the weights, in one product of the forward pass
CHUNK = 16  # images in one task of an elementwise operation


@dataclass(frozen=True)
class LinearShape:
    """What a LinearBlock does besides the products: the probability of dropout of its x, and whether there is a ReLU.

    `index` is part of the key of the dropout masks, so that each layer has its own.
    """

    index: int
    dropout: float = 0.0
    relu: bool = True


class LinearBlock:
    """Optional dropout, a fully connected layer, optional ReLU."""

    def __init__(self, parameters: LayerParameters, shape: LinearShape, context: BlockContext) -> None:
        self.parameters, self.workers = parameters, context.workers
        self.index, self.probability, self.relu = shape.index, shape.dropout, shape.relu
        self.w = parameters.w.reshape(len(parameters.b), -1)
        outputs, self.inputs = self.w.shape
        self.rows = max(16, BLOCK // self.inputs)  # of the weights, in one block
        self.columns = max(16, BLOCK // outputs)
        masked = context.batch if context.training and shape.dropout else 0
        self.y = context.allocate((context.batch, outputs))
        self.mask, self.x = (context.allocate((masked, self.inputs)) for _ in range(2))
        self._input = self.y  # x after dropout, of the latest forward pass
        self._dropped = False

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, O] of x [N, ...]; without a key, nothing is dropped."""
        x = x.reshape(len(x), self.inputs)
        self._dropped = dropout is not None and self.mask.size > 0
        if dropout is not None and self._dropped:
            self._draw_masks(dropout)
            x = self._multiply(x, self.mask[: len(x)], self.x[: len(x)])
        self._input = x
        y = self.y[: len(x)]

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            linear.linear_gemm_forward(x, self.w[lo:hi], self.parameters.b[lo:hi], y[:, lo:hi], workspace)
            if self.relu:
                pointwise.relu_forward_(y[:, lo:hi])

        self.workers.for_each(len(self.w), FORWARD_ROWS, task)
        return y

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten."""
        if self.relu:
            self.workers.for_chunks(
                len(x), CHUNK, lambda part, ws: pointwise.relu_backward_(self.y[part], dy[part], ws)
            )

        def task_weight(lo: int, hi: int, workspace: Workspace) -> None:
            start = self.parameters.lo
            with sink.block(start + lo * self.inputs, start + hi * self.inputs, workspace) as gradient:
                linear.linear_gemm_backward_weight(self._input, dy[:, lo:hi], gradient.reshape(hi - lo, self.inputs))

        def task_bias(lo: int, hi: int, workspace: Workspace) -> None:
            with sink.block(self.parameters.mid, self.parameters.hi, workspace) as gradient:
                linear.linear_gemm_backward_bias(dy, gradient)

        # dx before dw: a sink may update the weights as soon as it has their gradient.
        if dx is not None:
            self._backward_data(dy, dx.reshape(len(x), self.inputs))
        self.workers.for_each(len(self.w), len(self.w), task_bias)
        self.workers.for_each(len(self.w), self.rows, task_weight)

    def _backward_data(self, dy: np.ndarray, dx: np.ndarray) -> None:
        def task(lo: int, hi: int, workspace: Workspace) -> None:
            linear.linear_gemm_backward_data(dy, self.w[:, lo:hi], dx[:, lo:hi])

        self.workers.for_each(self.inputs, self.columns, task)
        if self._dropped:
            self._multiply(dx, self.mask[: len(dx)], dx)

    def _draw_masks(self, key: DropoutKey) -> None:
        def task(lo: int, hi: int, workspace: Workspace) -> None:
            for row in range(lo, hi):
                rng = generator(key.seed, Purpose.DROPOUT, key.step, self.index, int(key.positions[row]))
                pointwise.dropout_mask(rng, self.probability, self.mask[row])

        self.workers.for_each(len(key.positions), 8, task)

    def _multiply(self, x: np.ndarray, mask: np.ndarray, out: np.ndarray) -> np.ndarray:
        self.workers.for_chunks(len(x), CHUNK, lambda part, _: np.multiply(x[part], mask[part], out=out[part]))
        return out
