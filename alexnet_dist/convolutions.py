"""How a convolution is computed: the algorithms bound to a layer's shapes and weights, and the table that chooses.

Legend: N images, H W C of x, K filters, P Q height and width of the map, R S of a filter.
"""

from typing import Protocol

import numpy as np

from alexnet_dist.kernels import conv_im2col, conv_winograd
from alexnet_dist.kernels.conv_im2col import pad
from alexnet_dist.kernels.conv_winograd import Winograd, points
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, empty

PATCHES = 2048  # about as many patches to one matrix product: enough to feed BLAS, few enough to stay near the core
COLUMNS = 1 << 14  # pairs (channel, filter) in one task of a filter transform
MODES = ("auto", "winograd", "direct")


class Convolution(Protocol):
    """An algorithm for one layer. A step calls prepare, forward and backward over chunks of images, finish."""

    name: str
    chunk: int  # images that a thread takes at once
    map_shape: tuple[int, ...]  # (P, Q, K), or more rows and columns where the algorithm works in whole tiles
    partial_size: int  # floats of a thread's part of the weights' gradient

    def prepare(self, team: Team) -> None:
        """Reads the weights, which have changed."""
        ...

    def forward(self, x: np.ndarray, z: np.ndarray, workspace: Workspace) -> None:
        """Fills z [N, *map_shape] from x [N, H, W, C]."""
        ...

    def backward(
        self, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, partial: np.ndarray, add: bool, workspace: Workspace
    ) -> None:
        """Fills partial [partial_size] or adds to it, and fills dx; dz [N, *map_shape] is zero outside of the map proper."""
        ...

    def finish(self, team: Team, dw: np.ndarray) -> None:
        """Fills dw [R, S, C, K] from the beginnings of the threads' partial sums."""
        ...


