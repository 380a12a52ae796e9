"""What scaling.py prints and keeps of the model's predictions: for each kind of node, bandwidth and global batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scaling_model import (
    PAPER_EPOCHS,
    PAPER_NODES,
    PAPER_SECONDS,
    PAPER_SPEED,
    TIE,
    Cluster,
    Line,
    Prediction,
    fastest,
    powers_of_two,
)

from alexnet_dist.training.strategies import for_many_ranks


class Setting(NamedTuple):
    """What predictions are made for."""

    cores: int  # of a node
    gigabits: float  # a second, of a node
    batch: int  # of all nodes


Predictions = Mapping[Setting, Sequence[Prediction]]


def predict(cluster: Cluster, lines: Mapping[str, Line], largest: int, batch: int) -> list[Prediction]:
    """For each number of nodes up to `largest` and each strategy; a node without images would not help."""
    nodes = [count for count in powers_of_two(largest) if count <= batch]
    return [cluster.predict(name, line, count, batch) for count in nodes for name, line in lines.items()]


def print_predictions(predictions: Predictions, epochs: int) -> None:
    """A table for each setting: images a second of each strategy, and the time that the fastest takes for ImageNet."""
    print("\nPredicted images/s, nothing of the wire hidden - all of it that can be")
    for setting, steps in predictions.items():
        names = list(dict.fromkeys(step.strategy for step in steps))
        print(f"\n{setting.cores} cores a node, {setting.gigabits:g} Gbit/s, global batch {setting.batch}")
        print(f"nodes {''.join(f'{name:>22}' for name in names)}   {epochs} epochs, minutes (the fastest)")
        for nodes in dict.fromkeys(step.nodes for step in steps):
            mine = {step.strategy: step for step in steps if step.nodes == nodes}
            speeds = [f"{mine[name].speed(False):,.0f} - {mine[name].speed(True):,.0f}" for name in names]
            slow, quick = (min(step.minutes(epochs, hidden) for step in mine.values()) for hidden in (False, True))
            print(f"{nodes:5} {''.join(f'{speed:>22}' for speed in speeds)}   {slow:,.1f} - {quick:,.1f}")
    print(
        f"\nThe anchor, arXiv 1709.05011: {PAPER_EPOCHS} epochs in {PAPER_SECONDS / 60:.0f} minutes on {PAPER_NODES} CPUs, "
        f"so {PAPER_SPEED:,.0f} images/s, {PAPER_SPEED / PAPER_NODES:.0f} a CPU, and "
        f"{PAPER_SECONDS / 60 * epochs / PAPER_EPOCHS:.1f} minutes for {epochs} epochs"
    )


def in_words(runs: Sequence[tuple[int, tuple[str, ...]]]) -> str:
    """Which strategies are the fastest, and from which number of nodes on others are."""
    every = len(for_many_ranks())
    texts = [("all alike" if len(names) == every else ", ".join(names), nodes) for nodes, names in runs]
    return (
        "; ".join(names + (f" from {nodes} on" if index else "") for index, (names, nodes) in enumerate(texts)) or "-"
    )


def print_fastest(predictions: Predictions) -> None:
    """The table of which strategy is the fastest where."""
    print(f"\nThe fastest of several nodes (all that are within {TIE:.0%} of it)")
    print("cores  Gbit/s   batch  hidden")
    for setting, steps in predictions.items():
        for hidden in (False, True):
            start = f"{setting.cores:5} {setting.gigabits:7g} {setting.batch:7}"
            print(
                f"{' ' * len(start) if hidden else start}  {'all ' if hidden else 'none'}    {in_words(fastest(steps, hidden))}"
            )


def print_sent(cluster: Cluster, largest: int, batches: Sequence[int], available: int) -> None:
    """What nodes send, from where on hybrid sends more than sharded, and the memory that it takes for activations."""
    print("\nA node sends in a step (MB), and messages one after another")
    print("nodes   batch      sharded, messages       hybrid, messages   hybrid's memory, GB   equal bytes at batch")
    for batch in batches:
        for nodes in [count for count in (2, 16, 128, 1024) if count <= min(largest, batch)]:
            both = [
                f"{cluster.sent(name, nodes, batch) / 1e6:,.1f}, {cluster.messages(name, nodes)[0]:5}"
                for name in ("sharded", "hybrid")
            ]
            memory = cluster.memory(nodes, batch)
            print(
                f"{nodes:5} {batch:7} {both[0]:>22} {both[1]:>22} {memory / 1e9:21.2f} {cluster.break_even(nodes):22,.0f}"
            )
            if memory > available:
                print(f"      more than the {available / 1e9:.1f} GB of memory that are available on this machine")
    grows = (cluster.memory(2, 2000) - cluster.memory(2, 0)) / 2000
    room = math.floor(max(0, available - cluster.memory(2, 0)) / grows)
    print(f"On 2 nodes, {available / 1e9:.1f} GB of memory hold what hybrid keeps of a global batch of {room:,} images")


def as_json(predictions: Predictions, epochs: int) -> dict[str, Any]:
    """All of it: `predictions`, and `fastest` for both bounds."""
    return {
        "predictions": [
            {"cores": setting.cores, "gigabits": setting.gigabits} | step.as_json(epochs)
            for setting, steps in predictions.items()
            for step in steps
        ],
        "fastest": [
            setting._asdict()
            | {
                name: [{"from_nodes": nodes, "strategies": names} for nodes, names in fastest(steps, hidden)]
                for name, hidden in (("none_hidden", False), ("all_hidden", True))
            }
            for setting, steps in predictions.items()
        ],
    }
