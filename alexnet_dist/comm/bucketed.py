"""Strategy `allreduce`: every rank keeps a replica, and gradients are summed over the ranks in buckets.

The flat gradient is cut into buckets of equal size. Backward fills it from the end, and as soon as the last bucket that
hasn't been sent is full, its nonblocking Allreduce starts, while backward goes on. All ranks start the buckets in the
same order, as MPI asks of collectives, whatever the order in which their threads finish. Only the main thread talks to
MPI.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.strategy import Apply
from alexnet_dist.comm.world import World, wait
from alexnet_dist.threads import Team
from alexnet_dist.workspace import Workspace, zeros

BUCKET = 1 << 22  # floats; 16 MB pieces were the fastest of those measured
UPDATE_BLOCK = 1 << 18  # floats to one task of the update


class Bucketed:
    """The sink of one replica's gradients: `size` floats, of which the blocks are views."""

    def __init__(self, world: World, size: int, team: Team, apply: Apply, bucket: int = BUCKET) -> None:
        self.world, self.team, self._apply = world, team, apply
        self.gradients = zeros((size,))
        self._bounds = [(max(0, hi - bucket), hi) for hi in range(size, 0, -bucket)]
        self._bucket = bucket
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._missing = [hi - lo for lo, hi in self._bounds]
        self._requests: list[MPI.Request] = []

    @property
    def started(self) -> int:
        """How many buckets of this step have been started."""
        return len(self._requests)

    @contextmanager
    def block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        yield self.gradients[lo:hi]
        size = self.gradients.size
        with self._lock:
            for index in range((size - hi) // self._bucket, (size - lo - 1) // self._bucket + 1):
                start, end = self._bounds[index]
                self._missing[index] -= min(hi, end) - max(lo, start)
        if threading.current_thread() is threading.main_thread():
            self.poll()

    def poll(self) -> None:
        """Starts the buckets that are full, and lets MPI move those under way. Main thread only."""
        while self.started < len(self._bounds) and self._missing[self.started] == 0:
            lo, hi = self._bounds[self.started]
            self._requests.append(self.world.comm.Iallreduce(MPI.IN_PLACE, self.gradients[lo:hi], MPI.SUM))
        MPI.Request.Testall(self._requests)

    def finish(self) -> float:
        """Applies the update to each bucket as its sum arrives; returns the seconds spent waiting."""
        self.poll()
        if self.started < len(self._bounds):
            lo, hi = self._bounds[self.started]
            raise RuntimeError(
                f"a layer has not handed over its gradient: {self._missing[self.started]} of [{lo}, {hi})"
            )
        waited = 0.0
        for request, (lo, hi) in zip(self._requests, self._bounds, strict=True):
            start = MPI.Wtime()
            wait(request)
            waited += MPI.Wtime() - start
            self._update(lo, hi)
        self._reset()
        return waited

    def _update(self, lo: int, hi: int) -> None:
        def task(start: int, end: int, workspace: Workspace) -> None:
            start, end = lo + start, lo + end
            self._apply(start, end, self.gradients[start:end], workspace)

        self.team.for_each(hi - lo, UPDATE_BLOCK, task)
