"""Convolution, max-pooling, bias and ReLU as one block: the map between convolution and pooling is never stored.

Each thread of the team has a share of the images, in chunks small enough for its cache.

Legend: N images, H W C height, width and channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_dist.kernels import pointwise, pool
from alexnet_dist.model.convolutions import Convolution
from alexnet_dist.model.layers.base import BlockContext, DropoutKey, LayerParameters
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.pairwise import sum_in_pairs_
from alexnet_dist.support.workspace import Workspace, empty

IMAGES_PER_TASK = 2  # that a thread pools at once, in its cache
SINK_BLOCK = 1 << 18  # floats of the weights' gradient that go to the sink at once


@dataclass(frozen=True)
class ConvShape:
    """Shapes of a ConvBlock's map (P, Q, K) and output; pooling: {"kernel", "stride"} or None; whether there is a ReLU."""

    map: tuple[int, ...]
    output: tuple[int, ...]
    pooling: dict[str, int] | None = None
    relu: bool = True


class ConvBlock:
    """Convolution, optional max-pooling, bias, optional ReLU.

    Bias and ReLU come after the pooling: the maximum of ReLUs is the ReLU of the maximum, on a quarter of the data. The
    map between convolution and pooling is only in scratch memory; backward needs just the positions of the maxima.

    `pieces`, where there are any, are slices of the batch. Each is computed by itself, and the gradients of all are summed in
    pairs: so they don't depend on which pieces are computed together.
    """

    def __init__(
        self, parameters: LayerParameters, convolution: Convolution, shape: ConvShape, context: BlockContext
    ) -> None:
        self.parameters, self.convolution, self.team, self.relu = parameters, convolution, context.team, shape.relu
        self.map_shape, self.pooling = shape.map, shape.pooling
        batch = context.batch
        self.y = empty((batch, *shape.output))
        self.winners: pool.Winners | None = None
        if shape.pooling and context.training:
            rows = pool.used_extent(shape.output[0], **shape.pooling)
            self.winners = (
                empty((batch, rows, *shape.output[1:]), np.uint8),
                empty((batch, *shape.output), np.uint8),
            )
        self._bias_gradients = empty((batch if context.training else 0, len(parameters.b)))  # of each image
        self._group = context.group
        self._prepared = False
        self.pieces: tuple[slice, ...] = ()  # to be set before forward
        self.images = 0  # of the latest forward pass

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, H, W, C] of x [N, H, W, C]."""
        self._prepare()
        for part in (part for piece in self._pieces_and_groups(len(x)) for part in self._chunks(piece)):
            with self.team.shared.frame():
                images = self._with_zeros(x[part], part.stop - part.start)
                z = self.team.shared.take((len(images), *self.convolution.map_shape))
                self.convolution.forward(self.team, images, z)
                self._pool_and_activate(z[: len(x[part])], slice(part.start, min(part.stop, len(x))))
        self.images = len(x)
        return self.y[: len(x)]

    def unpooled(self, x: np.ndarray) -> np.ndarray:
        """What is pooled for x [N, H, W, C], but after bias and ReLU: [N, P, Q, K], in memory of its own."""
        self._prepare()
        rows, columns, _ = self.map_shape
        y = empty((len(x), *self.map_shape))
        for part in self._chunks(slice(0, len(x))):
            with self.team.shared.frame():
                z = self.team.shared.take((part.stop - part.start, *self.convolution.map_shape))
                self.convolution.forward(self.team, x[part], z)
                np.add(z[:, :rows, :columns], self.parameters.b, out=y[part])
        if self.relu:
            pointwise.relu_forward_(y)
        return y

    def weights_changed(self) -> None:
        """The weights are not those that forward has prepared: it prepares them anew."""
        self._prepared = False

    def _prepare(self) -> None:
        if not self._prepared:
            self.convolution.prepare(self.team)
            self._prepared = True

    def _with_zeros(self, x: np.ndarray, count: int) -> np.ndarray:
        """x, with images of zeros behind it where it has fewer than `count`."""
        if len(x) == count:
            return x
        images = self.team.shared.take((count, *x.shape[1:]))
        images[: len(x)], images[len(x) :] = x, 0
        return images

    def _pool_and_activate(self, z: np.ndarray, part: slice) -> None:
        """From the map to y: pooling, bias, ReLU."""
        output = self.y[part]
        winners = [array[part] for array in self.winners or ()]

        def task(images: slice, rows: slice, workspace: Workspace) -> None:
            y = output[images, rows]
            values = z[images, rows, : self.map_shape[1]]
            if self.pooling:
                lo, hi = (row * self.pooling["stride"] for row in (rows.start, rows.stop))
                used = slice(lo, lo + pool.used_extent(y.shape[1], **self.pooling))
                values = z[images, used, : self.map_shape[1]]
                # Windows overlap: the last rows of this part are the first ones of the next, which keeps their winners.
                own = slice(lo, used.stop if rows.stop == output.shape[1] else min(hi, used.stop))
                positions = (winners[0][images, own], winners[1][images, rows]) if winners else None
                pool.maxpool_forward(values, y, positions, **self.pooling, workspace=workspace)
                values = y
            np.add(values, self.parameters.b, out=y)
            if self.relu:
                pointwise.relu_forward_(y)

        self.team.for_rows(len(z), output.shape[1], IMAGES_PER_TASK, task)

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and of x to dx unless that is None; dy is overwritten.

        The weights may change between this and the next call of forward.
        """
        pieces = self._pieces(len(x))
        with self.team.shared.frame():
            dw = self.team.shared.take((len(pieces), *self.parameters.w.shape))
            for piece, dw_piece in zip(pieces, dw, strict=True):
                self._backward_piece(x, dy, dx, piece, dw_piece)
            self._pass_gradients(dw.reshape(len(pieces), -1), pieces, sink)
        self._prepared = False

    def _backward_piece(
        self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, piece: slice, dw: np.ndarray
    ) -> None:
        """Of some of the images: the gradient of the weights, which fills dw, and theirs of dx."""
        with self.team.shared.frame():
            du = self.team.shared.take(self.convolution.gradient_shape)
            for part in self._chunks(piece):
                with self.team.shared.frame():
                    dz = self.team.shared.take((part.stop - part.start, *self.convolution.map_shape))
                    self._backward_to_map(dy, dz, part)
                    dx_part = None if dx is None else dx[part]
                    self.convolution.backward(self.team, x[part], dz, dx_part, du, add=part.start > piece.start)
            self.convolution.finish(self.team, du, dw)

    def _backward_to_map(self, dy: np.ndarray, dz: np.ndarray, part: slice) -> None:
        """From dy to the gradient of the map: ReLU, bias, pooling."""
        rows, columns, _ = self.map_shape

        def task(images: slice, workspace: Workspace) -> None:
            padded = dz[images]
            images = slice(part.start + images.start, part.start + images.stop)
            dy_part = dy[images]
            if self.relu:
                pointwise.relu_backward_(self.y[images], dy_part, workspace)
            pointwise.bias_backward(dy_part, self._bias_gradients[images])
            padded[:, rows:] = 0
            padded[:, :, columns:] = 0
            gradient = padded[:, :rows, :columns]
            if self.winners and self.pooling:
                winners = self.winners[0][images], self.winners[1][images]
                pool.maxpool_backward(dy_part, winners, gradient, **self.pooling, workspace=workspace)
            else:
                gradient[...] = dy_part

        self.team.for_chunks(len(dz), IMAGES_PER_TASK, task)

    def _pass_gradients(self, dw: np.ndarray, pieces: Sequence[slice], sink: GradientSink) -> None:
        """Passes on the sums of the pieces' gradients of the weights, dw [pieces, weights], and of those of the bias."""
        start, workspace = self.parameters.b_start, self.team.workspaces[0]
        with sink.block(start, start + len(self.parameters.b), workspace) as gradient, workspace.frame():
            db = workspace.take((len(pieces), *gradient.shape))
            for piece, db_piece in zip(pieces, db, strict=True):
                np.add.reduce(self._bias_gradients[piece], axis=0, out=db_piece)
            gradient[...] = sum_in_pairs_(list(db))

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            start = self.parameters.w_start
            with sink.block(start + lo, start + hi, workspace) as gradient:
                gradient[...] = sum_in_pairs_([piece[lo:hi] for piece in dw])

        self.team.for_each(dw.shape[1], SINK_BLOCK, task)

    def _pieces(self, n: int) -> Sequence[slice]:
        """What is computed by itself: the pieces, or all n images at once. A forward pass may have groups instead."""
        return self.pieces or (slice(0, n),)

    def _pieces_and_groups(self, n: int) -> Sequence[slice]:
        """What is computed by itself in a forward pass: the last group may end behind the n images."""
        if self.pieces or not self._group:
            return self._pieces(n)
        return [slice(lo, lo + self._group) for lo in range(0, n, self._group)]

    def _chunks(self, piece: slice) -> Iterator[slice]:
        """A piece in the convolution's chunks; one empty chunk if there is no image, so that the gradients are zero."""
        for start in range(piece.start, max(piece.stop, piece.start + 1), self.convolution.chunk):
            yield slice(start, min(start + self.convolution.chunk, piece.stop))
