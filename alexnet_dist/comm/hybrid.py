"""Strategy `hybrid`: convolutions data-parallel, fully connected layers model-parallel on each node.

Krizhevsky's "one weird trick" (arXiv 1404.5997), with owner-computes gradients. Convolutions hold a twentieth of the
parameters and take most of the time: each rank runs them on its own images, and their gradients are exchanged as
`sharded` does. Fully connected layers hold the rest: the ranks of a node run them together on the images of all ranks
(training/node_classifier.py), from activations in shared memory, which are far smaller than gradients. Each block of
their weights' gradient is computed by one thread of one rank, for all the node's images. On a single node this thread
updates the weights at once, and the gradient is never stored; across nodes, and for an optimizer that needs norms first,
it is stored once a node and updated slice by slice.
"""

from contextlib import AbstractContextManager

import numpy as np

from alexnet_dist.comm.exchange import Exchange, NodeStrategy
from alexnet_dist.comm.local import updating
from alexnet_dist.comm.node import Node
from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.support.workspace import Workspace


class Hybrid(NodeStrategy):
    """Exchanges of the convolutions' gradients, and of the fully connected layers' where these must be stored."""

    def __init__(self, node: Node, options: StrategyOptions) -> None:
        super().__init__(node, options)
        self._stores = stores_classifier_gradient(node.nodes, bool(options.update.partials))
        start = options.classifier_start
        if self._stores:
            self.exchanges.append(Exchange(node, options, start, options.size, copies=1))
        self.exchanges.append(Exchange(node, options, 0, start, copies=node.size))

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        """The part [lo, hi) of the gradient, to be filled; it is all of convolutions or all of the classifier."""
        if lo < self._options.classifier_start:
            return self.exchanges[-1].block(lo, hi, workspace)
        if self._stores:
            return self.exchanges[0].block(lo, hi, workspace)
        return updating(self._options.update, lo, hi, workspace)


def stores_classifier_gradient(nodes: int, deferred: bool) -> bool:
    """Whether each node stores the classifier's gradient: to reduce it across nodes, or for a `deferred` update."""
    return nodes > 1 or deferred
