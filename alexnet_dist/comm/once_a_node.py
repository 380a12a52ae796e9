"""What the first rank of each node reads, and all ranks of the node then have: arrays that lie in memory once."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile, gettempdir
from typing import IO, Any

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.ranks import Made
from alexnet_dist.comm.world import World
from alexnet_dist.errors import UserError

ALIGNMENT = 64  # bytes: a cache line


def once_a_node(world: World, make: Callable[[], Made]) -> Made:
    """Collective: the first rank of each node calls `make`; every rank of the node gets what it returns.

    The arrays, not all of them empty, are then read-only views of a file in the temporary folder that all ranks of the node
    map and that has no name any more: its pages are in memory once, and no room in /dev/shm is needed. Raises SharedError
    where `make` raises a UserError, or where there is no room for the file.
    """
    comm: Any = world.comm.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
    node, message = World(comm), None
    with _losses_told(world, comm), ExitStack() as stack:
        with world.shared_errors():
            if node.rank == 0:
                value, arrays = make()
                with _room_for(arrays):
                    file = stack.enter_context(NamedTemporaryFile(prefix="alexnet-"))
                    message = [value, file.name, _write(file, arrays)]
                del arrays  # the views take their place
        value, path, layout = node.broadcast_json(message)
        with world.shared_errors():  # which all ranks leave together: then the file may lose its name
            views = _views(path, layout)
    comm.Free()
    return value, views


@contextmanager
def _losses_told(world: World, comm: MPI.Intracomm) -> Iterator[None]:
    """Where a rank of an elastic run gets an error of MPI, those of its node get one, too: else they might wait for it."""
    try:
        yield
    except MPI.Exception:
        if world.commits:
            comm.Revoke()
        raise


@contextmanager
def _room_for(arrays: Sequence[np.ndarray]) -> Iterator[None]:
    """Raises UserError where the arrays can't be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"no room in {gettempdir()} for {sum(array.nbytes for array in arrays) / 1e6:.0f} MB that the ranks of this node "
            f"share ({error.strerror}); name another folder: TMPDIR=..."
        ) from error


def _write(file: IO[bytes], arrays: Sequence[np.ndarray]) -> list[tuple[str, list[int], int]]:
    """Writes the arrays to a file; returns each array's type, shape and offset."""
    places: dict[int, int] = {}  # an array that is there twice is written once
    for array in arrays:
        if id(array) not in places:
            places[id(array)] = _append(file, array)
    file.flush()
    return [(array.dtype.str, list(array.shape), places[id(array)]) for array in arrays]


def _append(file: IO[bytes], array: np.ndarray) -> int:
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell()
    file.write(np.ascontiguousarray(array).data)
    return offset


def _views(path: str, layout: list[tuple[str, list[int], int]]) -> list[np.ndarray]:
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(
            f"{path}, which another rank of this node has written, can't be read here ({error.strerror}): all ranks of a node "
            "need the same temporary folder (TMPDIR)"
        ) from error
    return [np.ndarray(shape, kind, memory, offset) for kind, shape, offset in layout]
