"""The fully connected layers of all nodes, each run by all ranks of its owner on the images of all (strategy `hybrid`).

Each node owns some outputs of every layer. Forward, a layer's x is gathered on all nodes from those that own parts of it:
the features of a node's images, later the outputs of the layer before. Each node then computes its own outputs, of all
images. Backward, each node has a part of the sum that the gradient of x is: the parts are summed at the owners, while the
gradients of the weights are computed. Logits go to the nodes whose images they are of, and their gradients come from there.

Inside a node, activations lie in memory that its ranks share. Legend: N images of all ranks, I inputs.
"""

from collections.abc import Sequence

import numpy as np

from alexnet_dist.comm.hybrid import Hybrid
from alexnet_dist.comm.node import NodeTeam
from alexnet_dist.comm.spread import Part, Spread
from alexnet_dist.model.layers.base import Block, BlockContext, Division, DropoutKey
from alexnet_dist.model.layers.linear import LinearBlock
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.division import divide
from alexnet_dist.support.threads import Team
from alexnet_dist.training.activation_sizes import linear_shapes, spread_floats, widest

ALL = slice(None)


class NodeDivision(Division):
    """The part of node `number`, of nodes with so many ranks each; it has `images` images at most."""

    def __init__(self, sizes: list[int], number: int, images: int) -> None:
        self._sizes, self._number, self._images = sizes, number, images

    def outputs(self, count: int) -> slice:
        return divide(count, self._sizes)[self._number]

    def owned(self, index: int, inputs: int, batch: int) -> tuple[int, slice]:
        if index == 0:
            return self._images, slice(0, inputs)
        return batch, self.outputs(inputs)

    @property
    def whole(self) -> bool:
        return False


class WorldClassifier:
    """In the place of a network's own classifier. Every method is collective over all ranks.

    Raises ValueError for a table of layers whose classifier has others than fully connected ones.
    """

    def __init__(self, net: AlexNet, strategy: Hybrid, team: Team) -> None:
        self._node = node = strategy.node
        self._capacity = [size * net.batch for size in node.sizes]  # images of each node at most
        total, own = sum(self._capacity), self._capacity[node.number]
        workers = NodeTeam(node, team)
        shapes = linear_shapes(net.network)
        division = NodeDivision(node.sizes, node.number, own)
        context = BlockContext(total, team, workers, True, node.shared, division, net.group)
        self._linear = [block for block in net.classifier_blocks(context) if isinstance(block, LinearBlock)]
        self.blocks: Sequence[Block] = self._linear
        self._spread = Spread(node, workers, *spread_floats(net.network, node.sizes, node.number, net.batch))
        strategy.spread = self._spread
        self._gradients = [node.shared((total * widest(shapes),)) for _ in range(2)]
        self._features = node.shared((own, shapes[0][0]))
        self._logits, self._dlogits = (node.shared((own, shapes[-1][1])) for _ in range(2))
        # Of each node, how many images each of its ranks has, and all their positions in the global batch.
        self._most = max(node.sizes)
        self._headers = node.shared((node.nodes, self._most + max(self._capacity)), np.int64)
        self._images: list[slice] = []  # each node's among those of all, in this step
        self._mine = slice(0, 0)  # this rank's among those of its node

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> np.ndarray:
        """Logits [n, classes] of this rank's features x [n, H, W, C]; valid until the next call."""
        positions = self._meet(len(x), dropout)
        node, total = self._node, self._images[-1].stop
        self._features[self._mine] = x.reshape(len(x), self._features.shape[1])
        node.barrier()
        own = self._images[node.number]
        x = self._features[: own.stop - own.start]
        for index, block in enumerate(self._linear):
            key = None
            if dropout is not None:
                key = DropoutKey(dropout.seed, dropout.step, positions[own] if index == 0 else positions)
            full, parts = block.x[:total], self._parts(index)
            mine = full[parts[node.number]]
            if block.drop(x, key, mine) is x:
                self._spread.copy(x, mine)
            self._spread.gather(full, parts)
            x = block.multiply(full)
        return self._to_owners(x)[self._mine]

    def backward(self, dy: np.ndarray, sink: GradientSink, data: bool) -> np.ndarray:
        """The gradient of this rank's features if `data` asks for it; the parameters' go to the sink."""
        total = self._images[-1].stop
        self._dlogits[self._mine] = dy
        self._node.barrier()
        dy = self._from_owners(total)
        for index, block in reversed(list(enumerate(self._linear))):
            parts = self._parts(index)
            block.backward_relu_(dy)
            if not (index or data):
                block.backward_weight(dy, sink)
                sink.poll()
                break
            partial = self._gradient(0, (total, block.inputs))
            block.backward_data(dy, partial)
            self._spread.start_sum(partial, parts)
            block.backward_weight(dy, sink)
            sink.poll()
            dy = self._gradient(1, partial[parts[self._node.number]].shape)  # in the place of the one before
            self._spread.finish_sum(partial, parts, dy)
            block.backward_drop_(dy)
        return dy[self._mine]

    def _meet(self, count: int, dropout: DropoutKey | None) -> np.ndarray:
        """All learn how many images each rank has; returns the positions of all."""
        node, most = self._node, self._most
        header = self._headers[node.number]
        header[node.rank] = count
        node.barrier()
        start = int(header[: node.rank].sum())
        self._mine = slice(start, start + count)
        if dropout is not None:
            header[most + start : most + start + count] = dropout.positions
        node.allgather_(self._headers)
        ends = np.cumsum(self._headers[:, :most].sum(axis=1)).tolist()
        self._images = [slice(lo, hi) for lo, hi in zip([0, *ends], ends, strict=False)]
        rows = zip(self._headers[:, most:], self._images, strict=True)
        return np.concatenate([row[: part.stop - part.start] for row, part in rows])

    def _parts(self, index: int) -> list[Part]:
        """What each node owns of x of layer number `index`."""
        if index == 0:
            return [(images, ALL) for images in self._images]
        columns = divide(self._linear[index].inputs, self._node.sizes)
        return [(slice(0, self._images[-1].stop), part) for part in columns]

    def _to_owners(self, y: np.ndarray) -> np.ndarray:
        """The logits [images of this node, classes], from those that this node computes, [N, some classes]."""
        own = self._images[self._node.number]
        logits = self._logits[: own.stop - own.start]
        columns, others = divide(logits.shape[1], self._node.sizes), self._spread.others
        self._spread.copy(y[own], logits[:, columns[self._node.number]])
        self._spread.exchange([y[self._images[k]] for k in others], [logits[:, columns[k]] for k in others])
        return logits

    def _from_owners(self, total: int) -> np.ndarray:
        """The gradients of the logits that this node computes, [N, some classes]."""
        own = self._images[self._node.number]
        dlogits = self._dlogits[: own.stop - own.start]
        columns, others = divide(dlogits.shape[1], self._node.sizes), self._spread.others
        mine = columns[self._node.number]
        dy = self._gradient(1, (total, mine.stop - mine.start))
        self._spread.copy(dlogits[:, mine], dy[own])
        self._spread.exchange([dlogits[:, columns[k]] for k in others], [dy[self._images[k]] for k in others])
        return dy

    def _gradient(self, which: int, shape: tuple[int, ...]) -> np.ndarray:
        return self._gradients[which][: shape[0] * shape[1]].reshape(shape)
