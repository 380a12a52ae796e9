"""Where the time of a training step goes, layer by layer, and how far each part is from its own limit.

    python benchmarks/breakdown.py --batch 128 --threads 2

Runs whole steps of full-size AlexNet with a stopwatch around every kernel. "ms" is the time of all threads divided by
their number. The limit of products is the speed of a large sgemm measured just before, that of everything else the
memory's: the bytes of a kernel's arrays, each counted once (twice if read and written), at the speed of copying between
large arrays. Data that is in a cache can be faster than that. The time outside of kernels (Python, threads that wait for
each other or for the interpreter's lock) is "rest". The last line is JSON.
"""

import argparse
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from common import BLOCKS, OtherLoad, describe_machine, engine_and_batch, memory_bandwidth, sgemm_peak

from alexnet_dist.kernels import conv_im2col, conv_winograd, linear, pointwise, pool
from alexnet_dist.model import convolutions
from alexnet_dist.model.convolutions import StridedWinogradConv, WinogradConv
from alexnet_dist.training.optim import SGD


class Part(NamedTuple):
    """One kernel: the owner and name of its function, its label in the table, and the multiplications in a call, if any."""

    owner: Any
    function: str
    label: str
    multiplications: Callable[..., int] | None = None


def _forward(v: np.ndarray, u: np.ndarray, m: np.ndarray) -> int:
    return v.size * u.shape[-1]


def _backward(v: np.ndarray, u: np.ndarray, dm: np.ndarray, du: np.ndarray, data: bool, **_: object) -> int:
    return v.size * u.shape[-1] * (1 + data)


PARTS = [
    Part(WinogradConv, "_rows", "padding"),
    Part(StridedWinogradConv, "_rows", "padding"),
    Part(convolutions, "gather", "to points"),
    Part(convolutions, "scatter", "from points"),
    Part(conv_winograd, "filters_winograd_forward", "filters"),
    Part(conv_winograd, "filters_winograd_backward", "filters"),
    Part(conv_winograd, "points_winograd_forward", "products", _forward),
    Part(conv_winograd, "points_winograd_backward", "products", _backward),
    Part(conv_im2col, "im2col", "patches"),
    Part(conv_im2col, "conv_im2col_forward", "products", lambda col, w, y: y.size * w[..., 0].size),
    Part(conv_im2col, "conv_im2col_backward_weight", "products", lambda col, dy, dw, **_: col.size * dy.shape[1]),
    Part(conv_im2col, "conv_im2col_backward_data", "products", lambda dy, w, dx, **_: dy.size * w[..., 0].size),
    Part(pool, "maxpool_forward", "pooling"),
    Part(pool, "maxpool_backward", "pooling"),
    Part(pointwise, "relu_forward_", "ReLU, bias"),
    Part(pointwise, "relu_backward_", "ReLU, bias"),
    Part(pointwise, "bias_backward", "ReLU, bias"),
    Part(pointwise, "dropout_mask", "dropout masks"),
    Part(linear, "linear_gemm_forward", "products", lambda x, w, b, y, _, **__: len(x) * w.size),
    Part(linear, "linear_gemm_backward_data", "products", lambda dy, w, dx: len(dy) * w.size),
    Part(linear, "linear_gemm_backward_weight", "products", lambda x, dy, dw: len(x) * dw.size),
    Part(SGD, "update_", "update"),
]


class Figures:
    """What was measured for one line of the table: seconds of all threads, multiplications, bytes."""

    def __init__(self) -> None:
        self.seconds, self.multiplications, self.bytes = 0.0, 0, 0


