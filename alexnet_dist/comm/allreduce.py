"""Strategy `allreduce`: every rank keeps a replica, and gradients are summed over the ranks in buckets.

The flat gradient is cut into buckets of equal size. Backward fills it from the end, and as soon as the last bucket that
hasn't been sent is full, its nonblocking Allreduce starts, while backward goes on. All ranks start the buckets in the
same order, as MPI asks of collectives, whatever the order in which their threads finish. Only the main thread talks to
MPI.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.buckets import BUCKET, Buckets
from alexnet_dist.comm.strategy import Apply, Record, forget
from alexnet_dist.comm.world import World, wait
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, zeros

UPDATE_BLOCK = 1 << 18  # floats to one task of the update


class Bucketed:
    """The sink of one replica's gradients: `size` floats, of which the blocks are views."""

    def __init__(
        self, world: World, size: int, team: Team, apply: Apply, bucket: int = BUCKET, record: Record = forget
    ) -> None:
        self.world, self.team, self._apply, self._record = world, team, apply, record
        self.values, self.momentum, self.gradients = (zeros((size,)) for _ in range(3))
        self._buckets = Buckets(0, size, bucket)
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
        yield self.gradients[lo:hi]
        self._buckets.fill(lo, hi)
        if threading.current_thread() is threading.main_thread():
            self.poll()

    def poll(self) -> None:
        """Starts the buckets that are full, and lets MPI move those under way. Main thread only."""
        bounds = self._buckets.bounds
        while self.started < len(bounds) and self._buckets.is_full(self.started):
            lo, hi = bounds[self.started]
            self._starts.append(time.perf_counter())
            self._requests.append(self.world.comm.Iallreduce(MPI.IN_PLACE, self.gradients[lo:hi], MPI.SUM))
        MPI.Request.Testall(self._requests)

    def finish(self) -> None:
        """Applies the update to each bucket as its sum arrives."""
        self.poll()
        if self.started < len(self._buckets.bounds):
            raise self._buckets.forgotten(self.started)
        for request, began, (lo, hi) in zip(self._requests, self._starts, self._buckets.bounds, strict=True):
            start = time.perf_counter()
            wait(request)
            end = time.perf_counter()
            self._waited += end - start
            self._record(f"bucket [{lo}, {hi})", began, end)
            self._update(lo, hi)
        self._buckets.reset()
        self._requests, self._starts = [], []

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        waited, self._waited = self._waited, 0.0
        return waited

    def broadcast_(self, array: np.ndarray) -> None:
        """Overwrites values or momentum with rank 0's."""
        self.world.broadcast_(array)

    def close(self) -> None:
        """Nothing outlives the replica."""

    def _update(self, lo: int, hi: int) -> None:
        def task(start: int, end: int, workspace: Workspace) -> None:
            start, end = lo + start, lo + end
            self._apply(start, end, self.gradients[start:end], workspace)

        self.team.for_each(hi - lo, UPDATE_BLOCK, task)
