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
    """Optional dropout, a fully connected layer, optional ReLU.

    Where the layer is divided among nodes (`context.division`), forward and backward are done in their parts: drop,
    multiply; backward_relu, backward_data, backward_weight, backward_drop. Between them the nodes exchange what they own
    of x and dx. O is then the number of outputs that are computed here, and y [N, O] is of these.
    """

    def __init__(self, parameters: LayerParameters, shape: LinearShape, context: BlockContext) -> None:
        division = context.division
        self.parameters, self.workers = parameters.rows(division.outputs(len(parameters.b))), context.workers
        self.index, self.probability, self.relu = shape.index, shape.dropout, shape.relu
        self.inputs = parameters.w.size // len(parameters.b)
        self.w = self.parameters.w.reshape(-1, self.inputs)
        outputs = len(self.w)
        self.rows = max(16, BLOCK // self.inputs)  # of the weights, in one block
        self.columns = max(16, BLOCK // max(outputs, 1))
        self.y = context.allocate((context.batch, outputs))
        images, self.owned = division.owned(shape.index, self.inputs, context.batch)
        masks = context.training and shape.dropout > 0
        self.mask = context.allocate((images if masks else 0, self.owned.stop - self.owned.start))
        self.x = context.allocate((context.batch if masks or not division.whole else 0, self.inputs))
        self._group = context.group
        self._input = self.y  # x after dropout, of the latest forward pass
        self._dropped = self._with_key = False
        self.images = 0  # of the latest forward pass

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, O] of x [N, ...]; without a key, nothing is dropped."""
        x = x.reshape(len(x), self.inputs)
        return self.multiply(self.drop(x, dropout, self.x[: len(x)]))

    def drop(self, x: np.ndarray, dropout: DropoutKey | None, out: np.ndarray) -> np.ndarray:
        """x times the mask in out, all [images, owned columns]; x itself where nothing is dropped."""
        self._with_key = dropout is not None
        self._dropped = self._with_key and self.mask.shape[0] > 0
        if dropout is None or not self._dropped:
            return x
        self._draw_masks(dropout)
        return self._multiply(x, self.mask[: len(x)], out)

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """y [N, O] of x [N, I], after the dropout."""
        self._input, self.images = x, len(x)
        y = self.y[: len(x)]
        size = self._group if self._group and not self._with_key else max(len(x), 1)

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            w, b = self.w[lo:hi], self.parameters.b[lo:hi]
            for start in range(0, len(x), size):
                images = slice(start, start + size)
                linear.linear_gemm_forward(x[images], w, b, y[images, lo:hi], workspace, images=size)
            if self.relu:
                pointwise.relu_forward_(y[:, lo:hi])

        self.workers.for_each(len(self.w), FORWARD_ROWS, task)
        return y

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten."""
        self.backward_relu_(dy)
        # dx before dw: a sink may update the weights as soon as it has their gradient.
        if dx is not None:
            dx = dx.reshape(len(x), self.inputs)
            self.backward_data(dy, dx)
            self.backward_drop_(dx)
        self.backward_weight(dy, sink)

    def backward_relu_(self, dy: np.ndarray) -> None:
        """dy [N, O] becomes the gradient of what the ReLU was given."""
        if self.relu:
            self.workers.for_chunks(
                len(dy), CHUNK, lambda part, ws: pointwise.relu_backward_(self.y[part], dy[part], ws)
            )

    def backward_data(self, dy: np.ndarray, dx: np.ndarray) -> None:
        """dx [N, I] of the outputs that are computed here, before the dropout's mask."""

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            linear.linear_gemm_backward_data(dy, self.w[:, lo:hi], dx[:, lo:hi])

        self.workers.for_each(self.inputs, self.columns, task)

    def backward_drop_(self, dx: np.ndarray) -> None:
        """dx [images, owned columns] becomes the gradient of what the dropout was given."""
        if self._dropped:
            self._multiply(dx, self.mask[: len(dx)], dx)

    def backward_weight(self, dy: np.ndarray, sink: GradientSink) -> None:
        """The gradients of weight and bias to the sink."""

        def task_weight(lo: int, hi: int, workspace: Workspace) -> None:
            start = self.parameters.w_start
            with sink.block(start + lo * self.inputs, start + hi * self.inputs, workspace) as gradient:
                linear.linear_gemm_backward_weight(self._input, dy[:, lo:hi], gradient.reshape(hi - lo, self.inputs))

        def task_bias(lo: int, hi: int, workspace: Workspace) -> None:
            start = self.parameters.b_start
            with sink.block(start, start + len(self.w), workspace) as gradient:
                linear.linear_gemm_backward_bias(dy, gradient)

        self.workers.for_each(len(self.w), max(len(self.w), 1), task_bias)
        self.workers.for_each(len(self.w), self.rows, task_weight)

    def _draw_masks(self, key: DropoutKey) -> None:
        def task(lo: int, hi: int, workspace: Workspace) -> None:
            for row in range(lo, hi):
                sample = int(key.positions[row])
                rng = generator(key.seed, Purpose.DROPOUT, key.step, self.index, sample, skip=self.owned.start)
                pointwise.dropout_mask(rng, self.probability, self.mask[row])

        self.workers.for_each(len(key.positions), 8, task)

    def _multiply(self, x: np.ndarray, mask: np.ndarray, out: np.ndarray) -> np.ndarray:
        self.workers.for_chunks(len(x), CHUNK, lambda part, _: np.multiply(x[part], mask[part], out=out[part]))
        return out
