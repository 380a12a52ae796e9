"""Winograd convolution: fewer multiplications, by evaluating polynomials at points (Winograd 1980; Toom-Cook; Lavin and
Gray, arXiv 1509.09308).

One dimension. Two polynomials, u with m coefficients and g with r, have a product s with t = m + r - 1. Evaluating at t
points turns the product into t multiplications of numbers, and interpolation gives its coefficients back:

    s = E_t^-1 [(E_m u) * (E_r g)]

where row i of E_k is (1, a_i, a_i^2, ...) with k entries, and the point "infinity" reads off the highest coefficient.
A convolution layer computes the transpose of this map in u: m outputs y from t inputs d,

    y = A^T [(G g) * (B^T d)]       A = E_m,  G = E_r,  B = E_t^-1

It takes t multiplications, the direct computation m * r. A row of B^T may be multiplied by a factor if the same row of G
is divided by it, which gives B^T whole numbers of moderate size.

Two dimensions. The same along rows and columns, on tiles of t x t inputs that overlap by r - 1:

    Y = A^T [(G w G^T) * (B^T d B)] A

and the sum over channels makes each of the t^2 points a matrix product: M[point] = V[point] @ U[point].

Backward is the adjoint: dM = A dY A^T, dU = V^T dM, dV = dM U^T, dX = sum over tiles of B dV B^T, dw = G^T dU G.

Legend: N images, H W C of x, K filters, P Q of y, I J rows and columns of tiles, t^2 points. x [N, H, W, C],
w [r, r, C, K], y [N, P, Q, K], u [t, t, C, K], v [t, t, N, I, J, C], m [t, t, N, I, J, K]; float32. Stride is 1.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided

from alexnet_dist.support.workspace import Workspace

DU_FLOATS = 1 << 18  # of du in one addition: few enough for the cache, enough that the calls' overhead is small


def points(*values: int | str) -> tuple[Fraction, ...]:
    """Exact points from whole numbers and strings like "1/2"."""
    return tuple(Fraction(value) for value in values)


@dataclass(frozen=True)
class Winograd:
    """F(m, r): m outputs of a filter of r taps from t = m + r - 1 points: the t - 1 in `points`, and infinity."""

    m: int
    r: int
    points: tuple[Fraction, ...]

    @property
    def t(self) -> int:
        return self.m + self.r - 1

    def tiles(self, extent: int) -> int:
        """How many tiles cover `extent` outputs along one axis."""
        return -(-extent // self.m)

    @cached_property
    def filter_transform(self) -> np.ndarray:
        """The Kronecker product of G and G [t^2, r^2]: u = it @ w, both with their first two axes flattened."""
        return np.kron(self.g, self.g)

    def _evaluation(self, terms: int) -> list[list[Fraction]]:
        """E_k: polynomials of k terms, evaluated at each point."""
        finite = [[point**power for power in range(terms)] for point in self.points]
        return [*finite, [Fraction(power == terms - 1) for power in range(terms)]]

    def _scales(self) -> list[Fraction]:
        """The factor of each row of B^T: the denominators of Lagrange's polynomials, prod over j != i of (a_i - a_j)."""
        scales = []
        for i, a in enumerate(self.points):
            product = Fraction(1)
            for j, b in enumerate(self.points):
                if j != i:
                    product *= a - b
            scales.append(product)
        return [*scales, Fraction(1)]

    @cached_property
    def a(self) -> np.ndarray:
        """A [t, m]."""
        return _float32(self._evaluation(self.m))

    @cached_property
    def g(self) -> np.ndarray:
        """G [t, r]."""
        rows = zip(self._evaluation(self.r), self._scales(), strict=True)
        return _float32([[value / scale for value in row] for row, scale in rows])

    @cached_property
    def b(self) -> np.ndarray:
        """B [t, t]."""
        inverse = _inverse(self._evaluation(self.t))
        return _float32([[value * scale for value, scale in zip(row, self._scales(), strict=True)] for row in inverse])


