"""The table of strategies: how ranks keep their parameters the same, by the names of --sync.

It can be imported without MPI: the module of a strategy is imported when it is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_dist.model.architecture import Dropout, Linear, Network, ReLU, layer_table
from alexnet_dist.model.network import AlexNet, Classifier
from alexnet_dist.support.division import divide
from alexnet_dist.training.activation_sizes import FLOAT, activation_bytes, activations_sent
from alexnet_dist.training.optim import Optimizer

if TYPE_CHECKING:
    from alexnet_dist.comm.node import Node
    from alexnet_dist.comm.strategy import Strategy, StrategyOptions
    from alexnet_dist.comm.world import World


@dataclass(frozen=True)
class Demand:
    """What the memory of a strategy depends on: the network, the optimizer, images of a rank, and ranks of each node."""

    network: Network
    optimizer: Optimizer
    batch: int  # images of each rank in a step, at most
    ranks_of_nodes: tuple[int, ...]
    node: int  # which of them is meant
    parts: int = 1  # of a step
    frozen: int = 0  # layers with parameters that aren't trained, from the first on

    @property
    def batch_of_a_part(self) -> int:
        """Images of each rank in a part of a step, at most."""
        return -(-self.batch // self.parts)

    @property
    def ranks(self) -> int:
        """How many ranks the node has."""
        return self.ranks_of_nodes[self.node]

    @property
    def owned(self) -> int:
        """How many of the classifier's parameters are of the node's outputs, where nodes divide them."""
        matrices = layer_table(self.network).classifier_matrices
        parts = [(divide(rows, self.ranks_of_nodes)[self.node], length) for _, rows, length in matrices]
        return sum((part.stop - part.start) * length for part, length in parts)

    def exchanged(self, floats: int) -> int:
        """Bytes that each node has to send for the sum of so many floats: two parts of the number of nodes."""
        nodes = len(self.ranks_of_nodes)
        return 2 * (nodes - 1) * FLOAT * floats // nodes

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return layer_table(self.network).parameters.size

    @property
    def trained_from(self) -> int:
        """The index of the first parameter that is trained."""
        return layer_table(self.network).first_trained(self.frozen)

    @property
    def trained(self) -> int:
        """How many parameters are trained."""
        return self.size - self.trained_from

    @property
    def classifier_start(self) -> int:
        """The index of the classifier's first parameter."""
        return layer_table(self.network).classifier_start

    @property
    def states(self) -> int:
        """How many buffers hold the optimizer's state; each is as long as what is trained."""
        return len(self.optimizer.state)


def _nothing(demand: Demand) -> int:
    return 0


@dataclass(frozen=True)
class StrategyEntry:
    """One strategy.

    `sent` is how many bytes a node sends to others in a step, without headers of messages, where MPI sends nothing twice.
    `open` is called with the World, or with the Node if the strategy shares memory among the ranks of a node. All
    memories are in bytes; that of a checkpoint is what the node takes besides, for a while, to read or write one.
    `classifier`, if given, makes the classifier that replaces the network's own in training, from
    the network, the strategy that was opened, and this rank's team. `refuses` says why the strategy can't train a network
    of which some layers, from the first on, are frozen; "" if it can.
    """

    open: Callable[[Any, "StrategyOptions"], "Strategy"]
    sent: Callable[[Demand], int] = _nothing
    memory_of_a_rank: Callable[[Demand], int] = _nothing
    memory_of_a_checkpoint: Callable[[Demand], int] = _nothing
    shared_memory_of_a_node: Callable[[Demand], int] = _nothing
    shares_memory: bool = False
    many_ranks: bool = True  # False: for a world of one rank only
    classifier: Callable[[AlexNet, Any, Any], Classifier] | None = None
    refuses: Callable[[Network, int], str] = lambda network, frozen: ""


def _open_local(world: "World", options: "StrategyOptions") -> "Strategy":
    from alexnet_dist.comm.local import Local

    return Local(options)


def _open_allreduce(world: "World", options: "StrategyOptions") -> "Strategy":
    from alexnet_dist.comm.allreduce import Allreduce

    return Allreduce(world, options)


def _open_sharded(node: "Node", options: "StrategyOptions") -> "Strategy":
    from alexnet_dist.comm.sharded import Sharded

    return Sharded(node, options)


def _open_hybrid(node: "Node", options: "StrategyOptions") -> "Strategy":
    from alexnet_dist.comm.hybrid import Hybrid

    return Hybrid(node, options)


def _allreduce_memory(demand: Demand) -> int:
    return FLOAT * (demand.size + demand.trained * (demand.states + 1))


def _sharded_memory(demand: Demand) -> int:
    return FLOAT * (demand.size + demand.trained * (demand.states + demand.ranks))


def _hybrid_memory(demand: Demand) -> int:
    convolutions, owned = demand.classifier_start - demand.trained_from, demand.owned
    values = demand.classifier_start + owned
    stored = not demand.optimizer.elementwise or demand.parts > 1
    trained = (convolutions + owned) * demand.states + convolutions * demand.ranks + owned * stored
    activations = activation_bytes(demand.network, demand.ranks_of_nodes, demand.node, demand.batch_of_a_part)
    return FLOAT * (values + trained) + activations


def _gathered(demand: Demand) -> int:
    """The first node gathers what the others own."""
    several = len(demand.ranks_of_nodes) > 1
    return FLOAT * (demand.size + demand.trained * demand.states) if several and demand.node == 0 else 0


def _gradient_sent(demand: Demand) -> int:
    return demand.exchanged(demand.trained)


def _hybrid_sent(demand: Demand) -> int:
    convolutions = demand.classifier_start - demand.trained_from
    activations = activations_sent(
        demand.network, demand.ranks_of_nodes, demand.node, demand.batch, data=convolutions > 0
    )
    return activations + demand.exchanged(convolutions)


def _world_classifier(net: AlexNet, strategy: Any, team: Any) -> Classifier:
    from alexnet_dist.training.world_classifier import WorldClassifier

    return WorldClassifier(net, strategy, team)


def _why_not_hybrid(network: Network, frozen: int) -> str:
    table = layer_table(network)
    if table.first_trained(frozen) > table.classifier_start:
        return "of the fully connected layers, some are frozen"
    for layer in table.classifier:
        if not isinstance(layer.layer, (Dropout, Linear, ReLU)):
            return f"ranks can't share the work of {layer.name}"
    return ""


STRATEGIES: dict[str, StrategyEntry] = {
    "local": StrategyEntry(_open_local, many_ranks=False),
    "allreduce": StrategyEntry(_open_allreduce, _gradient_sent, memory_of_a_rank=_allreduce_memory),
    "sharded": StrategyEntry(
        _open_sharded, _gradient_sent, shared_memory_of_a_node=_sharded_memory, shares_memory=True
    ),
    "hybrid": StrategyEntry(
        _open_hybrid,
        _hybrid_sent,
        memory_of_a_checkpoint=_gathered,
        shared_memory_of_a_node=_hybrid_memory,
        shares_memory=True,
        classifier=_world_classifier,
        refuses=_why_not_hybrid,
    ),
}
FALLBACK = "allreduce"  # needs no shared memory


def for_many_ranks() -> list[str]:
    """The names of the strategies that work on any number of ranks."""
    return [name for name, entry in STRATEGIES.items() if entry.many_ranks]


def sync_choices() -> list[str]:
    """What --sync can be: `auto` chooses by a rule, `measure` by measuring, one of the others."""
    return ["auto", "measure", *for_many_ranks()]
