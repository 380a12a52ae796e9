"""The ranks of this run: small exchanges between them, and errors that end all of them with one message.

mpi4py is imported in this folder only. Nothing is pickled: messages are arrays, or text as JSON. Waiting ranks yield
their core: an MPI library spins while it waits, and would take the core from the ranks that still compute.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.support.threads import available_cores

try:
    with warnings.catch_warnings():
        # mpi4py warns when mpirun and the library are of different MPIs: each rank would be alone in a world of one.
        warnings.simplefilter("error", RuntimeWarning)
        from mpi4py import MPI
except RuntimeWarning as problem:
    raise UserError(
        "mpirun and the MPI library that Python loads don't belong together, so the ranks would not find each other. "
        "Use the mpirun of the environment that this package is installed in (activate it, then `which mpirun`), or "
        f"point mpi4py at the other library (MPI4PY_LIBMPI). mpi4py says: {problem}"
    ) from None
except (ImportError, RuntimeError) as problem:
    raise UserError(
        f"no MPI library was found ({problem}). Install one, for example: pip install 'alexnet_dist[mpi]'"
    ) from None


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits without spinning: yields the core after each check, and after some checks sleeps between them."""
    checks = 0
    while not condition():
        checks += 1
        if checks < 50:
            os.sched_yield()
        else:
            time.sleep(20e-6)


class World:
    """All ranks of a communicator. Every method is collective unless it says otherwise."""

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.rank, self.size = self.comm.rank, self.comm.size

    def sum(self, values: list[float]) -> list[float]:
        """The sums over the ranks of some numbers, in float64 (exact for integers below 2**53)."""
        return [float(value) for value in self._reduced(values, MPI.SUM)]

    def largest(self, value: float) -> float:
        """The largest of the ranks' numbers."""
        return float(self._reduced([value], MPI.MAX)[0])

    def _reduced(self, values: list[float], operation: MPI.Op) -> np.ndarray:
        total = np.array(values, np.float64)
        wait_until(self.comm.Iallreduce(MPI.IN_PLACE, total, operation).Test)
        return total

    def broadcast_(self, array: np.ndarray) -> None:
        """Overwrites the array with rank 0's."""
        wait_until(self.comm.Ibcast(array, root=0).Test)

    def broadcast_json(self, value: Any) -> Any:
        """Rank 0's value, which JSON must be able to represent; the others' is ignored."""
        return json.loads(self.all_texts([json.dumps(value)] if self.rank == 0 else [])[0])

    def all_texts(self, texts: list[str]) -> list[str]:
        """All texts of all ranks, in the order of the ranks, on every rank."""
        mine = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        wait_until(self.comm.Iallgather(np.array([mine.size], np.int64), sizes).Test)
        everyone = np.empty(int(sizes.sum()), np.uint8)
        wait_until(self.comm.Iallgatherv(mine, [everyone, sizes]).Test)
        ends = np.cumsum(sizes)
        parts = [everyone[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]
        return [text for part in parts for text in json.loads(part)]

    def require_same(self, text: str, what: str) -> None:
        """Raises SharedError unless all ranks give the same text, for example a fingerprint of what they have read."""
        texts = self.all_texts([text])
        for rank, other in enumerate(texts):
            if other != texts[0]:
                raise SharedError(f"{what} of rank {rank} ({self.all_hosts()[rank]}) is not that of rank 0")

    def all_hosts(self) -> list[str]:
        """The name of each rank's host."""
        return self.all_texts([os.uname().nodename])

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """If some ranks raise a UserError inside this context, all ranks raise the lowest rank's as a SharedError.

        Inside it there must be no communication that a failed rank would miss.
        """
        message: list[str] = []
        try:
            yield
        except UserError as error:
            message.append(str(error))
        if self.sum([len(message)])[0]:
            raise SharedError(self.all_texts(message)[0])

    def node_threads(self) -> int:
        """How many threads this rank should use: the cores it may run on, divided by the ranks that may run on them."""
        cores = sorted(os.sched_getaffinity(0))
        places = self.all_texts([f"{os.uname().nodename} {cores}"])
        return max(1, available_cores() // places.count(places[self.rank]))

    def abort(self) -> None:
        """Not collective: ends every rank at once, after an unexpected error that the caller has printed."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.1)  # until mpirun has forwarded the output; MPICH's Abort can overtake it
        self.comm.Abort(1)
