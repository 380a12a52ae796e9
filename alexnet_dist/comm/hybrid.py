"""Strategy `hybrid`: convolutions data-parallel, fully connected layers model-parallel on each node.

Krizhevsky's "one weird trick" (arXiv 1404.5997), with owner-computes gradients. Convolutions hold a twentieth of the
parameters and take most of the time: each rank runs them on its own images, and their gradients are exchanged as
`sharded` does. Fully connected layers hold the rest: all ranks of a node together run them on the images of all
(node_classifier.py), from activations in shared memory, which are far smaller than gradients. Each block of their
weights' gradient is computed by one thread of one rank, for all the node's images. On a single node this thread updates
the weights at once, and the gradient is never stored; across nodes it is stored once a node and reduced slice by slice.
"""

from contextlib import AbstractContextManager

import numpy as np

from alexnet_dist.comm.buckets import BUCKET
from alexnet_dist.comm.exchange import Exchange, NodeStrategy
from alexnet_dist.comm.local import updating
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import Apply, Record, forget
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace


class Hybrid(NodeStrategy):
    """Parameters from `split` on are the fully connected layers'."""

    def __init__(
        self,
        node: Node,
        size: int,
        split: int,
        team: Team,
        apply: Apply,
        bucket: int = BUCKET,
        record: Record = forget,
    ) -> None:
        super().__init__(node, size)
        self._split, self._apply = split, apply
        if node.nodes > 1:
            self.exchanges.append(Exchange(node, split, size, 1, team, apply, bucket, record))
        self.exchanges.append(Exchange(node, 0, split, node.size, team, apply, bucket, record))

    @staticmethod
    def memory(node: Node, size: int, split: int) -> int:
        """Bytes of shared memory that it takes on a node, without the activations."""
        return 4 * (2 * size + split * node.size + (size - split) * (node.nodes > 1))

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled; it lies on one side of the split."""
        if lo < self._split:
            return self.exchanges[-1].block(lo, hi, workspace)
        if self.node.nodes > 1:
            return self.exchanges[0].block(lo, hi, workspace)
        return updating(self._apply, lo, hi, workspace)
