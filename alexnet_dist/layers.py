"""The parts of the network in execution: each binds shapes, parameter views and memory to kernels.

A block runs over the batch with the whole team. The convolutional ones hand each thread a share of the images, in chunks
small enough for its cache; the fully connected ones hand each thread blocks of the weights' rows.

Legend: N images, H W C height, width and channels, I inputs, O outputs.
"""

from dataclasses import dataclass

import numpy as np

from alexnet_dist.convolutions import Convolution
from alexnet_dist.kernels import linear, pointwise, pool
from alexnet_dist.parameters import GradientSink
from alexnet_dist.randomness import Purpose, generator
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, empty

BLOCK = 1 << 20  # about as many weights to one block of a fully connected layer's gradients
FORWARD_ROWS = 256  # of the weights, to one product of a fully connected layer's forward pass


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
        self._prepared = False

    def _map(self, n: int, workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
        """Scratch memory for a chunk's map as the convolution wants it, and the map proper as a view of it."""
        z = workspace.take((n, *self.convolution.map_shape))
        return z, z[:, : self.map_shape[0], : self.map_shape[1]]

    def _winners(self, part: slice) -> pool.Winners | None:
        return (self.winners[0][part], self.winners[1][part]) if self.winners else None

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, H, W, C] of x [N, H, W, C]."""
        if not self._prepared:
            self.convolution.prepare(self.team)
            self._prepared = True

        def task(part: slice, workspace: Workspace) -> None:
            with workspace.frame():
                y = self.y[part]
                whole, z = self._map(len(y), workspace)
                self.convolution.forward(x[part], whole, workspace)
                if self.pooling:
                    pool.maxpool_forward(z, y, self._winners(part), **self.pooling, workspace=workspace)
                    z = y
                np.add(z, self.bound.b, out=y)
                pointwise.relu_forward_(y)

        self.team.for_chunks(len(x), self.convolution.chunk, task)
        return self.y[: len(x)]

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten.

        The weights may change after this, and before the next call of forward.
        """
        weights = self.convolution.partial_size
        count = weights + len(self.bound.b)

        def task(part: slice, workspace: Workspace) -> None:
            partial = workspace.partial(count)
            with workspace.frame():
                dz = dy[part]
                pointwise.relu_backward_(self.y[part], dz, workspace)
                add, workspace.partial_holds = workspace.partial_holds, True
                pointwise.bias_backward(dz, partial[weights:], add=add, workspace=workspace)
                whole, proper = self._map(len(dz), workspace)
                whole[:, self.map_shape[0] :] = 0
                whole[:, :, self.map_shape[1] :] = 0
                if self.pooling:
                    winners = self._winners(part)
                    assert winners is not None
                    pool.maxpool_backward(dz, winners, proper, **self.pooling, workspace=workspace)
                else:
                    proper[...] = dz
                dx_part = None if dx is None else dx[part]
                self.convolution.backward(x[part], whole, dx_part, partial[:weights], add, workspace)

        for workspace in self.team.workspaces:
            workspace.partial_holds = False
        self.team.for_chunks(len(x), self.convolution.chunk, task)
        with sink.block(self.bound.lo, self.bound.hi, self.team.workspaces[0]) as gradient:
            self.convolution.finish(self.team, gradient[: self.bound.w.size].reshape(self.bound.w.shape))
            self.team.sum_partials(weights, count, gradient[self.bound.w.size :])
        self._prepared = False


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