class Stopwatches:
    """Wraps the kernels. The time of a kernel excludes that of kernels that it calls."""

    def __init__(self) -> None:
        self.block = ""  # which layer the team is working on, and in which direction
        self.figures: dict[tuple[str, str], Figures] = defaultdict(Figures)
        self._lock = threading.Lock()
        self._inner = threading.local()
        for part in PARTS:
            setattr(part.owner, part.function, self._timed(getattr(part.owner, part.function), part))

    def _timed(self, kernel: Callable[..., Any], part: Part) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            start = time.perf_counter()
            result = kernel(*args, **kwargs)
            seconds = time.perf_counter() - start
            arrays = [array for array in (*args, *kwargs.values()) if isinstance(array, np.ndarray)]
            size = sum(array.nbytes for array in arrays)
            if part.label == "update":  # parameters and momentum are read and written
                size += 3 * arrays[0].nbytes
            with self._lock:
                figures = self.figures[self.block, part.label]
                figures.seconds += seconds - self._inner.seconds
                figures.bytes += size
                figures.multiplications += part.multiplications(*args, **kwargs) if part.multiplications else 0
            self._inner.seconds = outer + seconds
            return result

        return timed

    def watch(self, name: str, block: Any, threads: int) -> None:
        """Times the layer as a whole, so that the time outside of its kernels is known."""
        for direction in ("forward", "backward"):
            setattr(block, direction, self._timed_block(getattr(block, direction), f"{name} {direction}", threads))

    def _timed_block(self, method: Callable[..., Any], name: str, threads: int) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            self.block = name
            before = sum(figures.seconds for key, figures in self.figures.items() if key[0] == name)
            start = time.perf_counter()
            result = method(*args)
            seconds = threads * (time.perf_counter() - start)
            inside = sum(figures.seconds for key, figures in self.figures.items() if key[0] == name) - before
            self.figures[name, "rest"].seconds += seconds - inside
            self.block = "other"
            return result

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N", help="counted steps, after two others (default: 5)"
    )
    args = parser.parse_args()
    machine = describe_machine()
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    other_load = OtherLoad()
    peak, bandwidth = sgemm_peak(args.threads), memory_bandwidth(args.threads)
    print(f"sgemm {peak:.0f} GFLOP/s, memory {bandwidth:.1f} GB/s")
    watches = Stopwatches()
    engine, step = engine_and_batch(args.batch, args.threads)
    for name, block in zip(BLOCKS, engine.net.blocks, strict=True):
        watches.watch(name, block, args.threads)
    for number in range(-2, args.steps):
        if number == 0:
            watches.figures.clear()
            start = time.perf_counter()
        step()
    total = (time.perf_counter() - start) / args.steps
    rows = []
    print(f"{'':16} {'':14} {'ms':>7} {'limit':>7} {'of limit':>8}")
    for (layer, label), figures in watches.figures.items():
        ms = 1e3 * figures.seconds / args.threads / args.steps
        products = figures.multiplications > 0
        limit = 2 * figures.multiplications / (peak * 1e9) if products else figures.bytes / (bandwidth * 1e9)
        limit *= 1e3 / args.steps
        rows.append({"block": layer, "part": label, "ms": round(ms, 2), "limit_ms": round(limit, 2)})
        print(f"{layer:16} {label:14} {ms:7.1f} " + (f"{limit:7.1f} {limit / ms:8.0%}" if limit else ""))
    summed: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for entry in rows:
        kind = "fc" if str(entry["block"]).startswith("fc") else "conv"
        key = f"{kind} {entry['part']}" if entry["part"] == "products" else str(entry["part"])
        summed[key][0] += float(entry["ms"])
        summed[key][1] += float(entry["limit_ms"])
    speed = f"{1e3 * total:.0f} ms, {args.batch / total:.1f} images/s"
    print(f"\na step of {args.batch} images: {speed} (with stopwatches; {other_load})")
    for key, (ms, limit) in sorted(summed.items(), key=lambda item: -item[1][0]):
        share = f"{limit:7.1f} {limit / ms:8.0%}" if limit else ""
        print(f"{'all':16} {key:14} {ms:7.1f} {share}")
    result = {"batch": args.batch, "threads": args.threads, "step_ms": round(1e3 * total, 1), "parts": rows}
    measured = {
        "sgemm_peak_gflops": round(peak, 1),
        "memory_gigabytes_per_second": round(bandwidth, 1),
        "others_share": round(other_load.share(), 3),
    }
    print(json.dumps({"machine": machine, **measured, **result}))


if __name__ == "__main__":
    main()
