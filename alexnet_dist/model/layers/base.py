"""What the blocks have in common: what they are made from, and the protocol by which the network runs them.

A block runs one or a few layers over the batch with the whole team. Legend: N images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
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
    """A layer's weight and bias [as views], and where each begins in the flat buffers."""

    w: np.ndarray
    b: np.ndarray
    w_start: int
    b_start: int

    def rows(self, part: slice) -> "LayerParameters":
        """Those of some of a fully connected layer's outputs, w [O, ...], b [O]."""
        row = self.w.size // max(len(self.w), 1)
        return LayerParameters(self.w[part], self.b[part], self.w_start + part.start * row, self.b_start + part.start)


class Workers(Protocol):
    """What a fully connected layer needs of a team: a Team, or the teams of several ranks that divide work like one."""

    def for_chunks(self, count: int, size: int, task: Callable[[slice, Workspace], object]) -> None: ...

    def for_each(self, count: int, block: int, task: Callable[[int, int, Workspace], object]) -> None: ...


class Division:
    """Which part of a fully connected layer is computed here: all of it. Subclasses share it with other nodes.

    Its outputs are divided; each node owns the part of x that comes from its outputs of the layer before, of all images,
    or of its images where there is no layer before.
    """

    def outputs(self, count: int) -> slice:
        """Which of `count` outputs are computed here."""
        return slice(0, count)

    def owned(self, index: int, inputs: int, batch: int) -> tuple[int, slice]:
        """Of x of the layer number `index`: how many of `batch` images are owned here at most, and which columns."""
        return batch, slice(0, inputs)

    @property
    def whole(self) -> bool:
        """Whether everything is computed here."""
        return True


@dataclass(frozen=True)
class BlockContext:
    """Which threads compute a block, for up to how many images, and where its memory comes from.

    `workers` run the fully connected layers: the team itself, or the teams of all ranks of a node, and then `allocate`
    makes memory that all of them see; `division` says which part of these layers they run. `training` asks for what
    backward and dropout need besides. If `group` isn't 0, the products of an evaluation are of so many images, some of them
    zeros in the last one: each is then rounded alike, however many there are. BLAS may compute a row of a product in another
    way if there are fewer rows or more.
    """

    batch: int
    team: Team
    workers: Workers
    training: bool = False
    allocate: Allocate = empty
    division: Division = field(default_factory=Division)
    group: int = 0


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
