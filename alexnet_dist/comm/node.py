"""The ranks of one node: memory that they share, a barrier through it, and the first ranks of the other nodes.

Ranks of a node find each other by MPI (Split_type SHARED), and share memory by windows (MPI-3, section 11.2.3). Waiting
ranks yield their core: there may be more ranks than cores, and those that compute should have them.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.room import SLACK, NoSharedMemory, shared_memory_room
from alexnet_dist.comm.world import World, wait_until
from alexnet_dist.support.memory import SHARED_MEMORY
from alexnet_dist.support.threads import Task, Team, contiguous, round_robin
from alexnet_dist.support.workspace import Workspace

INT64_PER_LINE = 8  # in a cache line


def require_room(node: "Node", size: int) -> None:
    """Collective over the world: raises NoSharedMemory, and closes the node, unless every node has room for `size` bytes.

    Without this check, MPICH ends in a bus error where shared memory runs out.
    """
    size += SLACK
    too_small = node.size > 1 and shared_memory_room() < size  # a rank alone has its windows in private memory
    shortage = [
        f"{os.uname().nodename} has {shared_memory_room() / 1e6:.0f} MB left in {SHARED_MEMORY}, not {size / 1e6:.0f} MB"
    ]
    messages = node.world.all_texts(shortage if too_small and node.rank == 0 else [])
    if messages:
        node.close()
        raise NoSharedMemory(messages[0])


def _ranks_of_node(world: World, largest: int | None) -> Any:
    comm = world.comm.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
    if largest is None:
        return comm
    part = comm.Split(comm.rank // largest, comm.rank)
    comm.Free()
    return part


def _sizes_and_number(world: World, comm: MPI.Intracomm) -> tuple[list[int], int]:
    """How many ranks each node has, and which of them is this one; in the order of their first ranks."""
    # Without a message on the node, where a rank might wait for one that has heard of a loss.
    first = int(comm.Get_group().Translate_ranks([0], world.comm.Get_group())[0])
    firsts = [int(text) for text in world.all_texts([str(first)])]  # of each rank, the first rank of its node
    order = sorted(set(firsts))
    return [firsts.count(rank) for rank in order], order.index(first)


def nodes_of(world: World, largest: int | None = None) -> tuple[list[int], int]:
    """Collective: how many ranks each node has, and the number of this rank's; `largest` as for Node."""
    comm = _ranks_of_node(world, largest)
    sizes, number = _sizes_and_number(world, comm)
    comm.Free()
    return sizes, number


def _allocate(size: int, comm: Any) -> MPI.Win:
    return MPI.Win.Allocate_shared(size, 1, comm=comm)


