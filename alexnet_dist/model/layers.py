"""The parts of the network in execution: each binds shapes, parameter views and memory to kernels.

A block runs over the batch with the whole team. The convolutional ones hand each thread a share of the images, in chunks
small enough for its cache; the fully connected ones hand each thread blocks of the weights' rows.

Legend: N images, H W C height, width and channels, I inputs, O outputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alexnet_dist.kernels import linear, pointwise, pool
from alexnet_dist.model.convolutions import Convolution
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, empty

BLOCK = 1 << 20  # about as many weights to one block of a fully connected layer's gradients
FORWARD_ROWS = 512  # of the weights, to one product of a fully connected layer's forward pass
POOLED = 2  # images that a thread pools at once, in its cache
HANDED_OVER = 1 << 18  # floats of a convolution's gradient that go to the sink at once


Allocate = Callable[[tuple[int, ...]], np.ndarray]  # an uninitialised float32 array of a shape


@dataclass(frozen=True)
class DropoutKey:
    """What the masks of one step depend on: positions [N] are the images' places in the global batch."""

    seed: int
    step: int
    positions: np.ndarray


@dataclass(frozen=True)
class Bound:
    """A layer's weight and bias [as views], and where they lie in the flat buffers: w in [lo, mid), b in [mid, hi)."""

    w: np.ndarray
    b: np.ndarray
    lo: int
    mid: int
    hi: int


class ConvBlock:
    """Convolution, max-pooling where there is one, bias, ReLU.

    Bias and ReLU come after the pooling: the maximum of ReLUs is the ReLU of the maximum, on a quarter of the data. The
    map between convolution and pooling lives only in scratch memory; backward needs just the places of the maxima.
    """

    def __init__(
        self,
        bound: Bound,
        convolution: Convolution,
        map_shape: tuple[int, ...],
        pooling: dict[str, int] | None,
        output_shape: tuple[int, ...],
        batch: int,
        team: Team,
        training: bool,
    ) -> None:
        self.bound, self.convolution, self.map_shape, self.pooling, self.team = (
            bound, convolution, map_shape, pooling, team,
        )  # fmt: skip
        self.y = empty((batch, *output_shape))
        self.winners: pool.Winners | None = None
        if pooling and training:
            rows = pool.used_extent(output_shape[0], **pooling)
            shapes = ((batch, rows, *output_shape[1:]), (batch, *output_shape))
            self.winners = (empty(shapes[0], np.uint8), empty(shapes[1], np.uint8))
        self._bias_gradients = empty((batch if training else 0, len(bound.b)))  # one a row for each image
        self._prepared = False

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, H, W, C] of x [N, H, W, C]."""
        if not self._prepared:
            self.convolution.prepare(self.team)
            self._prepared = True
        for part in self._chunks(len(x)):
            with self.team.shared.frame():
                z = self.team.shared.take((part.stop - part.start, *self.convolution.map_shape))
                self.convolution.forward(self.team, x[part], z)
                self._forward_rest(z, part)
        return self.y[: len(x)]

    def _forward_rest(self, z: np.ndarray, part: slice) -> None:
        """From the map to y: pooling, bias, ReLU."""
        whole = self.y[part]
        winners = [array[part] for array in self.winners or ()]

        def task(images: slice, rows: slice, workspace: Workspace) -> None:
            y = whole[images, rows]
            proper = z[images, rows, : self.map_shape[1]]
            if self.pooling:
                lo = rows.start * self.pooling["stride"]
                used = slice(lo, lo + pool.used_extent(y.shape[1], **self.pooling))
                proper = z[images, used, : self.map_shape[1]]
                places = (winners[0][images, used], winners[1][images, rows]) if winners else None
                pool.maxpool_forward(proper, y, places, **self.pooling, workspace=workspace)
                proper = y
            np.add(proper, self.bound.b, out=y)
            pointwise.relu_forward_(y)

        self.team.for_rows(len(z), whole.shape[1], POOLED, task)

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten.

        The weights may change after this, and before the next call of forward.
        """
        with self.team.shared.frame():
            du = self.team.shared.take(self.convolution.gradient_shape)
            for part in self._chunks(len(x)):
                with self.team.shared.frame():
                    dz = self.team.shared.take((part.stop - part.start, *self.convolution.map_shape))
                    self._backward_rest(dy, dz, part)
                    dx_part = None if dx is None else dx[part]
                    self.convolution.backward(self.team, x[part], dz, dx_part, du, add=part.start > 0)
            dw = self.team.shared.take(self.bound.w.shape)
            self.convolution.finish(self.team, du, dw)
            self._hand_over(dw.reshape(-1), len(x), sink)
        self._prepared = False

    def _backward_rest(self, dy: np.ndarray, dz: np.ndarray, part: slice) -> None:
        """From dy to the gradient of the map: ReLU, bias, pooling."""
        rows, columns, _ = self.map_shape

        def task(images: slice, workspace: Workspace) -> None:
            whole = dz[images]
            images = slice(part.start + images.start, part.start + images.stop)
            dy_part = dy[images]
            pointwise.relu_backward_(self.y[images], dy_part, workspace)
            pointwise.bias_backward(dy_part, self._bias_gradients[images])
            whole[:, rows:] = 0
            whole[:, :, columns:] = 0
            proper = whole[:, :rows, :columns]
            if self.winners and self.pooling:
                winners = self.winners[0][images], self.winners[1][images]
                pool.maxpool_backward(dy_part, winners, proper, **self.pooling, workspace=workspace)
            else:
                proper[...] = dy_part

        self.team.for_chunks(len(dz), POOLED, task)

    def _hand_over(self, dw: np.ndarray, n: int, sink: GradientSink) -> None:
        with sink.block(self.bound.mid, self.bound.hi, self.team.workspaces[0]) as gradient:
            np.add.reduce(self._bias_gradients[:n], axis=0, out=gradient)

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            with sink.block(self.bound.lo + lo, self.bound.lo + hi, workspace) as gradient:
                gradient[...] = dw[lo:hi]

        self.team.for_each(dw.size, HANDED_OVER, task)

    def _chunks(self, n: int) -> Iterator[slice]:
        """The batch in the convolution's chunks: an empty one if there is no image, for gradients that are zero."""
        for start in range(0, max(n, 1), self.convolution.chunk):
            yield slice(start, min(start + self.convolution.chunk, n))


