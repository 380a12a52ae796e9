"""Matrices that are divided among the nodes, in parts of rows or of columns: gathered on all, or summed at their owners.

The node's ranks work through memory that they share, and only its first rank sends and receives: one message for each
pair of nodes, whatever the number of ranks. A world of one node sends nothing.
"""

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.node import Node, NodeTeam

Part = tuple[slice, slice]  # rows and columns
ROWS = 16  # of a matrix, to one task of a copy or a sum


class Spread:
    """Exchanges of parts of matrices between all nodes, one at a time. Every method but `poll` is collective.

    `send` and `receive` are how many floats this node has to send and to receive in any exchange at most, counted once
    for each other node that gets or gives them.
    """

    def __init__(self, node: Node, workers: NodeTeam, send: int, receive: int) -> None:
        self._node, self._workers = node, workers
        several = node.nodes > 1
        self._outgoing = node.shared((send if several else 0,))
        self._incoming = node.shared((receive if several else 0,))
        self._requests: list[MPI.Request] = []
        self.others = [number for number in range(node.nodes) if number != node.number]

    def gather(self, matrix: np.ndarray, parts: Sequence[Part]) -> None:
        """matrix[parts[k]] of node k comes to all nodes: each has written its own part."""
        own = matrix[parts[self._node.number]]
        others = [matrix[parts[number]] for number in self.others]
        arrived = self._views(self._incoming, [part.shape for part in others])
        packed = self._pack([own] if self.others else [])
        self._start(packed * len(self.others), arrived)
        self.finish()
        for part, values in zip(others, arrived, strict=True):
            self.copy(values, part)

    def exchange(self, outgoing: Sequence[np.ndarray], incoming: Sequence[np.ndarray]) -> None:
        """outgoing[i] goes to node others[i], incoming[i] comes from it."""
        arrived = self._views(self._incoming, [array.shape for array in incoming])
        self._start(self._pack(outgoing), arrived)
        self.finish()
        for values, array in zip(arrived, incoming, strict=True):
            self.copy(values, array)

    def start_sum(self, matrix: np.ndarray, parts: Sequence[Part]) -> None:
        """Begins to send each node its part of this node's matrix; finish_sum needs this node's own part of it."""
        own = matrix[parts[self._node.number]]
        self._arrived = self._views(self._incoming, [own.shape] * len(self.others))
        self._start(self._pack([matrix[parts[number]] for number in self.others]), self._arrived)

    def finish_sum(self, matrix: np.ndarray, parts: Sequence[Part], out: np.ndarray) -> None:
        """out = the sum over all nodes of this node's part of the matrix, in the order of the nodes."""
        own = matrix[parts[self._node.number]]
        self.finish()
        terms = [*self._arrived[: self._node.number], own, *self._arrived[self._node.number :]]

        def task(rows: slice, workspace: object) -> None:
            np.copyto(out[rows], terms[0][rows])
            for term in terms[1:]:
                np.add(out[rows], term[rows], out=out[rows])

        self._workers.for_chunks(len(out), ROWS, task)

    def poll(self) -> None:
        """Moves along what is under way. Main thread only."""
        MPI.Request.Testall(self._requests)

    def finish(self) -> None:
        """Returns when all that was started has arrived, for all ranks of the node."""
        if self.others:
            self._node.wait_until(lambda: MPI.Request.Testall(self._requests))
            self._requests = []
            self._node.barrier()

    def _start(self, outgoing: Sequence[np.ndarray], incoming: Sequence[np.ndarray]) -> None:
        if self._node.rank == 0:
            leaders = self._node.leaders
            self._requests = [leaders.Irecv(a, source) for a, source in zip(incoming, self.others, strict=True)]
            self._requests += [leaders.Isend(a, to) for a, to in zip(outgoing, self.others, strict=True)]

    def _pack(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        packed = self._views(self._outgoing, [array.shape for array in arrays])
        for array, out in zip(arrays, packed, strict=True):
            self.copy(array, out)
        return packed

    @staticmethod
    def _views(buffer: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Arrays of these shapes one after the other in a flat buffer."""
        views, start = [], 0
        for rows, columns in shapes:
            views.append(buffer[start : start + rows * columns].reshape(rows, columns))
            start += rows * columns
        return views

    def copy(self, source: np.ndarray, out: np.ndarray) -> None:
        """out = source, by all ranks of the node."""
        self._workers.for_chunks(len(out), ROWS, lambda rows, _: np.copyto(out[rows], source[rows]))
