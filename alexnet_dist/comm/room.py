"""Room in /dev/shm, which ranks of a node share. MPICH takes some for its messages when it starts, and dies of a bus error
where there isn't enough."""

import os

from alexnet_dist.comm.strategy import NotPossible
from alexnet_dist.errors import BAD_INPUT, UserError
from alexnet_dist.support.memory import SHARED_MEMORY
from alexnet_dist.support.plural import plural

OF_A_RANK = 1_100_000  # bytes: with MPICH 5.0.2, 2.12 MB for two ranks of a host and 4.23 MB for four
LEAST = 2  # ranks for which it takes memory at least
SLACK = 1 << 20  # bytes: windows begin on pages, and MPI keeps some memory there itself


class NoSharedMemory(NotPossible):
    """The ranks of a node can't share the memory that a strategy asks for."""


def shared_memory_room() -> int:
    """Bytes of shared memory that are left on this host."""
    try:
        left = os.statvfs(SHARED_MEMORY)
    except OSError:  # this host has none
        return 0
    return left.f_bavail * left.f_frsize


def require_room_for_mpi() -> None:
    """Raises UserError on the first rank of a host where MPICH would die as it starts; the others just exit.

    All of it counts, not what is left: what one rank takes of it, while another one looks, must not let them disagree.
    """
    ranks, number = os.environ.get("MPI_LOCALNRANKS", ""), os.environ.get("MPI_LOCALRANKID")  # as its mpirun says
    if number is None or not ranks.isdecimal():
        return
    needed, room = OF_A_RANK * max(int(ranks), LEAST), _size()
    if room is not None and room >= needed:
        return
    if number != "0":
        raise SystemExit(BAD_INPUT)
    host, needs = os.uname().nodename, f"MPI needs {needed / 1e6:.1f} MB there for {plural(int(ranks), 'rank')}"
    if room is None:
        raise UserError(
            f"{SHARED_MEMORY} isn't there on {host}, and {needs}. Mount it (mkdir {SHARED_MEMORY} && "
            f"mount -t tmpfs tmpfs {SHARED_MEMORY}), and in a container give it one (docker run --shm-size 1g)"
        )
    raise UserError(
        f"{SHARED_MEMORY} on {host} has room for {room / 1e6:.1f} MB, and {needs}. "
        "Give a container more (docker run --shm-size 1g)"
    )


def _size() -> int | None:
    """Bytes of shared memory on this host, used or not; None where it has none."""
    if not SHARED_MEMORY.is_dir():
        return None
    there = os.statvfs(SHARED_MEMORY)
    return there.f_blocks * there.f_frsize
