"""Strategy `allreduce`: every rank keeps a replica, and gradients are summed over the ranks in buckets.

The flat gradient is cut into buckets of equal size. Backward fills it from the end, and as soon as the last bucket that
hasn't been sent is full, its nonblocking Allreduce starts, while backward goes on. All ranks start the buckets in the
same order, as MPI requires of collectives, whatever the order in which their threads finish. Only the main thread calls
MPI.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.buckets import Buckets
from alexnet_dist.comm.strategy import StrategyOptions, Summed, swap_ranges_, update_ranges, update_with_norms
from alexnet_dist.comm.world import World, wait_until
from alexnet_dist.support.workspace import Workspace, zeros


class Allreduce:
    """The sink of one replica's gradients; a block is a view of the flat gradient."""

    def __init__(self, world: World, options: StrategyOptions) -> None:
        self.world, self._options = world, options
        self.values, self.gradients = zeros((options.size,)), options.buffer()
        self.state = {name: options.buffer() for name in options.update.state}
        self._buckets = Buckets(*options.trained, options.bucket)
        self._requests: list[MPI.Request] = []
        self._starts: list[float] = []
        self._waited = 0.0

    @property
    def started(self) -> int:
        """How many buckets of this step have been started."""
        return len(self._requests)

    @contextmanager
    def block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        parts = self._options.parts
        with parts.adding(self.gradients[lo:hi], workspace) as gradient:
            yield gradient
        if parts.last:
            self._buckets.mark_filled(lo, hi)
        if threading.current_thread() is threading.main_thread():
            self.poll()

    def poll(self) -> None:
        """Starts the buckets that are full, and lets MPI make progress with those started. Main thread only."""
        bounds = self._buckets.bounds
        while self.started < len(bounds) and self._buckets.is_full(self.started):
            lo, hi = bounds[self.started]
            self._starts.append(time.perf_counter())
            self._requests.append(self.world.comm.Iallreduce(MPI.IN_PLACE, self.gradients[lo:hi], MPI.SUM))
        MPI.Request.Testall(self._requests)

    def finish(self) -> None:
        """Updates each bucket when its sum is complete, or all after the last sum: for an update that needs norms, and in a
        world that may lose ranks, where all update or none."""
        self.poll()
        if self.started < len(self._buckets.bounds):
            raise self._buckets.incomplete_error(self.started)
        deferred = []
        for request, began, (lo, hi) in zip(self._requests, self._starts, self._buckets.bounds, strict=True):
            start = time.perf_counter()
            wait_until(request.Test)
            end = time.perf_counter()
            self._waited += end - start
            self._options.record(f"bucket [{lo}, {hi})", began, end)
            summed = Summed(lo, hi, self.gradients[lo:hi])
            if self._options.update.partials or self.world.commits:
                deferred.append(summed)
            else:
                update_ranges([summed], self._options)
        self.world.commit()
        if self._options.update.partials:
            update_with_norms(deferred, deferred, self._options, self._of_rank_0)
        else:
            update_ranges(deferred, self._options)
        self._buckets.reset()
        self._requests, self._starts = [], []

    def _of_rank_0(self, sums: np.ndarray) -> np.ndarray:
        """Sums that other kinds of processor may round otherwise: replicas that scale by them would part."""
        self.world.broadcast_(sums)
        return sums

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        waited, self._waited = self._waited, 0.0
        return waited

    def whole(self, array: np.ndarray) -> np.ndarray | None:
        """On rank 0 all of values or one of state: every replica is complete."""
        return array if self.world.rank == 0 else None

    def blank(self, array: np.ndarray) -> np.ndarray:
        """The replica itself."""
        return array

    def distribute_(self, array: np.ndarray, whole: np.ndarray | None) -> None:
        """Overwrites values or one of state with rank 0's."""
        self.world.broadcast_(array)

    def swap_(self, one: np.ndarray, other: np.ndarray) -> None:
        """The replica's arrays exchange their contents."""
        swap_ranges_(one, other, [self._options.trained], self._options.team)

    def copied(self) -> list[tuple[int, int]]:
        """Everything: each rank has a copy."""
        return [(0, self._options.size)] if self.world.size > 1 else []

    def close(self) -> None:
        """Does nothing: garbage collection frees the replica."""
