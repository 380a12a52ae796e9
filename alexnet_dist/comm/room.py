"""Room in /dev/shm: MPICH takes some for its messages when it starts, and dies of a bus error where there isn't enough."""

import os
from collections.abc import Mapping
from pathlib import Path

from alexnet_dist.errors import BAD_INPUT, UserError
from alexnet_dist.support.plural import plural

SHARED_MEMORY = Path("/dev/shm")
OF_A_RANK = 1_100_000  # bytes: with MPICH 5.0.2, 2.12 MB for two ranks of a host and 4.23 MB for four
LEAST = 2  # ranks for which it takes memory at least


def require_room_for_mpi(environment: Mapping[str, str] = os.environ, folder: Path = SHARED_MEMORY) -> None:
    """Raises UserError on the first rank of a host where MPICH would die as it starts; the others just exit.

    All of it counts, not what is left: what one rank takes of it, while another one looks, must not let them disagree.
    """
    ranks, number = environment.get("MPI_LOCALNRANKS", ""), environment.get("MPI_LOCALRANKID")  # as its mpirun says
    if number is None or not ranks.isdecimal() or not folder.is_dir():
        return
    needed, there = OF_A_RANK * max(int(ranks), LEAST), os.statvfs(folder)
    room = there.f_blocks * there.f_frsize
    if room < needed and number != "0":
        raise SystemExit(BAD_INPUT)
    if room < needed:
        raise UserError(
            f"{folder} on {os.uname().nodename} has room for {room / 1e6:.1f} MB, and MPI needs {needed / 1e6:.1f} MB for "
            f"{plural(int(ranks), 'rank')}. Give a container more (docker run --shm-size 1g)"
        )