class Direct:
    """Patches as rows of a matrix (im2col): any kernel, stride and padding."""

    def __init__(self, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int) -> None:
        self.name = "direct (im2col)"
        self.w, self.map_shape, self.geometry = w, map_shape, {"stride": stride, "padding": padding}
        self.chunk = max(1, PATCHES // (map_shape[0] * map_shape[1]))
        self.partial_size = w.size

    def prepare(self, team: Team) -> None:
        """Nothing: the weights are used as they lie."""

    def forward(self, x: np.ndarray, z: np.ndarray, workspace: Workspace) -> None:
        conv_im2col.conv_im2col_forward(x, self.w, z, **self.geometry, workspace=workspace)

    def backward(
        self, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, partial: np.ndarray, add: bool, workspace: Workspace
    ) -> None:
        dw = partial.reshape(self.w.shape)
        conv_im2col.conv_im2col_backward_weight(x, dz, dw, add=add, **self.geometry, workspace=workspace)
        if dx is not None:
            conv_im2col.conv_im2col_backward_data(dz, self.w, dx, **self.geometry, workspace=workspace)

    def finish(self, team: Team, dw: np.ndarray) -> None:
        flat = dw.reshape(-1)
        team.for_each(dw.size, COLUMNS, lambda lo, hi, _: team.sum_partials(lo, hi, flat[lo:hi]))


class Tiled:
    """Winograd's algorithm, stride 1; the filters are transformed once a step."""

    def __init__(self, f: Winograd, w: np.ndarray, map_shape: tuple[int, ...], padding: int) -> None:
        p, q, k = map_shape
        self.name = f"Winograd F({f.m}, {f.r})"
        self.f, self.w, self.padding = f, w, padding
        self.map_shape: tuple[int, ...] = (f.tiles(p) * f.m, f.tiles(q) * f.m, k)
        # Few large filters want many tiles to a product, a large map wants to stay in the cache.
        self.chunk = max(1, 288 // (f.tiles(p) * f.tiles(q)))
        self.u = empty((f.t, f.t, *w.shape[2:]))
        self.partial_size = self.u.size

    def prepare(self, team: Team) -> None:
        w, u = _pairs(self.w), _pairs(self.u)
        team.for_each(
            w.shape[1],
            COLUMNS,
            lambda lo, hi, _: conv_winograd.filters_winograd_forward(self.f, w[:, lo:hi], u[:, lo:hi]),
        )

    def forward(self, x: np.ndarray, z: np.ndarray, workspace: Workspace) -> None:
        conv_winograd.conv_winograd_forward(self.f, x, self.u, z, padding=self.padding, workspace=workspace)

    def backward(
        self, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, partial: np.ndarray, add: bool, workspace: Workspace
    ) -> None:
        du = partial.reshape(self.u.shape)
        conv_winograd.conv_winograd_backward(
            self.f, x, dz, self.u, du, dx, add=add, padding=self.padding, workspace=workspace
        )

    def finish(self, team: Team, dw: np.ndarray) -> None:
        flat, pairs = _pairs(dw), dw.shape[2] * dw.shape[3]

        def task(lo: int, hi: int, workspace: Workspace) -> None:
            du = workspace.take((self.f.t**2, hi - lo))
            for point, row in enumerate(du):
                team.sum_partials(point * pairs + lo, point * pairs + hi, row)
            conv_winograd.filters_winograd_backward(self.f, du, flat[:, lo:hi])

        team.for_each(pairs, COLUMNS // 8, task)


class SpaceToDepth:
    """A strided convolution of pixels as one of stride 1 over blocks of stride x stride pixels, and that in tiles.

    A block is one pixel with stride^2 C channels; the filters get zeros to make their extent a multiple of the stride.
    There is no gradient of x.
    """

    def __init__(self, f: Winograd, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int) -> None:
        kernel, _, c, k = w.shape
        self.w, self.kernel, self.stride, self.padding = w, kernel, stride, padding
        self.padded = np.zeros((f.r * stride, f.r * stride, c, k), np.float32)
        self.blocks = empty((f.r, f.r, stride * stride * c, k))
        self.inner = Tiled(f, self.blocks, map_shape, padding=0)
        self.name = f"{self.inner.name} on {stride} x {stride} blocks"
        self.chunk, self.partial_size = self.inner.chunk, self.inner.partial_size
        self.map_shape = self.inner.map_shape

    def _split(self, array: np.ndarray) -> np.ndarray:
        """[..., rows stride, columns stride, C, K] as [rows, columns, stride, stride, C, K], without a copy."""
        s, (h, w, *rest) = self.stride, array.shape
        return array.reshape(h // s, s, w // s, s, *rest).swapaxes(1, 2)

    def prepare(self, team: Team) -> None:
        self.padded[: self.kernel, : self.kernel] = self.w
        split = self._split(self.padded)
        self.blocks.reshape(split.shape)[...] = split
        self.inner.prepare(team)

    def _blocks_of(self, x: np.ndarray, workspace: Workspace) -> np.ndarray:
        n, _, _, c = x.shape
        s, f = self.stride, self.inner.f
        rows, columns = (extent + f.r - 1 for extent in self.map_shape[:2])
        blocks = workspace.take((n, rows, columns, s, s, c))
        with workspace.frame():
            padded = pad(x, self.padding, (rows * s, columns * s), workspace)
            blocks[...] = padded.reshape(n, rows, s, columns, s, c).swapaxes(2, 3)
        return blocks.reshape(n, rows, columns, s * s * c)

    def forward(self, x: np.ndarray, z: np.ndarray, workspace: Workspace) -> None:
        with workspace.frame():
            self.inner.forward(self._blocks_of(x, workspace), z, workspace)

    def backward(
        self, x: np.ndarray, dz: np.ndarray, dx: np.ndarray | None, partial: np.ndarray, add: bool, workspace: Workspace
    ) -> None:
        assert dx is None
        with workspace.frame():
            self.inner.backward(self._blocks_of(x, workspace), dz, None, partial, add, workspace)

    def finish(self, team: Team, dw: np.ndarray) -> None:
        with team.workspaces[0].frame():
            blocks = team.workspaces[0].take(self.blocks.shape)
            self.inner.finish(team, blocks)
            padded = team.workspaces[0].take(self.padded.shape)
            self._split(padded)[...] = blocks.reshape(self._split(padded).shape)
            dw[...] = padded[: self.kernel, : self.kernel]


def _pairs(array: np.ndarray) -> np.ndarray:
    """[R, S, C, K] as [R S, C K]."""
    return array.reshape(array.shape[0] * array.shape[1], -1)


# Outputs and taps along one axis, by the filter's extent; more points lose more digits.
ALGORITHMS = {
    3: Winograd(5, 3, points(0, 1, -1, 2, -2, "1/2")),
    5: Winograd(4, 5, points(0, 1, -1, 2, -2, "1/2", "-1/2")),
}
LEAST_GAIN = 1.5  # auto takes Winograd where it saves so many multiplications: a map much smaller than a tile wastes it


def choose(
    mode: str, w: np.ndarray, map_shape: tuple[int, ...], stride: int, padding: int, pixels: bool
) -> Convolution:
    """The algorithm for a layer: `mode` is one of MODES; `pixels` says that x is the image, which has no gradient."""
    kernel = w.shape[0]
    f = ALGORITHMS.get(kernel if stride == 1 else -(-kernel // stride) if pixels else 0)
    if f is None or mode == "direct":
        return Direct(w, map_shape, stride, padding)
    p, q, _ = map_shape
    gain = p * q * kernel**2 / (f.tiles(p) * f.tiles(q) * f.t**2 * stride**2)
    if mode == "auto" and gain < LEAST_GAIN:
        return Direct(w, map_shape, stride, padding)
    return Tiled(f, w, map_shape, padding) if stride == 1 else SpaceToDepth(f, w, map_shape, stride, padding)