def _float32(rows: list[list[Fraction]]) -> np.ndarray:
    return np.array([[float(value) for value in row] for row in rows], np.float32)


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By Gauss-Jordan elimination, exactly."""
    n = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(n):
            if j != i:
                rows[j] = [value - rows[j][i] * base for value, base in zip(rows[j], rows[i], strict=True)]
    return [row[n:] for row in rows]


def gather(matrix: np.ndarray, x: np.ndarray, out: np.ndarray, step: int, workspace: Workspace) -> None:
    """out[:, :, n, i, j, c] = matrix @ tile (i, j) of x[n, :, :, c] @ matrix^T, for tiles of k x k every `step` pixels.

    matrix [t, k], x [N, H, W, C], out [t, t, N, I, J, C]. Both products are BLAS calls on views of x: nothing is copied.
    """
    t, k = matrix.shape
    _, _, n, i, j, c = out.shape
    w = x.shape[2]
    dn, dh, _, dc = x.strides
    with workspace.frame():
        half = workspace.take((n, i, t, w, c))
        rows = as_strided(x, (n, i, k, w * c), (dn, step * dh, dh, dc))
        np.matmul(matrix, rows, out=half.reshape(n, i, t, w * c))
        *outer, dw, dc = half.strides
        columns = as_strided(half, (n, i, t, j, k, c), (*outer, step * dw, dw, dc))
        np.matmul(matrix, columns, out=out.transpose(2, 3, 0, 4, 1, 5))


def scatter(matrix: np.ndarray, m: np.ndarray, out: np.ndarray, step: int, workspace: Workspace) -> None:
    """The adjoint of `gather`: out[n, :, :, c] = sum over tiles of matrix @ m[:, :, n, i, j, c] @ matrix^T, in place.

    matrix [k, t], m [t, t, N, I, J, C], out [N, I step + k - step, J step + k - step, C]. Tiles overlap by k - step.
    """
    k, t = matrix.shape
    _, _, n, i, j, c = m.shape
    w = out.shape[2]
    with workspace.frame():
        half = workspace.take((n, i, t, w, c))
        tiles = workspace.take((n, i, t, j, k, c)) if k > step else half.reshape(n, i, t, j, k, c)
        np.matmul(matrix, m.transpose(2, 3, 0, 4, 1, 5), out=tiles)
        if k > step:
            _fold(tiles, half, step)
        slabs = workspace.take((n, i, k, w * c)) if k > step else out.reshape(n, i, k, w * c)
        np.matmul(matrix, half.reshape(n, i, t, w * c), out=slabs)
        if k > step:
            _fold(slabs, out.reshape(n, -1, w * c), step)


def _fold(tiles: np.ndarray, out: np.ndarray, step: int) -> None:
    """out[..., j step + q, :] = sum of tiles[..., j, q, :]; tiles [..., J, k, C], out [..., J step + k - step, C]."""
    *outer, j, k, c = tiles.shape
    *strides, dw, dc = out.strides
    np.copyto(as_strided(out, (*outer, j, step, c), (*strides, step * dw, dw, dc)), tiles[..., :step, :])
    out[..., j * step :, :] = 0
    rest = out[..., step:, :]
    rest = as_strided(rest, (*outer, j, k - step, c), (*strides, step * dw, dw, dc))
    rest += tiles[..., step:, :]


def filters_winograd_forward(f: Winograd, w: np.ndarray, u: np.ndarray) -> None:
    """u = G w G^T, for a block of the pairs (channel, filter): w [r^2, block], u [t^2, block]."""
    np.matmul(f.filter_transform, w, out=u)


def filters_winograd_backward(f: Winograd, du: np.ndarray, dw: np.ndarray) -> None:
    """dw = G^T du G, for a block of the pairs (channel, filter): du [t^2, block], dw [r^2, block]."""
    np.matmul(f.filter_transform.T, du, out=dw)


def points_winograd_forward(v: np.ndarray, u: np.ndarray, m: np.ndarray) -> None:
    """m = v @ u, for a block of the points: v [points, tiles, C], u [points, C, K], m [points, tiles, K]."""
    np.matmul(v, u, out=m)


def points_winograd_backward(
    v: np.ndarray, u: np.ndarray, dm: np.ndarray, du: np.ndarray, *, add: bool, data: bool, workspace: Workspace
) -> None:
    """For a block of the points: du = v^T @ dm, or du += it if `add`; then, if `data`, v is overwritten with dm @ u^T, dv.

    Shapes as in the forward pass.
    """
    if not add:
        np.matmul(v.transpose(0, 2, 1), dm, out=du)
    else:
        group = max(1, DU_FLOATS // (u.shape[1] * u.shape[2]))
        with workspace.frame():
            part = workspace.take((group, *u.shape[1:]))
            for lo in range(0, len(v), group):
                product = part[: len(v[lo : lo + group])]
                np.matmul(v[lo : lo + group].transpose(0, 2, 1), dm[lo : lo + group], out=product)
                du[lo : lo + group] += product
    if data:
        np.matmul(dm, u.transpose(0, 2, 1), out=v)
