"""The parallel training step: forward, loss, backward while gradients are summed over the ranks, update."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from alexnet_dist.comm.parts import Parts
from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.comm.strategy import NotPossible, Strategy, StrategyOptions
from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import PIECES, share
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.layers.base import DropoutKey
from alexnet_dist.model.network import AlexNet
from alexnet_dist.runs.timeline import EXCHANGE, PHASES, NullTimeline, Recorder
from alexnet_dist.support.activity import ACTIVITY
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import empty
from alexnet_dist.training.optim import Optimizer
from alexnet_dist.training.optim_wrappers import AVERAGE
from alexnet_dist.training.progress import Sums
from alexnet_dist.training.strategies import STRATEGIES, Demand
from alexnet_dist.training.updater import Updater


class Stopwatch:
    """Seconds by phase: data, forward, backward, wait, update."""

    def __init__(self, recorder: Recorder) -> None:
        self.seconds = dict.fromkeys(("data", "forward", "backward", "wait", "update"), 0.0)
        self._recorder = recorder

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        ACTIVITY.begin(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self.seconds[name] += end - start
            self._recorder.add(name, start, end, PHASES)

    def waited(self, name: str, seconds: float) -> None:
        """Moves seconds of a phase that were spent waiting for other ranks to the phase `wait`."""
        self.seconds[name] -= seconds
        self.seconds["wait"] += seconds

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds


@dataclass(frozen=True)
class StepSpec:
    """What a step computes. `batch` is the largest number of images that this rank has in a step.

    They are computed in `parts` parts, one after the other, with the memory of one; the gradients add up before the update.
    The first `frozen` layers with parameters stay as they are; the last layer's rate is `head_lr_factor` times the others'.
    `smoothing` is that of the labels, `conv` one of convolutions.MODES. `largest_node`: see `largest` in comm/node.py.
    `deterministic`: the same bits on any number of ranks that divides sharding.PIECES, with a strategy that can.
    """

    network: Network
    batch: int
    optimizer: Optimizer
    parts: int = 1
    frozen: int = 0
    head_lr_factor: float = 1.0
    smoothing: float = 0.0
    seed: int = 0  # of dropout
    conv: str = "auto"
    largest_node: int | None = None
    deterministic: bool = False

    def demand(self, sizes: Sequence[int], node: int) -> Demand:
        """What the strategies' memory depends on, on node `node` of nodes with so many ranks."""
        return Demand(self.network, self.optimizer, self.batch, tuple(sizes), node, self.parts, self.frozen)


