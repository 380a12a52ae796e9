"""What the benchmarks of several ranks run: ours and PyTorch's, served by rank 0 to the benchmark that started them.

mpirun ... python workers.py --worker numpy STRATEGY BATCH THREADS
mpirun ... python workers.py --worker torch FORMAT ADDRESS PORT BATCH THREADS
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
from common import serve

from alexnet_dist.data.loader import Batch
from alexnet_dist.data.sharding import share
from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.parameters import GradientSink
from alexnet_dist.support.workspace import Workspace

Work = dict[str, Callable[[], object]]
RANK_VARIABLES, SIZE_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def first(values: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value of the first of these names that there is."""
    return next(values[name] for name in names if name in values)


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


def work_numpy(strategy: str, global_batch: str, team_size: str) -> None:
    """Serves ours, on the ranks of this MPI world."""
    from alexnet_dist.comm.world import World
    from alexnet_dist.model.parameters import initialize
    from alexnet_dist.support.threads import Team
    from alexnet_dist.training.engine import Engine, StepSpec
    from alexnet_dist.training.optim import SGD

    batch, world, team = int(global_batch), World(), Team(int(team_size))
    mine = share(batch, world.rank, world.size)
    engine = Engine(StepSpec(Network(), -(-batch // world.size), SGD()), world, team, strategy)
    engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=0))
    rng = np.random.default_rng(world.rank)
    x = rng.standard_normal((len(mine), 224, 224, 3), dtype=np.float32)
    images = Batch(x, rng.integers(0, 1000, len(mine)), np.arange(mine.start, mine.stop))
    bounds = sorted(engine.parameters.ranges.values(), reverse=True)
    start = layer_table(Network()).classifier_start

    def step() -> dict[str, float]:
        engine.watch.take()
        engine.step(images, batch, 0, 1e-4)
        return {"waited": engine.watch.take()["wait"]}

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


def work_torch(format_name: str, address: str, port: str, batch: str, threads: str) -> None:
    """Serves PyTorch's, on processes that mpirun has started for rank 0 to meet at this address and port."""
    import torch
    import torch.distributed as dist
    from torch_alexnet import alexnet

    rank, ranks = (int(first(os.environ, names)) for names in (RANK_VARIABLES, SIZE_VARIABLES))
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.set_num_threads(int(threads))
    dist.init_process_group("gloo")
    memory_format = torch.channels_last if format_name == "channels_last" else torch.contiguous_format
    net = alexnet().to(memory_format=memory_format)
    mine = len(share(int(batch), rank, ranks))
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


if __name__ == "__main__":
    _, kind, *words = sys.argv[1:]
    (work_numpy if kind == "numpy" else work_torch)(*words)
