"""What the strategies have in common: their options, their protocol, and updates that need norms first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from alexnet_dist.comm.buckets import BUCKET
from alexnet_dist.comm.parts import Parts
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, empty

UPDATE_BLOCK = 1 << 18  # floats in one task of an update

# (name, start, end): a bucket's exchange, in seconds of time.perf_counter
Record = Callable[[str, float, float], None]


def no_record(name: str, start: float, end: float) -> None:
    """A Record that does nothing."""


class NotPossible(Exception):
    """A strategy can't be used here; the text says why. Raised by all ranks of the world."""


class Update(Protocol):
    """One step of the optimizer, on ranges of the flat buffers.

    `partials` is how many partial sums must be known before anything is updated. With none, any range may be updated as
    soon as its gradient is there. Else `measure` is called with every range first, then `complete` with the sums over
    all ranges, then `apply`. Any thread may call measure and apply, and the two may be called with different ranges.
    """

    state: tuple[str, ...]  # the names of the buffers that the optimizer keeps besides the parameters
    partials: int

    def apply(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        """Updates [lo, hi) with its gradient [hi - lo], which is only read."""
        ...

    def measure(self, lo: int, hi: int, gradient: np.ndarray, workspace: Workspace) -> None:
        """Adds what [lo, hi) contributes to the partial sums."""
        ...

    def take_partials(self) -> np.ndarray:
        """The partial sums [partials], float64, of what has been measured here since the last call."""
        ...

    def complete(self, sums: np.ndarray) -> None:
        """Receives the sums [partials] over all ranges."""
        ...


@dataclass(frozen=True)
class StrategyOptions:
    """What every strategy needs: `size` parameters, of which those from `classifier_start` on are the classifier's.

    Each of `matrices` is one of these: (where it begins, its rows, the length of a row), one row for each output of a
    layer. Those before `trained_from` stay as they are: they get no gradient and have no state. `bucket` is how many
    floats are exchanged at once; `record` is called after each exchange. `parts` says which part of a step the gradients
    belong to that are handed over. With `in_pairs`, the gradients of a node's ranks are summed in pairs, in their order.
    """

    size: int
    classifier_start: int
    update: Update
    team: Team
    matrices: tuple[tuple[int, int, int], ...] = ()
    trained_from: int = 0
    bucket: int = BUCKET
    record: Record = no_record
    parts: Parts = field(default_factory=Parts)
    in_pairs: bool = False

    @property
    def trained(self) -> tuple[int, int]:
        """The range of the flat buffers that is trained."""
        return self.trained_from, self.size

    def buffer(self) -> np.ndarray:
        """A flat buffer of a replica, zeroed where parameters are trained; the rest is never touched, so takes no memory."""
        array = empty((self.size,))
        array[self.trained_from :] = 0
        return array


class Strategy(GradientSink, Protocol):
    """A sink of gradients that updates the parameters once in each step; it owns their memory."""

    values: np.ndarray  # the parameters, flat; private to the rank, or shared by the ranks of a node
    state: dict[str, np.ndarray]  # what the optimizer keeps, each of the same shape; zeros at first

    def finish(self) -> None:
        """Returns when every parameter is updated."""
        ...

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        ...

    def whole(self, array: np.ndarray) -> np.ndarray | None:
        """Collective: on rank 0 all of `values` or one of `state`, to be read at once; None on the others."""
        ...

    def blank(self, array: np.ndarray) -> np.ndarray:
        """Not collective: memory for all of `array`, to be filled on rank 0 and given to `distribute_`."""
        ...

    def distribute_(self, array: np.ndarray, whole: np.ndarray | None) -> None:
        """Collective: `values` or one of `state` becomes on every rank what rank 0 has filled `whole` with."""
        ...

    def swap_(self, one: np.ndarray, other: np.ndarray) -> None:
        """Collective: `one` and `other`, of `values` and `state`, exchange their contents on every rank."""
        ...

    def copied(self) -> list[tuple[int, int]]:
        """Not collective: the ranges of `values` and `state` of which this rank stands for one of several copies."""
        ...

    def close(self) -> None:
        """Collective: frees what the garbage collector can't (windows, communicators). No array may be used after."""
        ...


@dataclass(frozen=True)
class Summed:
    """The complete gradient of [lo, hi), which this rank is to update."""

    lo: int
    hi: int
    gradient: np.ndarray


def update_ranges(ranges: list[Summed], options: StrategyOptions) -> None:
    """The team updates these ranges, block by block."""
    for part in ranges:
        _for_blocks(part, options, options.update.apply)


def update_with_norms(
    ranges: list[Summed],
    measured: list[Summed],
    options: StrategyOptions,
    combine: Callable[[np.ndarray], np.ndarray] = lambda sums: sums,
) -> None:
    """The second phase of a step whose update needs sums over all ranges: measures, combines, updates.

    `measured` are those of the ranges that no other rank measures, too. `combine` adds the partial sums of all ranks;
    where this rank measures everything there is nothing to add.
    """
    for part in measured:
        _for_blocks(part, options, options.update.measure)
    options.update.complete(combine(options.update.take_partials()))
    update_ranges(ranges, options)


def swap_ranges_(one: np.ndarray, other: np.ndarray, ranges: list[tuple[int, int]], team: Team) -> None:
    """The team exchanges the contents of two flat arrays in these ranges."""
    for lo, hi in ranges:

        def task(start: int, end: int, workspace: Workspace, lo: int = lo) -> None:
            part = slice(lo + start, lo + end)
            with workspace.frame():
                kept = workspace.take((end - start,))
                np.copyto(kept, one[part])
                np.copyto(one[part], other[part])
                np.copyto(other[part], kept)

        team.for_each(hi - lo, UPDATE_BLOCK, task)


def _for_blocks(
    part: Summed, options: StrategyOptions, action: Callable[[int, int, np.ndarray, Workspace], None]
) -> None:
    def task(start: int, end: int, workspace: Workspace) -> None:
        action(part.lo + start, part.lo + end, part.gradient[start:end], workspace)

    options.team.for_each(part.hi - part.lo, UPDATE_BLOCK, task)
