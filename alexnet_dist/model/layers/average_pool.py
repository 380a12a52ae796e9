"""Adaptive average pooling. Legend: N images, H W C height, width and channels."""

import numpy as np

from alexnet_dist.kernels import pool
from alexnet_dist.model.layers.base import BlockContext, DropoutKey
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.workspace import Workspace, empty

CHUNK = 16  # images that a thread averages at once


class AveragePool:
    """Adaptive average pooling to a fixed map."""

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...], context: BlockContext) -> None:
        self.team = context.team
        self.rows = pool.averaging_matrix(input_shape[0], output_shape[0])
        self.columns = pool.averaging_matrix(input_shape[1], output_shape[1])
        self.y = empty((context.batch, *output_shape))

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, P, Q, C] of x [N, H, W, C]."""
        y = self.y[: len(x)]

        def task(part: slice, workspace: Workspace) -> None:
            pool.adaptive_avgpool_forward(x[part], self.rows, self.columns, y[part], workspace=workspace)

        self.team.for_chunks(len(x), CHUNK, task)
        return y

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """The gradient of x to dx."""
        if dx is None:
            return
        out = dx  # for mypy: in the closure, dx might be None again

        def task(part: slice, workspace: Workspace) -> None:
            pool.adaptive_avgpool_backward(dy[part], self.rows, self.columns, out[part], workspace=workspace)

        self.team.for_chunks(len(x), CHUNK, task)
