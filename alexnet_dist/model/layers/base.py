"""What the blocks have in common: what they are made from, and the protocol by which the network runs them.

A block runs one or a few layers over the batch with the whole team. Legend: N images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, empty

Allocate = Callable[[tuple[int, ...]], np.ndarray]  # an uninitialised float32 array of a shape


@dataclass(frozen=True)
class DropoutKey:
    """What the masks of one step depend on: positions [N] are the images' positions in the global batch."""

    seed: int
    step: int
    positions: np.ndarray


@dataclass(frozen=True)
class LayerParameters:
    """A layer's weight and bias, as views, and where they are in the flat buffers: w in [lo, mid), b in [mid, hi)."""

    w: np.ndarray
    b: np.ndarray
    lo: int
    mid: int
    hi: int


class Workers(Protocol):
    """What a fully connected layer needs of a team: a Team, or the teams of several ranks that divide work like one."""

    def for_chunks(self, count: int, size: int, task: Callable[[slice, Workspace], object]) -> None: ...

    def for_each(self, count: int, block: int, task: Callable[[int, int, Workspace], object]) -> None: ...


@dataclass(frozen=True)
class BlockContext:
    """Which threads compute a block, for up to how many images, and where its memory comes from.

    `workers` run the fully connected layers: the team itself, or the teams of all ranks of a node, and then `allocate`
    makes memory that they share. With `training`, what backward and dropout need is allocated, too.
    """

    batch: int
    team: Team
    workers: Workers
    training: bool = False
    allocate: Allocate = empty


class Block(Protocol):
    """Runs one or a few layers."""

    y: np.ndarray  # [batch, *output shape]; forward fills and returns its first N images

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """y [N, ...] of x [N, ...], valid until the next call; with a key, dropout is on."""
        ...

    def backward(self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, sink: GradientSink) -> None:
        """Gradients of the parameters to the sink, and that of x to dx unless it is None; dy may be overwritten.

        x is that of the latest forward pass. dx, if any, must be complete before the sink gets the gradient of the
        weights: a sink may update weights as soon as it has their gradient.
        """
        ...
