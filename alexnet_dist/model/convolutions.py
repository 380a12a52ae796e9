"""How a convolution is computed: the algorithms bound to a layer's shapes and weights, and the choice among them.

The team works through a chunk of images in phases: prepare the operands, multiply, write the results. The threads divide
the first and the last phase by images, and the products by what is independent: Winograd's points, rows of the map, rows
of the weights' gradient. So no thread reads all the weights, and none has a partial gradient to be added to the others'.
Only in the forward pass on a large map with few weights, each thread computes whole images by itself.

Legend: N images, H W C of x, K filters, P Q height and width of the map, R S of a filter, t^2 points, I J tiles.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from alexnet_dist.kernels import conv_im2col, conv_winograd
from alexnet_dist.kernels.conv_im2col import padded_rows
from alexnet_dist.kernels.conv_winograd import Winograd, gather, points, scatter
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, empty

PATCHES_PER_PRODUCT = 2048  # about: enough for BLAS to be fast, few enough for a core's own cache
TILES_PER_CHUNK = 576  # about: enough rows for fast products, few enough that a chunk stays in the shared cache
TRANSFORM_FLOATS = 1 << 19  # of a transform after its first axis, at most: a thread keeps it in its own cache
# With at least this many tiles in a map, keeping an image in one core's cache gains more than dividing the filters.
LARGE_MAP_TILES = 40
PAIRS_PER_TASK = 1 << 14  # (channel, filter), in one task of a filter transform
MODES = ("auto", "winograd", "direct")


class Convolution(Protocol):
    """An algorithm for one layer. A step calls prepare, forward and backward over chunks of images, finish."""

    name: str
    chunk: int  # images that the team processes at once
    map_shape: tuple[int, ...]  # (P, Q, K), or more rows and columns where the algorithm works in whole tiles
    gradient_shape: tuple[int, ...]  # of what backward sums over the chunks

    def prepare(self, team: Team) -> None:
        """To be called when the weights have changed: transforms them where the algorithm needs it."""
        ...

    def forward(self, team: Team, x: np.ndarray, z: np.ndarray) -> None:
        """Fills z [N, *map_shape] from x [N, H, W, C]."""
        ...

    def backward(
        self, team: Team, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, du: np.ndarray, *, add: bool
    ) -> None:
        """Fills du [gradient_shape] or adds to it, and fills dx; dz [N, *map_shape] is zero outside of (P, Q)."""
        ...

    def finish(self, team: Team, du: np.ndarray, dw: np.ndarray) -> None:
        """Fills dw [R, S, C, K] from the complete du."""
        ...


class Im2colConv:
    """Patches as rows of a matrix (im2col): any kernel, stride and padding."""

    def __init__(self, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int) -> None:
        self.name = "direct (im2col)"
        self.w, self.map_shape, self.geometry = w, map_shape, {"stride": stride, "padding": padding}
        self.images_per_task = max(1, PATCHES_PER_PRODUCT // (map_shape[0] * map_shape[1]))
        self.chunk = 2 * self.images_per_task
        self.gradient_shape = w.shape

    def prepare(self, team: Team) -> None:
        """Does nothing: the weights are used as they are."""

    def forward(self, team: Team, x: np.ndarray, z: np.ndarray) -> None:

        def task(images: slice, rows: slice, workspace: Workspace) -> None:
            y = z[images, rows]
            col = workspace.take((*y.shape[:3], *self.w.shape[:3]))
            conv_im2col.im2col(x[images], col, rows.start, **self.geometry, workspace=workspace)
            conv_im2col.conv_im2col_forward(col, self.w, y)

        team.for_rows(len(x), self.map_shape[0], self.images_per_task, task)

    def backward(
        self, team: Team, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, du: np.ndarray, *, add: bool
    ) -> None:
        *window, k = self.w.shape
        du, filters = du.reshape(-1, k), dz.reshape(-1, k)
        with team.shared.frame():
            col = team.shared.take((*dz.shape[:3], *window))
            patches = col.reshape(-1, len(du))

            def operands(images: slice, rows: slice, workspace: Workspace) -> None:
                conv_im2col.im2col(x[images], col[images, rows], rows.start, **self.geometry, workspace=workspace)

            def weights(part: slice, workspace: Workspace) -> None:
                conv_im2col.conv_im2col_backward_weight(
                    patches[:, part], filters, du[part], add=add, workspace=workspace
                )

            team.for_rows(len(x), dz.shape[1], self.images_per_task, operands)
            team.for_chunks(len(du), len(du), weights)
        if dx is not None:
            data = dx  # for mypy: in the closure, dx might be None again

            def task(part: slice, workspace: Workspace) -> None:
                conv_im2col.conv_im2col_backward_data(
                    dz[part], self.w, data[part], **self.geometry, workspace=workspace
                )

            team.for_chunks(len(x), self.images_per_task, task)

    def finish(self, team: Team, du: np.ndarray, dw: np.ndarray) -> None:
        dw[...] = du


class WinogradConv:
    """Winograd's algorithm, stride 1; the filters are transformed once a step."""

    def __init__(self, f: Winograd, w: np.ndarray, map_shape: tuple[int, ...], padding: int) -> None:
        p, q, k = map_shape
        self.name = f"Winograd F({f.m}, {f.r})"
        self.f, self.w, self.padding = f, w, padding
        self.tiles = (f.tiles(p), f.tiles(q))
        self.map_shape: tuple[int, ...] = (self.tiles[0] * f.m, self.tiles[1] * f.m, k)
        self.chunk = max(1, TILES_PER_CHUNK // (self.tiles[0] * self.tiles[1]))
        self.gradient_shape: tuple[int, ...] = (f.t**2, *w.shape[2:])
        self.u = empty(self.gradient_shape)

    def prepare(self, team: Team) -> None:
        w, u = (array.reshape(-1, self.w.shape[2] * self.w.shape[3]) for array in (self.w, self.u))

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            conv_winograd.filters_winograd_forward(self.f, w[:, lo:hi], u[:, lo:hi])

        team.for_each(w.shape[1], PAIRS_PER_TASK, task)

    def forward(self, team: Team, x: np.ndarray, z: np.ndarray) -> None:
        f = self.f
        if self.tiles[0] * self.tiles[1] >= LARGE_MAP_TILES and (team.fixed or len(x) >= team.size):
            team.for_chunks(len(x), 1, lambda part, workspace: self._forward_image(x[part], z[part], workspace))
            return
        with team.shared.frame():
            v, m = (self._points(team.shared, len(x), channels) for channels in self.w.shape[2:])

            def operands(images: slice, tiles: slice, workspace: Workspace) -> None:
                self._gather_input(x[images], tiles, v[:, :, images, tiles], workspace)

            def products(part: slice, workspace: Workspace) -> None:
                conv_winograd.points_winograd_forward(_flat(v)[part], self.u[part], _flat(m)[part])

            def results(images: slice, tiles: slice, workspace: Workspace) -> None:
                rows = slice(tiles.start * f.m, tiles.stop * f.m)
                scatter(f.a.T, m[:, :, images, tiles], z[images, rows], f.m, workspace)

            self._for_tiles(team, len(x), operands)
            team.for_chunks(f.t**2, f.t**2, products)
            self._for_tiles(team, len(x), results)

    def backward(
        self, team: Team, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, du: np.ndarray, *, add: bool
    ) -> None:
        f = self.f
        with team.shared.frame():
            v, dm = (self._points(team.shared, len(x), channels) for channels in self.w.shape[2:])

            def operands(images: slice, tiles: slice, workspace: Workspace) -> None:
                rows = slice(tiles.start * f.m, tiles.stop * f.m)
                gather(f.a, dz[images, rows], dm[:, :, images, tiles], f.m, workspace)
                self._gather_input(x[images], tiles, v[:, :, images, tiles], workspace)

            def products(part: slice, workspace: Workspace) -> None:
                conv_winograd.points_winograd_backward(
                    _flat(v)[part], self.u[part], _flat(dm)[part], du[part],
                    add=add, data=dx is not None, workspace=workspace,
                )  # fmt: skip

            self._for_tiles(team, len(x), operands)
            team.for_chunks(f.t**2, f.t**2, products)
            if dx is not None:
                self._scatter_input(team, v, dx)

    def finish(self, team: Team, du: np.ndarray, dw: np.ndarray) -> None:
        dw, du = (array.reshape(len(array.reshape(-1, *self.w.shape[2:])), -1) for array in (dw, du))

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            conv_winograd.filters_winograd_backward(self.f, du[:, lo:hi], dw[:, lo:hi])

        team.for_each(dw.shape[1], PAIRS_PER_TASK, task)

    def _forward_image(self, x: np.ndarray, z: np.ndarray, workspace: Workspace) -> None:
        """All of forward by one thread, for one image, whose points stay in the thread's own cache."""
        with workspace.frame():
            v, m = (self._points(workspace, len(x), channels) for channels in self.w.shape[2:])
            self._gather_input(x, slice(0, self.tiles[0]), v, workspace)
            conv_winograd.points_winograd_forward(_flat(v), self.u, _flat(m))
            scatter(self.f.a.T, m, z, self.f.m, workspace)

    def _points(self, workspace: Workspace, n: int, channels: int) -> np.ndarray:
        """Memory for n images at the points: [t, t, N, I, J, channels]."""
        return workspace.take((self.f.t, self.f.t, n, *self.tiles, channels))

    def _for_tiles(self, team: Team, n: int, task: Callable[[slice, slice, Workspace], None]) -> None:
        """Divides rows of tiles among the threads, as many images at once as TRANSFORM_FLOATS allows."""
        i, _ = self.tiles
        floats_of_image = i * self.f.t * self.map_shape[1] * max(self.w.shape[2:])
        team.for_rows(n, i, max(1, TRANSFORM_FLOATS // floats_of_image), task)

    def _rows(self, x: np.ndarray, lo: int, hi: int, workspace: Workspace) -> np.ndarray:
        """Rows lo to hi of x with zeros around it, for whole tiles."""
        return padded_rows(x, self.padding, lo, hi, width=self.map_shape[1] + self.f.r - 1, workspace=workspace)

    def _gather_input(self, x: np.ndarray, tiles: slice, v: np.ndarray, workspace: Workspace) -> None:
        f = self.f
        with workspace.frame():
            rows = self._rows(x, tiles.start * f.m, tiles.stop * f.m + f.r - 1, workspace)
            gather(f.b.T, rows, v, f.m, workspace)

    def _scatter_input(self, team: Team, dv: np.ndarray, dx: np.ndarray) -> None:
        f, (_, h, w, c) = self.f, dx.shape
        rows, columns = (extent + f.r - 1 for extent in self.map_shape[:2])

        def results(images: slice, workspace: Workspace) -> None:
            padded = workspace.take((images.stop - images.start, rows, columns, c))
            scatter(f.b, dv[:, :, images], padded, f.m, workspace)
            dx[images] = padded[:, self.padding : self.padding + h, self.padding : self.padding + w]

        team.for_chunks(len(dx), max(1, TRANSFORM_FLOATS // (rows * columns * c)), results)


class StridedWinogradConv(WinogradConv):
    """A strided convolution of pixels as one of stride 1 over blocks of stride x stride pixels, by Winograd's algorithm.

    A block is one pixel with stride^2 C channels; the filters are padded with zeros to a multiple of the stride. It
    computes no gradient of x.
    """

    def __init__(self, f: Winograd, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int) -> None:
        kernel, _, c, k = w.shape
        self.filters, self.kernel, self.stride = w, kernel, stride
        self.padded_filters = np.zeros((f.r * stride, f.r * stride, c, k), np.float32)
        super().__init__(f, empty((f.r, f.r, stride * stride * c, k)), map_shape, padding)
        self.name = f"{self.name} on {stride} x {stride} blocks"

    def _split(self, array: np.ndarray) -> np.ndarray:
        """[rows stride, columns stride, C, K] as [rows, columns, stride, stride, C, K], without a copy."""
        s, (h, w, *rest) = self.stride, array.shape
        return array.reshape(h // s, s, w // s, s, *rest).swapaxes(1, 2)

    def prepare(self, team: Team) -> None:
        self.padded_filters[: self.kernel, : self.kernel] = self.filters
        split = self._split(self.padded_filters)
        self.w.reshape(split.shape)[...] = split
        super().prepare(team)

    def _rows(self, x: np.ndarray, lo: int, hi: int, workspace: Workspace) -> np.ndarray:
        n, _, _, c = x.shape
        s, columns = self.stride, self.map_shape[1] + self.f.r - 1
        blocks = workspace.take((n, hi - lo, columns, s, s, c))
        with workspace.frame():
            rows = padded_rows(x, self.padding, lo * s, hi * s, width=columns * s, workspace=workspace)
            blocks[...] = rows.reshape(n, hi - lo, s, columns, s, c).swapaxes(2, 3)
        return blocks.reshape(n, hi - lo, columns, s * s * c)

    def finish(self, team: Team, du: np.ndarray, dw: np.ndarray) -> None:
        with team.shared.frame():
            blocks, padded = team.shared.take(self.w.shape), team.shared.take(self.padded_filters.shape)
            super().finish(team, du, blocks)
            split = self._split(padded)
            split[...] = blocks.reshape(split.shape)
            dw[...] = padded[: self.kernel, : self.kernel]


def _flat(points: np.ndarray) -> np.ndarray:
    """[t, t, ..., C] as [t^2, everything between, C]: one matrix a point."""
    t, c = points.shape[0], points.shape[-1]
    return points.reshape(t * t, -1, c)


# By the filter's extent along one axis. More points would save more multiplications and lose more precision.
ALGORITHMS = {
    3: Winograd(5, 3, points(0, 1, -1, 2, -2, "1/2")),
    5: Winograd(4, 5, points(0, 1, -1, 2, -2, "1/2", "-1/2")),
}
MIN_GAIN = 1.5  # auto takes Winograd if it divides multiplications by this; on maps much smaller than a tile it doesn't


def choose_convolution(
    mode: str, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int, *, pixels: bool
) -> Convolution:
    """The algorithm for a layer: `mode` is one of MODES; `pixels`: x is the image, whose gradient is never needed."""
    kernel = w.shape[0]
    f = ALGORITHMS.get(kernel if stride == 1 else -(-kernel // stride) if pixels else 0)
    if f is None or mode == "direct":
        return Im2colConv(w, map_shape, stride, padding)
    p, q, _ = map_shape
    gain = p * q * kernel**2 / (f.tiles(p) * f.tiles(q) * f.t**2 * stride**2)
    if mode == "auto" and gain < MIN_GAIN:
        return Im2colConv(w, map_shape, stride, padding)
    return (
        WinogradConv(f, w, map_shape, padding) if stride == 1 else StridedWinogradConv(f, w, map_shape, stride, padding)
    )