class Engine:
    """One rank's part in the training of a network, which `strategy`, a name in STRATEGIES, keeps the same on all ranks.

    Where the strategy can't run this network, or a node has no room for the memory that it shares, all ranks raise
    NotPossible. The forward pass of `net` is collective: a strategy may divide layers among ranks.
    """

    def __init__(
        self, spec: StepSpec, world: Ranks, team: Team, strategy: str = "allreduce", recorder: Recorder | None = None
    ) -> None:
        self.spec, self.world, self.team, self.strategy_name = spec, world, team, strategy
        self._recorder = recorder or NullTimeline()
        table = layer_table(spec.network)
        self.parameters, self.trained_from = table.parameters, table.first_trained(spec.frozen)
        self._updater = Updater(spec.optimizer, self.parameters, spec.head_lr_factor)
        self._parts = Parts(spec.parts)
        options = StrategyOptions(
            self.parameters.size,
            table.classifier_start,
            self._updater,
            team,
            table.classifier_matrices,
            self.trained_from,
            record=self._record_exchange,
            parts=self._parts,
            in_pairs=spec.deterministic,
        )
        self.strategy = self._open(options)
        self.values, self.state = self.strategy.values, self.strategy.state
        self._updater.bind(self.values, self.state)
        make = STRATEGIES[strategy].classifier
        classifier = (lambda net: make(net, self.strategy, team)) if make else None
        images = -(-spec.batch // spec.parts)
        # As many as are in a piece.
        group = -(-spec.batch * world.size // (PIECES * spec.parts)) if spec.deterministic else 0
        self.net = AlexNet(
            spec.network,
            self.values,
            images,
            team,
            training=True,
            conv=spec.conv,
            frozen=spec.frozen,
            group=group,
            classifier=classifier,
        )
        self.applied = 0  # steps of the run, the latest one that this engine has made included
        self._average_inside = False
        self.watch = Stopwatch(self._recorder)
        self._dlogits = empty((images, spec.network.num_classes))

    def fill(self, write: Callable[[np.ndarray, dict[str, np.ndarray]], None]) -> None:
        """Collective: `write`, which rank 0 alone calls, fills all parameters and all state, which are zero
        before; every rank gets its part.

        A UserError of `write` is raised on all ranks as SharedError.
        """
        values: np.ndarray | None = None
        state: dict[str, np.ndarray] = {}
        with self.world.shared_errors():
            if self.world.rank == 0:
                values = self.strategy.blank(self.values)
                state = {name: self.strategy.blank(array) for name, array in self.state.items()}
                write(values, state)
        self.strategy.distribute_(self.values, values)
        for name, array in self.state.items():
            self.strategy.distribute_(array, state.get(name))
        self.net.weights_changed()

    def whole(self) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Collective: on rank 0 all parameters and all state, to be read at once; None and nothing on the others."""
        values = self.strategy.whole(self.values)
        state = {name: self.strategy.whole(array) for name, array in self.state.items()}
        return values, {name: array for name, array in state.items() if array is not None}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Collective: the network has the averaged weights inside, if the optimizer keeps an average of them.

        Not to be used further after an exception inside, which may be one rank's alone: the others can't be waited for.
        """
        self._swap_average()
        self._average_inside = True
        yield
        self.end_averaged()

    def end_averaged(self) -> None:
        """The end of `averaged`, if it has begun; collective, except with `allreduce`."""
        if self._average_inside:
            self._average_inside = False
            self._swap_average()

    def _swap_average(self) -> None:
        if AVERAGE in self.state:
            self.strategy.swap_(self.values, self.state[AVERAGE])
            self.net.weights_changed()

    def close(self) -> None:
        """Collective: frees what the strategy shares between ranks. The engine must not be used after."""
        self.strategy.close()

    @property
    def gradient_norm(self) -> float:
        """The norm of the latest step's gradient, the same on all ranks; 0 with an optimizer that is elementwise."""
        return self._updater.gradient_norm

    def step(self, batch: Batch, global_count: int, step_index: int, lr: float, *, skipped: int = 0) -> Sums:
        """One step of the optimizer on the mean loss of the global batch; returns its sums over all ranks.

        `batch` is this rank's part of the global batch, and may be empty; `global_count` is how many images of the global
        batch can be read, `step_index` counts the run's steps before this one, `skipped` those of them that made no update.
        """
        watch, strategy = self.watch, self.strategy
        self._updater.begin(lr, step_index - skipped)
        strategy.waited()  # what validation or a checkpoint has waited since is not this step's
        own_sums = Sums()
        for index in range(self._parts.count):
            self._parts.begin(index)
            part = batch.rows(share(len(batch.labels), index, self._parts.count))
            own_sums = own_sums.plus(self._forward_and_backward(part, max(global_count, 1), step_index))
        with watch.phase("update"):
            strategy.finish()
        self.applied = step_index + 1
        watch.waited("update", strategy.waited())
        with watch.phase("wait"):
            return Sums(*self.world.sum(list(own_sums)))

    def _forward_and_backward(self, part: Batch, total: int, step_index: int) -> Sums:
        """Hands the gradient of the sum of the images' losses, divided by `total`, to the strategy; returns their sums."""
        watch, strategy, labels = self.watch, self.strategy, part.labels
        with watch.phase("forward"):
            key = DropoutKey(self.spec.seed, step_index, part.positions)
            logits = self.net.forward(part.images, key, part.pieces if self.spec.deterministic else ())
            dlogits = self._dlogits[: len(labels)]
            loss = cross_entropy(logits, labels, dlogits, total=total, smoothing=self.spec.smoothing, mixed=part.mixed)
            if not math.isfinite(loss):  # gradients might yet be: so all ranks see it in their sum
                dlogits.fill(np.nan)
            top1, top5 = count_correct(logits, labels)
        watch.waited("forward", strategy.waited())
        with watch.phase("backward"):
            self.net.backward(dlogits, strategy)
        watch.waited("backward", strategy.waited())
        return Sums(loss, top1, top5, int((labels >= 0).sum()))

    def _open(self, options: StrategyOptions) -> Strategy:
        entry, spec = STRATEGIES[self.strategy_name], self.spec
        if why := entry.refuses(spec.network, spec.frozen):
            raise NotPossible(why)
        if not entry.shares_memory:
            return entry.open(self.world, options)
        from alexnet_dist.comm.node import require_room  # here, because one rank alone needs no MPI

        node = self.world.node(spec.largest_node)
        require_room(node, entry.shared_memory_of_a_node(spec.demand(node.sizes, node.number)))
        return entry.open(node, options)

    def _record_exchange(self, bucket: str, start: float, end: float) -> None:
        self._recorder.add(bucket, start, end, EXCHANGE)
