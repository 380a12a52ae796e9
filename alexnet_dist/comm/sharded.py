"""Strategy `sharded`: the ranks of a node keep one copy of parameters and momentum, and each updates a slice of them.

Every rank has a gradient in shared memory, as large as the parameters; exchange.py sums and applies them.
"""

from contextlib import AbstractContextManager

import numpy as np

from alexnet_dist.comm.buckets import BUCKET
from alexnet_dist.comm.exchange import Exchange, NodeStrategy
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import Apply, Record, forget
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace


class Sharded(NodeStrategy):
    """One exchange of everything."""

    def __init__(
        self, node: Node, size: int, team: Team, apply: Apply, bucket: int = BUCKET, record: Record = forget
    ) -> None:
        super().__init__(node, size)
        self.exchanges = [Exchange(node, 0, size, node.size, team, apply, bucket, record)]

    @staticmethod
    def memory(node: Node, size: int) -> int:
        """Bytes of shared memory that it takes on a node."""
        return 4 * size * (2 + node.size)

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        return self.exchanges[0].block(lo, hi, workspace)
