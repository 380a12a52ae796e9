"""Gradients through shared memory: what the strategies `sharded` and `hybrid` have in common.

The ranks of a node keep one copy of the parameters and of the optimizer's state. A rank writes its gradient to shared
memory. When all have filled a bucket, each rank sums its own slice of it over the node's gradients, block by block, and
applies the update while the sum is in its cache: the gradient crosses memory once, and no rank updates what another one
updates too. Across nodes, the first ranks of the nodes sum a bucket as soon as their nodes' ranks have: one message for
each pair of nodes instead of one for each pair of ranks. An optimizer that needs norms first updates at the step's end.

A parameter may be updated before the step's end only if no rank needs its old value any more: so a layer computes the
gradient of its input before it passes that of its weights to the sink (model/layers).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.buckets import Buckets
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import StrategyOptions, Summed, swap_ranges_, update_ranges, update_with_norms
from alexnet_dist.support.pairwise import sum_in_pairs_
from alexnet_dist.support.workspace import Workspace

SUM_BLOCK = 1 << 16  # floats that are summed and updated at once: this block of every rank's gradient fits in the cache
ALIGNMENT = 16  # floats: slices begin on cache lines


class Exchange:
    """The gradients of [lo, hi) of the flat buffers, summed in shared memory and across nodes, then applied.

    Every rank of a node has a gradient there, of hi - lo floats.
    """

    def __init__(self, node: Node, options: StrategyOptions, lo: int, hi: int) -> None:
        self.node, self._options, self._lo, self.end = node, options, lo, hi
        self.gradients = node.shared((node.size, hi - lo))
        self._mine = self.gradients[node.rank]
        self._buckets = Buckets(lo, hi, options.bucket)
        # Of each bucket, what each rank has handed over, whether it has summed its slice, and whether the sum over the
        # nodes has arrived; all counted since the run's beginning: they only ever grow, so need no reset.
        count = max(len(self._buckets.bounds), 1)
        self._filled, self._summed = (node.shared((node.size, count), np.int64) for _ in range(2))
        self._arrived = node.shared((count,), np.int64)
        self._filled_before = self._filled[node.rank].copy()
        self._step = 1
        self._buckets_done = 0  # buckets of this step whose sum this rank has made of its slice
        self._requests: list[
            tuple[float, MPI.Request]
        ] = []  # of the node's first rank: the sums over nodes that it started
        self._arrived_count = 0  # how many of them have arrived
        self._updates_at_once = node.nodes == 1 and not options.update.partials
        # The rank whose gradient sums begin with, and take the place of where they are stored: this rank's own is in its
        # cache, but the nodes' first ranks send one whole bucket.
        self._first = node.rank if node.nodes == 1 else 0

    @contextmanager
    def block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        parts = self._options.parts
        with parts.adding(self._mine[lo - self._lo : hi - self._lo], workspace) as gradient:
            yield gradient
        if parts.last:
            self._buckets.mark_filled(lo, hi)
        if threading.current_thread() is threading.main_thread():
            self._announce()

    def poll(self) -> None:
        """Sums what all ranks of the node have handed over, and moves the sums over nodes along. Main thread only."""
        self._announce()
        while self._buckets_done < len(self._buckets.bounds) and self._is_complete(self._buckets_done):
            began, (lo, hi) = time.perf_counter(), self._buckets.bounds[self._buckets_done]
            self._reduce(self._buckets_done)
            self._options.record(f"bucket [{lo}, {hi})", began, time.perf_counter())
            self._buckets_done += 1
        if self.node.rank == 0 and self.node.nodes > 1:
            self._move()

    def finish(self) -> list[Summed]:
        """Returns when this rank has the sums of its slices: those that have yet to be updated."""
        bounds = self._buckets.bounds
        while self._buckets_done < len(bounds):
            self._announce()
            self._require_filled()
            self.node.wait_until(lambda: self._moved() and self._is_complete(self._buckets_done))
            self.poll()
        stored = [] if self._updates_at_once else [self._slice(index) for index in range(len(bounds))]
        if self.node.nodes > 1:
            for index, summed in enumerate(stored):
                self.node.wait_until(partial(self._has_arrived, index))
                if not self._options.update.partials:
                    update_ranges([summed], self._options)
        self._filled_before += self._buckets.filled or 0  # there may be no bucket at all
        self._buckets.reset()
        self._step += 1
        self._buckets_done, self._arrived_count, self._requests = 0, 0, []
        return stored if self._options.update.partials else []

    def _moved(self) -> bool:
        """True, after a chance for the sums over nodes to move."""
        if self.node.rank == 0 and self.node.nodes > 1:
            self._move()
        self.node.fence()
        return True

    def _has_arrived(self, index: int) -> bool:
        arrived = self._moved() and bool(self._arrived[index] >= self._step)
        if arrived:
            self.node.fence()
        return arrived

    def _move(self) -> None:
        """The node's first rank starts the sums over nodes of buckets that all have summed, and tells which have come."""
        self.node.fence()
        bounds = self._buckets.bounds
        while (index := len(self._requests)) < len(bounds) and (self._summed[:, index] >= self._step).all():
            self.node.fence()  # else a processor may read what they have summed before it reads that they have
            lo, hi = bounds[index]
            part = self.gradients[0, lo - self._lo : hi - self._lo]
            self._requests.append((time.perf_counter(), self.node.leaders.Iallreduce(MPI.IN_PLACE, part, MPI.SUM)))
        while self._arrived_count < len(self._requests):
            began, request = self._requests[self._arrived_count]
            if not request.Test():
                break
            lo, hi = bounds[self._arrived_count]
            self._options.record(f"bucket [{lo}, {hi}) across nodes", began, time.perf_counter())
            self.node.fence()
            self._arrived[self._arrived_count] = self._step
            self._arrived_count += 1
        self.node.fence()

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
        if not self._buckets.is_full(self._buckets_done):
            raise self._buckets.incomplete_error(self._buckets_done)

    def _slice(self, index: int) -> Summed:
        """This rank's slice of a bucket, and where its sum is stored: in a gradient of which nobody but this rank reads that
        slice until it is summed."""
        (lo, hi), ranks = self._buckets.bounds[index], self.node.size
        edges = [lo + (hi - lo) * rank // ranks // ALIGNMENT * ALIGNMENT for rank in range(ranks)] + [hi]
        start, end = max(edges[self.node.rank], lo), max(edges[self.node.rank + 1], lo)
        return Summed(start, end, self.gradients[self._first, start - self._lo : end - self._lo])

    def _reduce(self, index: int) -> None:
        """This rank's slice of a bucket: its sum over the node, then the update, or the announcement that it is there."""
        summed = self._slice(index)

        def task(part: slice, workspace: Workspace) -> None:
            total = (
                workspace.take((part.stop - part.start,))
                if self._updates_at_once
                else self.gradients[self._first, part]
            )
            self._sum(part, total)
            if self._updates_at_once:
                self._options.update.apply(self._lo + part.start, self._lo + part.stop, total, workspace)

        self._for_blocks(summed.lo, summed.hi, task)
        self.node.fence()
        self._summed[self.node.rank, index] = self._step

    def _sum(self, part: slice, out: np.ndarray) -> None:
        """out = the sum of the node's gradients; copied where there is one. In pairs, they are overwritten."""
        if self._options.in_pairs:
            np.copyto(out, sum_in_pairs_([gradient[part] for gradient in self.gradients]))
            return
        first, *others = (gradient[part] for gradient in self._in_order())
        if not others:
            np.copyto(out, first)
        for other in others:
            np.add(first, other, out=out)
            first = out

    def _in_order(self) -> list[np.ndarray]:
        """The node's gradients in the order of their sum."""
        first = self._first
        return [self.gradients[first], *self.gradients[:first], *self.gradients[first + 1 :]]

    def _for_blocks(self, lo: int, hi: int, task: Callable[[slice, Workspace], None]) -> None:
        """The team works on [lo, hi), block by block: slices of the gradients."""
        base = lo - self._lo

        def block(start: int, end: int, workspace: Workspace) -> None:
            with workspace.frame():
                task(slice(base + start, base + end), workspace)

        self._options.team.for_each(hi - lo, SUM_BLOCK, block)


class NodeStrategy:
    """Parameters and state of a node in its shared memory; `exchange` sums gradients of its ranks and of all nodes."""

    exchange: Exchange

    def __init__(self, node: Node, options: StrategyOptions, used: list[tuple[int, int]] | None = None) -> None:
        self.node, self._options = node, options
        used = [(0, options.size)] if used is None else used
        self._trained = [(max(lo, options.trained_from), hi) for lo, hi in used if hi > options.trained_from]
        self.values = node.shared((options.size,), used=used)
        self.state = {name: node.shared((options.size,), used=self._trained) for name in options.update.state}
        self._partials = node.shared((node.size, max(options.update.partials, 1)), np.float64)

    def poll(self) -> None:
        """Moves along what is under way. Main thread only."""
        self.exchange.poll()

    def finish(self) -> None:
        """Returns when all parameters are updated and may be read."""
        stored = self.exchange.finish()
        if self._options.update.partials:
            self._update_with_norms(stored, [])
        self.node.barrier()

    def waited(self) -> float:
        """The seconds that this rank has spent waiting for others since the last call of this."""
        return self.node.waited()

    def whole(self, array: np.ndarray) -> np.ndarray | None:
        """Collective: on rank 0 all of `values` or one of `state`; None on the others."""
        return array if self.node.world.rank == 0 else None

    def blank(self, array: np.ndarray) -> np.ndarray:
        """Not collective: memory for what `distribute_` is given on rank 0."""
        return array

    def distribute_(self, array: np.ndarray, whole: np.ndarray | None) -> None:
        """Collective: `values` or one of `state` on every node becomes what rank 0 has put into `whole`."""
        self.node.broadcast_(array)

    def swap_(self, one: np.ndarray, other: np.ndarray) -> None:
        """Collective: two of the node's arrays exchange their contents, each rank's share of what is trained of them."""
        rank, ranks = self.node.rank, self.node.size
        mine = [(lo + (hi - lo) * rank // ranks, lo + (hi - lo) * (rank + 1) // ranks) for lo, hi in self._trained]
        self.node.barrier()
        swap_ranges_(one, other, mine, self._options.team)
        self.node.barrier()

    def copied(self) -> list[tuple[int, int]]:
        """What the exchange updates, and what lies before: the first rank of each node stands for the node's copy."""
        return [(0, self.exchange.end)] if self.node.rank == 0 and self.node.nodes > 1 else []

    def close(self) -> None:
        """Frees the windows."""
        self.node.close()

    def _update_with_norms(self, everywhere: list[Summed], here: list[Summed]) -> None:
        """Updates this rank's ranges: those that every node updates alike, and those that only this node has."""
        measured = here + (everywhere if self.node.number == 0 else [])
        update_with_norms(everywhere + here, measured, self._options, self._combine)

    def _combine(self, partials: np.ndarray) -> np.ndarray:
        """The sums over all ranks; the same bits on all ranks of a node."""
        node, count = self.node, len(partials)
        self._partials[node.rank] = partials
        node.barrier()
        if node.rank == 0:
            total = np.add.reduce(self._partials[:, :count], axis=0)
            if node.nodes > 1:
                node.wait_until(node.leaders.Iallreduce(MPI.IN_PLACE, total, MPI.SUM).Test)
            self._partials[0, :count] = total
        node.barrier()
        return self._partials[0, :count].copy()
