"""Strategy `sharded`: the ranks of a node keep one copy of parameters and state, and each updates a slice of them.

Every rank has a gradient in shared memory, as large as the parameters; exchange.py sums and applies them.
"""

from contextlib import AbstractContextManager

import numpy as np

from alexnet_dist.comm.exchange import Exchange, NodeStrategy
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.support.workspace import Workspace


class Sharded(NodeStrategy):
    """One exchange, of all gradients."""

    def __init__(self, node: Node, options: StrategyOptions) -> None:
        super().__init__(node, options)
        self.exchange = Exchange(node, options, *options.trained)

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled."""
        return self.exchange.block(lo, hi, workspace)