class AveragePool:
    """Adaptive average pooling to a fixed map."""

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...], batch: int, team: Team) -> None:
        self.team = team
        self.rows = pool.averaging_matrix(input_shape[0], output_shape[0])
        self.columns = pool.averaging_matrix(input_shape[1], output_shape[1])
        self.y = empty((batch, *output_shape))

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, 6, 6, C] of x [N, H, W, C]."""
        y = self.y[: len(x)]

        def task(part: slice, workspace: Workspace) -> None:
            pool.adaptive_avgpool_forward(x[part], self.rows, self.columns, y[part], workspace=workspace)

        self.team.for_chunks(len(x), 16, task)
        return y

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """The gradient of x to dx."""
        assert dx is not None
        out = dx

        def task(part: slice, workspace: Workspace) -> None:
            pool.adaptive_avgpool_backward(dy[part], self.rows, self.columns, out[part], workspace=workspace)

        self.team.for_chunks(len(x), 16, task)


class Workers(Protocol):
    """What a fully connected layer needs of a team: a Team, or something larger that divides work in the same way."""

    def for_chunks(self, count: int, size: int, task: Callable[[slice, Workspace], object]) -> None: ...

    def for_each(self, count: int, block: int, task: Callable[[int, int, Workspace], object]) -> None: ...


class LinearBlock:
    """Dropout where there is one, a fully connected layer, ReLU where there is one.

    `allocate` makes its memory: workspace.empty, or memory that all workers see.
    """

    def __init__(
        self,
        bound: Bound,
        index: int,
        dropout: float,
        relu: bool,
        batch: int,
        team: Workers,
        training: bool,
        allocate: Allocate = empty,
    ) -> None:
        self.bound, self.index, self.probability, self.relu, self.team = bound, index, dropout, relu, team
        self.w = bound.w.reshape(len(bound.b), -1)
        outputs, self.inputs = self.w.shape
        self.rows = max(16, BLOCK // self.inputs)  # of the weights, in one block
        self.columns = max(16, BLOCK // outputs)
        self.y = allocate((batch, outputs))
        self.mask, self.x = (allocate((batch if training and dropout else 0, self.inputs)) for _ in range(2))
        self._input = self.y  # what forward multiplied; backward needs it again
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
            linear.linear_gemm_forward(x, self.w[lo:hi], self.bound.b[lo:hi], y[:, lo:hi], workspace)
            if self.relu:
                pointwise.relu_forward_(y[:, lo:hi])

        self.team.for_each(len(self.w), FORWARD_ROWS, task)
        return y

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx; dy is overwritten."""
        assert dx is not None
        n = len(x)
        dx = dx.reshape(n, self.inputs)
        if self.relu:
            self.team.for_chunks(n, 16, lambda part, ws: pointwise.relu_backward_(self.y[part], dy[part], ws))

        def task_data(lo: int, hi: int, workspace: Workspace) -> None:
            linear.linear_gemm_backward_data(dy, self.w[:, lo:hi], dx[:, lo:hi])

        def task_weight(lo: int, hi: int, workspace: Workspace) -> None:
            start = self.bound.lo
            with sink.block(start + lo * self.inputs, start + hi * self.inputs, workspace) as gradient:
                linear.linear_gemm_backward_weight(self._input, dy[:, lo:hi], gradient.reshape(hi - lo, self.inputs))

        def task_bias(lo: int, hi: int, workspace: Workspace) -> None:
            with sink.block(self.bound.mid, self.bound.hi, workspace) as gradient:
                linear.linear_gemm_backward_bias(dy, gradient)

        # dx before dw: a sink may update the weights as soon as it has their gradient.
        self.team.for_each(self.inputs, self.columns, task_data)
        if self._dropped:
            self._multiply(dx, self.mask[:n], dx)
        self.team.for_each(len(self.w), len(self.w), task_bias)
        self.team.for_each(len(self.w), self.rows, task_weight)

    def _draw_masks(self, key: DropoutKey) -> None:
        def task(lo: int, hi: int, workspace: Workspace) -> None:
            for row in range(lo, hi):
                rng = generator(key.seed, Purpose.DROPOUT, key.step, self.index, int(key.positions[row]))
                pointwise.dropout_mask(rng, self.probability, self.mask[row])

        self.team.for_each(len(key.positions), 8, task)

    def _multiply(self, x: np.ndarray, mask: np.ndarray, out: np.ndarray) -> np.ndarray:
        self.team.for_chunks(len(x), 16, lambda part, _: np.multiply(x[part], mask[part], out=out[part]))
        return out
