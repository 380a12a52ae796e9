"""The ranks of this run: small exchanges between them, and errors that end all of them with one message.

mpi4py is imported in this folder only. Nothing is pickled: messages are arrays, or text as JSON. Waiting ranks yield
their core: an MPI library spins while it waits, and would take the core from the ranks that still compute.
"""

import faulthandler
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from alexnet_dist.comm.ranks import Made, Ranks, flush_output
from alexnet_dist.comm.room import require_room_for_mpi
from alexnet_dist.errors import UserError
from alexnet_dist.support.activity import ACTIVITY


def _mismatch(problem: object) -> UserError:
    return UserError(
        "mpirun and the MPI library that Python loads don't belong together, so the ranks would not find each other. "
        "Use the mpirun of the environment that this package is installed in (activate it, then `which mpirun`), or "
        f"point mpi4py at the other library (MPI4PY_LIBMPI). mpi4py says: {problem}"
    )


require_room_for_mpi()
# MPI's start waits for all ranks, for ever if one is stopped, and no thread of Python runs meanwhile, so no watchdog.
START = 600.0  # seconds
faulthandler.dump_traceback_later(START, exit=True)
try:
    with warnings.catch_warnings():
        # mpi4py warns when mpirun and the library are of different MPIs: each rank would be alone in a world of one.
        warnings.simplefilter("error", RuntimeWarning)
        if "OMPI_COMM_WORLD_SIZE" in os.environ:
            # Under Open MPI's mpirun, MPICH's library would end the process as it starts: first look which one it is.
            import mpi4py

            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
except RuntimeWarning as problem:
    raise _mismatch(problem) from None
except (ImportError, RuntimeError) as problem:
    raise UserError(
        "no MPI library was found. Install one, for example: pip install 'alexnet_dist[mpi]' "
        f"({str(problem).strip().splitlines()[0]})"
    ) from None
if not MPI.Is_initialized():
    if "Open MPI" not in MPI.Get_library_version():
        raise _mismatch(f"mpirun is Open MPI's, the library is {MPI.Get_library_version().splitlines()[0]}")
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
faulthandler.cancel_dump_traceback_later()

PIECE = 1 << 26  # bytes
ENABLED = "OMPI_MCA_mpi_ft_enable"  # what mpirun --with-ft ulfm tells its ranks
ULFM = os.environ.get(ENABLED) == "1" and "Open MPI" in MPI.Get_library_version()


def _show_life() -> None:
    while True:
        MPI.COMM_SELF.Iprobe()
        time.sleep(0.1)


if ULFM:
    # Open MPI's detector of stopped ranks works while a rank is in MPI, and kernels may be out of it for long. (Open MPI has a
    # thread for that, which doesn't work: docs/LOG.md, 2026-11-29.) This one goes on until `leave` ends the process.
    threading.Thread(target=_show_life, name="shows life", daemon=True).start()


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits without spinning: yields the core after each check, and after some checks sleeps between them."""
    checks = 0
    ACTIVITY.waits_for_others = True
    try:
        while not condition():
            checks += 1
            if checks < 50:
                os.sched_yield()
            else:
                time.sleep(20e-6)
    finally:
        ACTIVITY.waits_for_others = False
        ACTIVITY.moves += 1


def _pieces(content: np.ndarray) -> list[np.ndarray]:
    """Parts of a message that are short enough for MPI, whose counts have 32 bits."""
    return [content[start : start + PIECE] for start in range(0, len(content), PIECE)]


class World(Ranks):
    """All ranks of a communicator. Every method is collective unless it says otherwise."""

    has_mpi = True
    failures = (MPI.Exception,)
    dissent = False  # whether the ranks have agreed that something is wrong
    _parted = False

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.rank, self.size = self.comm.rank, self.comm.size

    def commit(self) -> None:
        if self.commits:
            self.agree(True)

    def agree(self, fine: bool) -> None:
        """Raises MPI.Exception on all ranks that are left if one of them isn't fine or is lost; on none otherwise."""
        flag = np.array([fine], np.intc)
        self.dissent = True
        wait_until(self.comm.Iagree(flag).Test)
        if not flag[0]:
            raise MPI.Exception(MPI.ERR_REVOKED)
        self.dissent = False

    def mpi_library(self) -> str:
        return " ".join(MPI.Get_library_version().split("\n")[0].split(",")[0].replace("\0", "").split())

    def sum(self, values: list[float]) -> list[float]:
        return [float(value) for value in self._reduced(values, MPI.SUM)]

    def largest(self, value: float) -> float:
        return float(self._reduced([value], MPI.MAX)[0])

    def _reduced(self, values: list[float], operation: MPI.Op) -> np.ndarray:
        total = np.array(values, np.float64)
        wait_until(self.comm.Iallreduce(MPI.IN_PLACE, total, operation).Test)
        return total

    def broadcast_(self, array: np.ndarray) -> None:
        wait_until(self.comm.Ibcast(array, root=0).Test)

    def all_texts(self, texts: list[str]) -> list[str]:
        mine = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        wait_until(self.comm.Iallgather(np.array([mine.size], np.int64), sizes).Test)
        everyone = np.empty(int(sizes.sum()), np.uint8)
        wait_until(self.comm.Iallgatherv(mine, [everyone, sizes]).Test)
        ends = np.cumsum(sizes)
        parts = [everyone[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]
        return [text for part in parts for text in json.loads(part)]

    def gathered(self, mine: bytes) -> Iterator[bytes]:
        if self.rank == 0:
            yield mine
            for other in range(1, self.size):
                size = np.zeros(1, np.int64)
                wait_until(self.comm.Irecv(size, other).Test)
                content = np.empty(int(size[0]), np.uint8)
                for piece in _pieces(content):
                    wait_until(self.comm.Irecv(piece, other).Test)
                yield content.tobytes()
        else:
            wait_until(self.comm.Isend(np.array([len(mine)], np.int64), 0).Test)
            for piece in _pieces(np.frombuffer(mine, np.uint8)):
                wait_until(self.comm.Isend(piece, 0).Test)

    # Imported in the methods, because these modules import World.
    def make_elastic(self) -> None:
        from alexnet_dist.comm.elastic import make_elastic

        make_elastic(self)

    def nodes(self, largest: int | None = None) -> tuple[list[int], int]:
        from alexnet_dist.comm.node import nodes_of

        return nodes_of(self, largest)

    def node(self, largest: int | None = None) -> Any:
        from alexnet_dist.comm.node import Node

        return Node(self, largest)

    def once_a_node(self, make: Callable[[], Made]) -> Made:
        from alexnet_dist.comm.once_a_node import once_a_node

        return once_a_node(self, make)

    def part(self) -> None:
        flush_output()
        self._parted = True
        if not ULFM:
            MPI.Finalize()
            return
        # MPI's own end would wait for lost ranks. Without it, mpirun --with-ft ulfm leaves the others alone.
        with suppress(MPI.Exception):  # a rank is lost now: nobody needs it any more
            self.agree(True)

    def leave(self, exit_code: int) -> int:
        if ULFM:
            if not self._parted:
                self.part()
            flush_output()
            os._exit(exit_code)
        return exit_code

    def abort(self, exit_code: int = 1) -> None:
        flush_output()
        if self._parted or MPI.Is_finalized():
            os._exit(exit_code)
        time.sleep(0.1)  # until mpirun has forwarded the output; MPICH's Abort can overtake it
        self.comm.Abort(exit_code)
