"""How long clients wait for alexnet-serve: the median and the 99th percentile, of several at once.

    python benchmarks/serving.py --clients 8 --threads 2 [--against torch]

Full-size AlexNet with random weights answers JPEG files of 500 x 375 pixels; each client sends its next one when it has its
answer. With --against torch, torchvision's network computes in the same server in PyTorch (float32, in both memory formats),
in a process of its own; all take turns on the same cores, ratios are medians of the pairs. PyTorch draws no maps, so ours
are a row of their own. Clients and servers share the cores. The last line is JSON.
"""

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from common import PAUSE, OtherLoad, describe_machine
from PIL import Image

from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.explain import Explained
from alexnet_dist.model.parameters import initialize
from alexnet_dist.predictor import Predictor
from alexnet_dist.runs import checkpoint

FORMATS = ("nchw", "channels_last")
PATHS = {"classes": "/predict", "classes and map": "/predict?explain=grad-cam"}
FILES = 16  # different images


def work(kind: str, threads: int, batch: int) -> None:
    """A server's process: prints its port, and serves until SIGTERM."""
    from alexnet_dist.serving.app import Settings, create_app, model_of
    from alexnet_dist.serving.server import listen, run

    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listening:
        path, parameters = Path(folder, "net.safetensors"), parameter_map(Network())
        flat = np.zeros(parameters.size, np.float32)
        initialize(parameters, flat, "he", seed=0)
        checkpoint.save(path, parameters, flat, {}, checkpoint.Header(Network()))
        with Predictor(path, batch_size=batch, threads=threads) as net:
            model = model_of(net, kind)
            if kind != "numpy":
                model = replace(model, compute=torch_compute(kind, threads))
            print(listening.getsockname()[1], flush=True)
            run(create_app(model, Settings(batch=batch, waiting=1000, decoders=threads)), listening)


def torch_compute(way: str, threads: int) -> Callable[[np.ndarray, bool], tuple[np.ndarray, Explained | None]]:
    """PyTorch in ours' place: probabilities, and no maps."""
    import torch
    from torch_alexnet import alexnet

    torch.set_num_threads(threads)
    memory_format = torch.channels_last if way == "channels_last" else torch.contiguous_format
    net = alexnet().to(memory_format=memory_format).eval()

    def compute(crops: np.ndarray, maps: bool) -> tuple[np.ndarray, None]:
        with torch.inference_mode():
            x = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
            return softmax(net(x).numpy()), None

    return compute


@dataclass
class Turns:
    """What clients have measured: the seconds of each request, by turn, and the seconds of each turn."""

    waits: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """p50 and p99 in milliseconds, and images/s."""
        waits = [wait for turn in self.waits for wait in turn]
        percentiles = quantiles(waits, n=100, method="inclusive")
        return {
            "p50_ms": round(1000 * percentiles[49], 1),
            "p99_ms": round(1000 * percentiles[98], 1),
            "images_per_second": round(len(waits) / sum(self.seconds), 1),
        }

    def ratio(self, other: "Turns") -> float:
        """How many times as long the other's clients wait: the median over the pairs of their turns' medians."""
        return median(median(theirs) / median(ours) for ours, theirs in zip(self.waits, other.waits, strict=True))


class Server:
    """A process that serves, and what was measured of it by path."""

    def __init__(self, kind: str, threads: int, batch: int) -> None:
        self.name = "alexnet_dist" if kind == "numpy" else f"torch float32 {kind}"
        self.turns = {item: Turns() for item in PATHS if kind == "numpy" or item == "classes"}
        command = [sys.executable, __file__, "--worker", kind, str(threads), str(batch)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        """Reads where it listens."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the server {self.name} has ended early; its message is above")
        self._port = int(line)

    def turn(self, item: str, bodies: list[bytes], clients: int, requests: int) -> tuple[list[float], float]:
        """So many clients send so many requests each; the seconds of each request, and of all together."""
        waits: list[float] = []
        start_together = threading.Barrier(clients + 1)

        def client(number: int) -> None:
            connection = HTTPConnection("127.0.0.1", self._port, timeout=300)
            connection.connect()
            start_together.wait()
            for index in range(requests):
                start = time.perf_counter()
                connection.request("POST", PATHS[item], bodies[(number + index) % len(bodies)])
                response = connection.getresponse()
                answer = json.loads(response.read())
                waits.append(time.perf_counter() - start)
                if response.status != 200 or ("map" in answer) != (item != "classes"):
                    raise RuntimeError(f"{self.name} answers {response.status}: {answer}")
            connection.close()

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        start_together.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        if len(waits) != clients * requests:
            raise SystemExit("a client has failed; its message is above")
        return waits, time.perf_counter() - start

    def close(self) -> None:
        """Ends the process."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()


def pictures() -> list[bytes]:
    """JPEG files of 500 x 375 pixels, as detailed as photographs are about."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
        files.append(BytesIO())
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], "JPEG", quality=90)
    return [file.getvalue() for file in files]


def compare(servers: list[Server], args: argparse.Namespace) -> None:
    """All have their turns, first one that doesn't count."""
    bodies = pictures()
    for server in servers:
        server.wait_until_ready()
    for item in PATHS:
        for number in range(-1, args.rounds):
            for server in servers:
                if item not in server.turns:
                    continue
                time.sleep(PAUSE)
                waits, seconds = server.turn(item, bodies, args.clients, args.requests)
                if number >= 0:
                    server.turns[item].waits.append(waits)
                    server.turns[item].seconds.append(seconds)


def results(servers: list[Server]) -> list[dict[str, object]]:
    """Prints a line for each server and item, and returns them."""
    rows: list[dict[str, object]] = []
    for server in servers:
        for item, turns in server.turns.items():
            figures = turns.figures()
            row: dict[str, object] = {"server": server.name, "item": item, **figures}
            if server is not servers[0]:
                row["p50_ratio"] = round(servers[0].turns[item].ratio(turns), 3)
            rows.append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8, help="that wait at the same time (default: 8)")
    parser.add_argument("--requests", type=int, default=20, help="of each client in a turn (default: 20)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each server that count (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="of the network, and of the decoding (default: 2)")
    parser.add_argument("--batch", type=int, default=8, help="images computed at once, at most (default: 8)")
    parser.add_argument("--against", choices=["torch"], help="compare with PyTorch (pip install 'alexnet_dist[bench]')")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, threads, batch = args.worker
        return work(kind, int(threads), int(batch))
    needed = {"serve": ("starlette", "uvicorn"), **({"bench": ("torch",)} if args.against else {})}
    for extra, packages in needed.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise SystemExit(f"serving.py needs {', '.join(missing)}: pip install 'alexnet_dist[{extra}]'")
    machine = describe_machine("torch", "starlette", "uvicorn")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    other_load = OtherLoad()
    servers = [Server(kind, args.threads, args.batch) for kind in ("numpy", *(FORMATS if args.against else ()))]
    try:
        compare(servers, args)
    finally:
        for server in servers:
            server.close()
    settings = {name: getattr(args, name) for name in ("clients", "requests", "rounds", "threads", "batch")}
    print("  ".join(f"{name} {value}" for name, value in settings.items()), f" {other_load}")
    rows = results(servers)
    share = round(other_load.share(), 3)
    print(json.dumps({"machine": machine, **settings, "others_share": share, "results": rows}))
    return None


if __name__ == "__main__":
    main()
