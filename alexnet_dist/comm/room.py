"""Room in /dev/shm: MPICH takes some for its messages when it starts, and dies of a bus error where there isn't enough."""

import os

from alexnet_dist.errors import BAD_INPUT, UserError
from alexnet_dist.support.memory import SHARED_MEMORY
from alexnet_dist.support.plural import plural

OF_A_RANK = 1_100_000  # bytes: with MPICH 5.0.2, 2.12 MB for two ranks of a host and 4.23 MB for four
LEAST = 2  # ranks for which it takes memory at least


def require_room_for_mpi() -> None:
    """Raises UserError on the first rank of a host where MPICH would die as it starts; the others just exit.

    All of it counts, not what is left: what one rank takes of it, while another one looks, must not let them disagree.
    """
    ranks, number = os.environ.get("MPI_LOCALNRANKS", ""), os.environ.get("MPI_LOCALRANKID")  # as its mpirun says
    if number is None or not ranks.isdecimal() or not SHARED_MEMORY.is_dir():
        return
    needed, there = OF_A_RANK * max(int(ranks), LEAST), os.statvfs(SHARED_MEMORY)
    room = there.f_blocks * there.f_frsize
    if room < needed and number != "0":
        raise SystemExit(BAD_INPUT)
    if room < needed:
        raise UserError(
            f"{SHARED_MEMORY} on {os.uname().nodename} has room for {room / 1e6:.1f} MB, and MPI needs "
            f"{needed / 1e6:.1f} MB for {plural(int(ranks), 'rank')}. Give a container more (docker run --shm-size 1g)"
        )
