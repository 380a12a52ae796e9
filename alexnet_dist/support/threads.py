"""The team of threads of a process: how it divides work, and each thread's scratch memory.

NumPy releases the interpreter's lock inside its loops and its BLAS, so Python threads scale. BLAS itself is limited to
one thread: the team divides the work, and BLAS threads inside Python threads would compete for the same cores.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from threadpoolctl import threadpool_limits

from alexnet_dist.support.workspace import Workspace


def available_cores() -> int:
    """The cores that this process may use: its affinity mask, and its container's quota (cgroup v2 cpu.max)."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def one_blas_thread() -> threadpool_limits:
    """Limits BLAS to one thread, until the result's `restore_original_limits`, or for the length of a `with` block."""
    return threadpool_limits(limits=1, user_api="blas")


Task = Callable[[int, Workspace], Any]
FIXED_SHARES = 8


def contiguous(count: int, size: int, workers: int, task: Callable[[slice, Workspace], Any]) -> Task:
    """Divides `count` items among `workers`: each gets a contiguous share, in chunks of at most `size` items."""

    def share(index: int, workspace: Workspace) -> None:
        lo, hi = count * index // workers, count * (index + 1) // workers
        for start in range(lo, hi, size):
            task(slice(start, min(start + size, hi)), workspace)

    return share


def round_robin(count: int, block: int, workers: int, task: Callable[[int, int, Workspace], Any]) -> Task:
    """Divides `count` items among `workers`: blocks of `block` items in turn, from the last block to the first."""
    starts = range(0, count, block)[::-1]

    def blocks(index: int, workspace: Workspace) -> None:
        for lo in starts[index::workers]:
            task(lo, min(lo + block, count), workspace)

    return blocks


class Team:
    """A fixed number of threads, the caller's among them, that work on a task together.

    The division of the work is static: the same thread always gets the same share, so that two runs with the same number
    of threads give the same bits. A `fixed` team divides work into FIXED_SHARES whatever its number of threads, so that it
    makes the same products and gives the same bits with any. Without `limit_blas`, the caller sees to it that BLAS has one
    thread while they work.
    """

    def __init__(self, size: int | None = None, *, fixed: bool = False, limit_blas: bool = True) -> None:
        self.size = available_cores() if size is None else size
        if self.size < 1:
            raise ValueError(f"a team has at least 1 thread, not {self.size}")
        self.fixed = fixed
        self._shares = FIXED_SHARES if fixed else self.size
        self.workspaces = [Workspace() for _ in range(self.size)]
        self.shared = Workspace()  # for arrays that all threads work on; taken by the caller of run
        self._limits = one_blas_thread() if limit_blas else None
        self._task: Task | None = None
        self._begin()

    def _begin(self) -> None:
        self._start = threading.Barrier(self.size)
        self._end = threading.Barrier(self.size)
        self._errors: list[BaseException | None] = [None] * self.size
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), name=f"team-{index}", daemon=True)
            for index in range(1, self.size)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, task: Task) -> None:
        """Every thread calls `task(its index, its workspace)`; returns when all have, and raises what one of them raised."""
        if self._task is not None:  # Ctrl-C has ended the run before half-way, and the others may be anywhere
            self._break_off()
            self._begin()
        self._task = task
        self._start.wait()
        self._work(0)
        self._end.wait()
        for error in self._errors:
            if error is not None:
                self._errors = [None] * self.size
                self._task = None
                raise error
        self._task = None

    def for_chunks(self, count: int, size: int, task: Callable[[slice, Workspace], Any]) -> None:
        """`task(slice, workspace)` over `count` images: each share of them in chunks of at most `size`."""
        self._run_shares(contiguous(count, size, self._shares, task))

    def for_rows(self, images: int, rows: int, max_images: int, task: Callable[[slice, slice, Workspace], Any]) -> None:
        """`task(images, rows, workspace)` over `rows` rows of each image: each share is contiguous in all rows.

        In pieces of at most `max_images` whole images, or of some rows of one image: so a batch of fewer images than
        threads is divided, too.
        """

        def share(index: int, workspace: Workspace) -> None:
            lo, hi = (images * rows * edge // self._shares for edge in (index, index + 1))
            while lo < hi:
                image, row = divmod(lo, rows)
                whole_images = 0 if row else min((hi - lo) // rows, max_images)
                taken = whole_images * rows or min(rows - row, hi - lo)
                end = rows if whole_images else row + taken
                task(slice(image, image + max(whole_images, 1)), slice(row, end), workspace)
                lo += taken

        self._run_shares(share)

    def for_each(self, count: int, block: int, task: Callable[[int, int, Workspace], Any]) -> None:
        """`task(lo, hi, workspace)` for every block of `block` items of `count`, assigned to the threads in turn.

        From the last block to the first, the order in which gradients are sent. The blocks don't depend on the number
        of threads; a task that writes only its own block gives the same bits whatever that number.
        """
        self.run(round_robin(count, block, self.size, task))

    def _run_shares(self, share: Task) -> None:
        """`share(number, workspace)` for each share, assigned to the threads in turn."""

        def task(index: int, workspace: Workspace) -> None:
            for number in range(index, self._shares, self.size):
                share(number, workspace)

        self.run(task)

    def close(self) -> None:
        """Ends the threads, and lifts the limit on BLAS's threads."""
        self._break_off()
        self._threads = []
        self._lift_limits()

    def abandon(self) -> None:
        """Ends the threads without waiting for them, also those that an exception has left at the barriers of `run`."""
        self._start.abort()
        self._end.abort()
        self._lift_limits()

    def _break_off(self) -> None:
        """Returns when the threads have ended, those at work after their task."""
        self._start.abort()
        self._end.abort()
        for thread in self._threads:
            if thread.is_alive():  # and not one that was never started
                thread.join()

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        self.abandon()  # the exception may have left `run` half-way

    def _lift_limits(self) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()

    def _serve(self, index: int) -> None:
        with suppress(threading.BrokenBarrierError):
            while True:
                self._start.wait()
                self._work(index)
                self._end.wait()

    def _work(self, index: int) -> None:
        assert self._task is not None
        workspace = self.workspaces[index]
        try:
            with workspace.frame():
                self._task(index, workspace)
        except BaseException as error:  # raised again by run
            self._errors[index] = error
