"""Gradients through shared memory: what the strategies `sharded` and `hybrid` have in common.

The ranks of a node keep one copy of the parameters and of the optimizer's state. A rank writes its gradient to shared
memory. When all have filled a bucket, each rank sums its own slice of it over the node's gradients, block by block, and
applies the update while the sum is in its cache: gradients are read from memory once, and each parameter is updated by
one rank only. Across nodes, the node's sum of a slice is reduced among the ranks that own this slice on each node, so
nothing is sent twice. For an optimizer that needs norms first, the sums are stored and applied at the step's end.

A parameter may be updated before the step's end only if no rank needs its old value any more: so a layer computes the
gradient of its input before it passes that of its weights to the sink (model/layers).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.buckets import Buckets
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import StrategyOptions, Summed, update_ranges, update_with_norms
from alexnet_dist.support.workspace import Workspace

SUM_BLOCK = 1 << 16  # floats that are summed and updated at once: this block of every rank's gradient fits in the cache
ALIGNMENT = 16  # floats: slices begin on cache lines


class Exchange:
    """The gradients of [lo, hi) of the flat buffers, summed in shared memory and across nodes, then applied.

    `copies` is how many gradients a node has: one for each of its ranks, or one that its ranks fill together. Each is an
    array of hi - lo floats in shared memory.
    """

    def __init__(self, node: Node, options: StrategyOptions, lo: int, hi: int, copies: int) -> None:
        self.node, self._options, self._lo = node, options, lo
        self.gradients = node.shared((copies, hi - lo))
        self._mine = self.gradients[node.rank % copies]
        self._buckets = Buckets(lo, hi, options.bucket)
        # How many floats of each bucket each rank has filled in all steps so far: it only grows, so it needs no reset.
        self._filled = node.shared((node.size, max(len(self._buckets.bounds), 1)), np.int64)
        self._filled_before = self._filled[node.rank].copy()
        self._step = 1  # counted from 1
        self._buckets_done = 0  # buckets of this step of which this rank has summed its slice
        self._requests: list[tuple[Summed, float, MPI.Request]] = []
        self._stored: list[Summed] = []  # this rank's slices, if they are updated at the step's end
        self._updates_at_once = node.nodes == 1 and not options.update.partials

    @contextmanager
    def block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        yield self._mine[lo - self._lo : hi - self._lo]
        self._buckets.mark_filled(lo, hi)
        if threading.current_thread() is threading.main_thread():
            self._announce()

    def poll(self) -> bool:
        """Sums and updates the buckets that all ranks of the node have filled. Returns whether all are. Main thread only."""
        self._announce()
        while self._buckets_done < len(self._buckets.bounds) and self._is_complete(self._buckets_done):
            began, (lo, hi) = time.perf_counter(), self._buckets.bounds[self._buckets_done]
            self._reduce(lo, hi)
            self._options.record(f"bucket [{lo}, {hi})", began, time.perf_counter())
            self._buckets_done += 1
        MPI.Request.Testall([request for *_, request in self._requests])
        return self._buckets_done == len(self._buckets.bounds)

    def finish(self) -> list[Summed]:
        """Waits for the sums of this rank's slices; returns those that have yet to be updated."""
        while self._buckets_done < len(self._buckets.bounds):
            self._announce()
            self._require_filled()
            self.node.wait_until(lambda: self._is_complete(self._buckets_done))
            self.poll()
        for summed, began, request in self._requests:
            self.node.wait_until(request.Test)
            self._options.record(f"bucket [{summed.lo}, {summed.hi}) across nodes", began, time.perf_counter())
            if self._options.update.partials:
                self._stored.append(summed)
            else:
                update_ranges([summed], self._options)
        stored, self._stored, self._requests = self._stored, [], []
        self._filled_before += self._buckets.filled
        self._buckets.reset()
        self._step += 1
        self._buckets_done = 0
        return stored

    def _announce(self) -> None:
        """Shows the node's ranks how much of each bucket this one has filled."""
        if self._buckets.bounds:
            self.node.fence()
            self._filled[self.node.rank] = self._filled_before + self._buckets.filled

    def _is_complete(self, index: int) -> bool:
        lo, hi = self._buckets.bounds[index]
        complete = bool(self._filled[:, index].sum() >= self._step * len(self.gradients) * (hi - lo))
        if complete:
            self.node.fence()
        return complete

    def _require_filled(self) -> None:
        if len(self.gradients) == self.node.size and not self._buckets.is_full(self._buckets_done):
            raise self._buckets.incomplete_error(self._buckets_done)

    def _reduce(self, lo: int, hi: int) -> None:
        """Sums this rank's slice of a bucket over the node; then updates it, starts its reduction or stores it."""
        node = self.node
        if node.rank >= node.owners:
            return
        edges = [lo + (hi - lo) * rank // node.owners // ALIGNMENT * ALIGNMENT for rank in range(node.owners)] + [hi]
        start, end = max(edges[node.rank], lo), max(edges[node.rank + 1], lo)

        def task(part: slice, workspace: Workspace) -> None:
            # A sum that is needed later overwrites this rank's own gradient, of which no other rank reads this slice.
            total = workspace.take((part.stop - part.start,)) if self._updates_at_once else self._mine[part]
            self._sum(part, total)
            if self._updates_at_once:
                self._options.update.apply(self._lo + part.start, self._lo + part.stop, total, workspace)

        self._for_blocks(start, end, task)
        if self._updates_at_once:
            return
        summed = Summed(start, end, self._mine[start - self._lo : end - self._lo])
        if node.nodes > 1:
            request = node.peers.Iallreduce(MPI.IN_PLACE, summed.gradient, MPI.SUM)
            self._requests.append((summed, time.perf_counter(), request))
        else:
            self._stored.append(summed)

    def _sum(self, part: slice, out: np.ndarray) -> None:
        """out = the sum of the node's gradients, a copy if there is one only. out may be this rank's own."""
        first, *others = (gradient[part] for gradient in self._own_first())
        if not others:
            np.copyto(out, first)
        for other in others:
            np.add(first, other, out=out)
            first = out

    def _own_first(self) -> list[np.ndarray]:
        """The node's gradients, this rank's own first: a sum in its place overwrites it in the first addition."""
        own = self.node.rank % len(self.gradients)
        return [self.gradients[own], *self.gradients[:own], *self.gradients[own + 1 :]]

    def _for_blocks(self, lo: int, hi: int, task: Callable[[slice, Workspace], None]) -> None:
        """The team works on [lo, hi), block by block: slices of the gradients."""
        base = lo - self._lo

        def block(start: int, end: int, workspace: Workspace) -> None:
            with workspace.frame():
                task(slice(base + start, base + end), workspace)

        self._options.team.for_each(hi - lo, SUM_BLOCK, block)


class NodeStrategy:
    """Parameters and state of a node in its shared memory, which exchanges of gradients keep the same on all nodes.

    `exchanges` are in the order in which backward fills them.
    """

    def __init__(self, node: Node, options: StrategyOptions) -> None:
        self.node, self._options = node, options
        self.values = node.shared((options.size,))
        self.state = {name: node.shared((options.size,)) for name in options.update.state}
        self._partials = node.shared((node.size, max(options.update.partials, 1)), np.float64)
        self.exchanges: list[Exchange] = []

    def poll(self) -> None:
        """Makes progress with the exchanges. Main thread only."""
        for exchange in self.exchanges:
            if not exchange.poll():
                break  # the next one's messages may not overtake these: every node must send them in the same order

    def finish(self) -> None:
        """Returns when all parameters are updated and may be read."""
        stored = [summed for exchange in self.exchanges for summed in exchange.finish()]
        if self._options.update.partials:
            update_with_norms(stored, self._options, self._combine)
        self.node.barrier()

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        return self.node.waited()

    def broadcast_(self, array: np.ndarray) -> None:
        """Overwrites `values` or one of `state` of every node with that of rank 0's node."""
        self.node.broadcast_(array)

    def close(self) -> None:
        """Frees the windows."""
        self.node.close()

    def _combine(self, partials: np.ndarray) -> np.ndarray:
        """The sums over the node's ranks, which together own everything; in the same order of ranks on every node."""
        self._partials[self.node.rank] = partials
        self.node.barrier()
        return np.add.reduce(self._partials, axis=0)
