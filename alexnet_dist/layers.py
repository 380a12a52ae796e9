"""The parts of the network in execution: each binds shapes, parameter views and memory to kernels.

A block runs over the batch with the whole team. The convolutional ones hand each thread a share of the images, in chunks
small enough for its cache; the fully connected ones hand each thread blocks of the weights' rows.

Legend: N images, H W C height, width and channels, I inputs, O outputs.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alexnet_dist.kernels import conv_im2col, linear, pointwise, pool
from alexnet_dist.randomness import Purpose, generator
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, empty

PATCHES = 2048  # about as many patches to one matrix product: enough to feed BLAS, few enough to stay near the core
BLOCK = 1 << 20  # about as many weights to one block of a fully connected layer


class GradientSink(Protocol):
    """Where gradients go. Layers write blocks of the flat gradient and don't know what becomes of them."""

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """An array of hi - lo floats, to be filled with the gradient of flat[lo:hi] before the context ends.

        Called by any thread of the team; each range comes once a step.
        """
        ...

    def poll(self) -> None:
        """Called by the main thread between layers: a chance to move messages along."""
        ...


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
    """Convolution, max-pooling where there is one, ReLU.

    The ReLU comes after the pooling: the maximum of ReLUs is the ReLU of the maximum, on a quarter of the data. The map
    between convolution and pooling lives only in scratch memory; backward needs just the places of the maxima.
    """

    def __init__(
        self,
        bound: Bound,
        geometry: dict[str, int],
        map_shape: tuple[int, ...],
        pooling: dict[str, int] | None,
        output_shape: tuple[int, ...],
        batch: int,
        team: Team,
        training: bool,
    ) -> None:
        self.bound, self.geometry, self.map_shape, self.pooling, self.team = bound, geometry, map_shape, pooling, team
        self.y = empty((batch, *output_shape))
        self.winner = empty((batch, *output_shape), np.uint8) if pooling and training else None
        self.chunk = max(1, PATCHES // (map_shape[0] * map_shape[1]))

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, H, W, C] of x [N, H, W, C]."""

        def task(part: slice, workspace: Workspace) -> None:
            with workspace.frame():
                y = self.y[part]
                z = workspace.take((len(y), *self.map_shape)) if self.pooling else y
                conv_im2col.conv_im2col_forward(
                    x[part], self.bound.w, self.bound.b, z, **self.geometry, workspace=workspace
                )
                if self.pooling:
                    winner = None if self.winner is None else self.winner[part]
                    pool.maxpool_forward(z, y, winner, **self.pooling, workspace=workspace)
                pointwise.relu_forward_(y)

        self.team.for_chunks(len(x), self.chunk, task)
        return self.y[: len(x)]

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten."""
        w, count = self.bound.w, self.bound.hi - self.bound.lo

        def task(part: slice, workspace: Workspace) -> None:
            partial = workspace.partial(count)
            dw, db = partial[: w.size].reshape(w.shape), partial[w.size :]
            with workspace.frame():
                dz = dy[part]
                pointwise.relu_backward_(self.y[part], dz, workspace)
                if self.pooling:
                    assert self.winner is not None
                    dz = workspace.take((len(dz), *self.map_shape))
                    pool.maxpool_backward(dy[part], self.winner[part], dz, **self.pooling, workspace=workspace)
                conv_im2col.conv_im2col_backward_weight(x[part], dz, dw, db, **self.geometry, workspace=workspace)
                if dx is not None:
                    conv_im2col.conv_im2col_backward_data(dz, w, dx[part], **self.geometry, workspace=workspace)

        self.team.run(lambda _, workspace: workspace.partial(count).fill(0))
        self.team.for_chunks(len(x), self.chunk, task)
        self.team.for_each(count, 1 << 16, lambda lo, hi, workspace: self._sum_partials(lo, hi, workspace, sink))

    def _sum_partials(self, lo: int, hi: int, workspace: Workspace, sink: GradientSink) -> None:
        first, *others = [w.partial(self.bound.hi - self.bound.lo)[lo:hi] for w in self.team.workspaces]
        with sink.block(self.bound.lo + lo, self.bound.lo + hi, workspace) as gradient:
            gradient[...] = first
            for other in others:
                gradient += other


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


class LinearBlock:
    """Dropout where there is one, a fully connected layer, ReLU where there is one."""

    def __init__(
        self, bound: Bound, index: int, dropout: float, relu: bool, batch: int, team: Team, training: bool
    ) -> None:
        self.bound, self.index, self.probability, self.relu, self.team = bound, index, dropout, relu, team
        self.w = bound.w.reshape(len(bound.b), -1)
        outputs, self.inputs = self.w.shape
        self.rows = max(16, BLOCK // self.inputs)  # of the weights, in one block
        self.columns = max(16, BLOCK // outputs)
        self.y = empty((batch, outputs))
        self.mask, self.x = (empty((batch if training and dropout else 0, self.inputs)) for _ in range(2))
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
            linear.linear_gemm_forward(x, self.w[lo:hi], self.bound.b[lo:hi], y[:, lo:hi])
            if self.relu:
                pointwise.relu_forward_(y[:, lo:hi])

        self.team.for_each(len(self.w), self.rows, task)
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

        # dx before dw: a sink may update the weights as soon as it has their gradient.
        self.team.for_each(self.inputs, self.columns, task_data)
        if self._dropped:
            self._multiply(dx, self.mask[:n], dx)
        with sink.block(self.bound.mid, self.bound.hi, self.team.workspaces[0]) as gradient:
            linear.linear_gemm_backward_bias(dy, gradient)
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
