"""Strategy `hybrid`: convolutions data-parallel, fully connected layers model-parallel over all nodes.

Krizhevsky's "one weird trick" (arXiv 1404.5997), with owner-computes gradients. Convolutions hold a twentieth of the
parameters and take most of the time: each rank runs them on its own images, and their gradients are exchanged as
`sharded` does. Fully connected layers hold the rest. Each node owns some of the outputs of each: it alone keeps their
weights and the optimizer's state, and its ranks together compute them for the images of all nodes
(training/world_classifier.py). Activations travel between nodes, which are far smaller than gradients. Each block of the
weights' gradient is computed by one thread of one rank, which updates the weights at once; only for an optimizer that
needs norms first, and for steps of several parts, it is stored. Buffers are as long as everywhere, but what a node
doesn't own of them takes no memory.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.buckets import SMALL_BUCKET
from alexnet_dist.comm.exchange import Exchange, NodeStrategy
from alexnet_dist.comm.local import owned_block, stores
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.spread import Spread
from alexnet_dist.comm.strategy import StrategyOptions, Summed
from alexnet_dist.support.division import divide
from alexnet_dist.support.workspace import Workspace

Range = tuple[int, int]


def owned_ranges(options: StrategyOptions, sizes: list[int], number: int) -> list[Range]:
    """Which ranges of the classifier's parameters are of the rows that node `number` owns; it has sizes[number] ranks."""
    parts = [(start, divide(rows, sizes)[number], length) for start, rows, length in options.matrices]
    return [(start + part.start * length, start + part.stop * length) for start, part, length in parts]


class Hybrid(NodeStrategy):
    """An exchange of the convolutions' gradients; the classifier's are handed over by the ranks of the node that owns them.

    `spread` is set by who computes the classifier: its messages move when this strategy's do.
    """

    def __init__(self, node: Node, options: StrategyOptions) -> None:
        self._owned = [owned_ranges(options, node.sizes, number) for number in range(node.nodes)]
        start, mine = options.classifier_start, self._owned[node.number]
        super().__init__(node, options, [(0, start), *mine])
        small = replace(options, bucket=min(SMALL_BUCKET, options.bucket))
        self.exchange = Exchange(node, small, options.trained_from, start)
        stored = [(lo - start, hi - start) for lo, hi in mine] if stores(options) else []
        self._gradient = node.shared((options.size - start if stored else 0,), used=stored)
        self.spread: Spread | None = None

    def poll(self) -> None:
        """Makes progress with both exchanges. Main thread only."""
        super().poll()
        if self.spread is not None:
            self.spread.poll()

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled; it is all of convolutions or all of the classifier."""
        if lo < self._options.classifier_start:
            return self.exchange.block(lo, hi, workspace)
        return self._classifier_block(lo, hi, workspace)

    @contextmanager
    def _classifier_block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        start = self._options.classifier_start
        with owned_block(self._options, (lo, hi), self._gradient[lo - start : hi - start], workspace) as gradient:
            yield gradient
        if threading.current_thread() is threading.main_thread() and self.spread is not None:
            self.spread.poll()

    def finish(self) -> None:
        """Returns when all parameters are updated and may be read."""
        everywhere = self.exchange.finish()
        if self._options.update.partials:
            self.node.barrier()  # all ranks of the node have handed over their blocks
            self._update_with_norms(everywhere, self._slices())
        self.node.barrier()

    def _slices(self) -> list[Summed]:
        """This rank's part of what its node owns of the classifier."""
        rank, ranks, start = self.node.rank, self.node.size, self._options.classifier_start
        mine = []
        for lo, hi in self._owned[self.node.number]:
            begin, end = (lo + (hi - lo) * edge // ranks for edge in (rank, rank + 1))
            mine.append(Summed(begin, end, self._gradient[begin - start : end - start]))
        return mine

    # Files hold everything, nodes only what they own.

    def whole(self, array: np.ndarray) -> np.ndarray | None:
        """Collective: on rank 0 all of `values` or one of `state`, received piece by piece; None on the others."""
        node, whole = self.node, None
        if node.nodes == 1:
            return super().whole(array)
        if node.rank == 0 and node.number == 0:
            whole = self.blank(array)
            for lo, hi in [(0, self._options.classifier_start), *self._owned[0]]:
                whole[lo:hi] = array[lo:hi]
            self._wait([node.leaders.Irecv(whole[lo:hi], number) for number, lo, hi in self._pieces()])
        elif node.rank == 0:
            self._wait([node.leaders.Isend(array[lo:hi], 0) for lo, hi in self._owned[node.number]])
        node.barrier()
        return whole

    def blank(self, array: np.ndarray) -> np.ndarray:
        """Not collective: zeroed memory for all of an array of which this node has a part."""
        return array if self.node.nodes == 1 else np.zeros(array.size, np.float32)

    def distribute_(self, array: np.ndarray, whole: np.ndarray | None) -> None:
        """Collective: every node gets what it owns of rank 0's `whole`."""
        node, start = self.node, self._options.classifier_start
        if node.rank == 0:
            if whole is not None and whole is not array:
                for lo, hi in [(0, start), *self._owned[0]]:
                    array[lo:hi] = whole[lo:hi]
            self._wait([node.leaders.Ibcast(array[:start])])
            if whole is not None:
                self._wait([node.leaders.Isend(whole[lo:hi], number) for number, lo, hi in self._pieces()])
            else:
                self._wait([node.leaders.Irecv(array[lo:hi], 0) for lo, hi in self._owned[node.number]])
        node.barrier()

    def _pieces(self) -> list[tuple[int, int, int]]:
        """What other nodes than the first own: (node, lo, hi)."""
        return [(number, lo, hi) for number in range(1, self.node.nodes) for lo, hi in self._owned[number]]

    def _wait(self, requests: list[MPI.Request]) -> None:
        self.node.wait_until(lambda: MPI.Request.Testall(requests))