class Node:
    """This rank's node. Every method is collective over the node's ranks unless it says otherwise.

    Making one is collective over the world, and raises NoSharedMemory on all ranks where one of them can't share memory.

    `largest` splits a node into groups of at most this many ranks, each of which is treated as a node: for tests, and for
    machines with several memory domains.
    """

    def __init__(self, world: World, largest: int | None = None) -> None:
        self.world = world
        self.comm: Any = _ranks_of_node(world, largest)
        self.rank, self.size = self.comm.rank, self.comm.size
        self.sizes, self.number = _sizes_and_number(world, self.comm)
        self.nodes = len(self.sizes)
        # The nodes' first ranks in the order of the nodes; only they use it.
        self.leaders = world.comm.Split(0 if self.rank == 0 else MPI.UNDEFINED, world.rank)
        self._windows: list[MPI.Win] = []
        self._arrivals = self.shared((self.size, INT64_PER_LINE), np.int64)[:, 0]
        self._barriers = 0
        self._waited = 0.0

    def shared(
        self,
        shape: tuple[int, ...],
        dtype: type[np.generic] = np.float32,
        used: Sequence[tuple[int, int]] | None = None,
    ) -> np.ndarray:
        """Collective over the world: a zeroed array that all ranks of the node see.

        Of a flat array, `used` are the ranges that will ever be touched: the rest takes no memory, and is not zeroed.
        Where one node's library can't make its array, every rank closes its node and raises NoSharedMemory.
        """
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        window = self._window(size if self.rank == 0 else 0)
        window.Lock_all()
        self._windows.append(window)
        memory, _ = window.Shared_query(0)
        array = np.asarray(memory)[:size].view(dtype).reshape(shape)
        # Each rank is the first to touch its share, so that on several sockets the pages are spread over their memories.
        flat = array.reshape(-1)
        for lo, hi in [(0, len(flat))] if used is None else used:
            flat[lo + (hi - lo) * self.rank // self.size : lo + (hi - lo) * (self.rank + 1) // self.size] = 0
        window.Sync()
        self.comm.Barrier()
        return array

    def _window(self, size: int) -> MPI.Win:
        window, problem = MPI.WIN_NULL, []
        try:
            window = _allocate(size, self.comm)
        except MPI.Exception as error:
            text = f"the MPI library on {os.uname().nodename} can't share {size / 1e6:.0f} MB ({error})"
            problem = [str(self.number), text]
        problems = self.world.all_texts(problem)
        if problems:
            # To free it is collective over the node: where one of its ranks has none, the others leave theirs as it is.
            if str(self.number) not in problems[::2]:
                window.Free()
            self.close()
            raise NoSharedMemory(problems[1])
        return window

    def barrier(self) -> None:
        """Returns when all ranks of the node have called it; what they wrote to shared memory before is then seen."""
        self._barriers += 1
        self._windows[0].Sync()
        self._arrivals[self.rank] = self._barriers
        self.wait_until(lambda: bool((self._arrivals >= self._barriers).all()))
        self._windows[0].Sync()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Not collective: waits, without spinning, for something that other ranks do; `waited` counts the time."""
        start = time.perf_counter()
        wait_until(condition)
        self._waited += time.perf_counter() - start

    def waited(self) -> float:
        """Not collective: the seconds that this rank has waited for others since the last call of this."""
        waited, self._waited = self._waited, 0.0
        return waited

    def fence(self) -> None:
        """Not collective: orders this rank's reads and writes of shared memory."""
        self._windows[0].Sync()

    def broadcast_(self, array: np.ndarray) -> None:
        """Collective over the world: overwrites an array that each node shares with that of rank 0's node."""
        if self.rank == 0:
            wait_until(self.leaders.Ibcast(array, root=0).Test)
        self.barrier()

    def sum_(self, array: np.ndarray) -> None:
        """Collective over the world: an array that each node shares becomes the sum of all nodes'."""
        self.barrier()
        if self.nodes > 1:
            if self.rank == 0:
                self.wait_until(self.leaders.Iallreduce(MPI.IN_PLACE, array, MPI.SUM).Test)
            self.barrier()

    def allgather_(self, rows: np.ndarray) -> None:
        """Collective over the world: fills an array that each node shares, of which node k has written rows[k]."""
        self.barrier()
        if self.nodes > 1:
            if self.rank == 0:
                request = self.leaders.Iallgather(MPI.IN_PLACE, rows)
                self.wait_until(request.Test)
            self.barrier()

    def close(self) -> None:
        """Frees the windows. Their arrays must not be used after."""
        self.comm.Barrier()
        for window in self._windows:
            window.Unlock_all()
            window.Free()
        self._windows = []
        if self.leaders != MPI.COMM_NULL:
            self.leaders.Free()
        self.comm.Free()


class NodeTeam:
    """The threads of all ranks of a node as one team: a layer that divides its work by a Team can use this instead.

    Every method is collective over the node's ranks, and ends with a barrier. Threads are numbered in the order of the
    ranks; each has its own Workspace. Ranks may have different numbers of threads.
    """

    def __init__(self, node: Node, team: Team) -> None:
        self.node, self.team = node, team
        sizes = np.zeros(node.size, np.int64)
        node.comm.Allgather(np.array([team.size], np.int64), sizes)
        self.size = int(sizes.sum())
        self._first = int(sizes[: node.rank].sum())

    def run(self, task: Task) -> None:
        """Every thread of every rank calls `task(its index on the node, its workspace)`."""
        self.team.run(lambda index, workspace: task(self._first + index, workspace))
        self.node.barrier()

    def for_chunks(self, count: int, size: int, task: Callable[[slice, Workspace], object]) -> None:
        """As Team.for_chunks."""
        self.run(contiguous(count, size, self.size, task))

    def for_each(self, count: int, block: int, task: Callable[[int, int, Workspace], object]) -> None:
        """As Team.for_each."""
        self.run(round_robin(count, block, self.size, task))
