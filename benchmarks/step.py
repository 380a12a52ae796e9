"""A whole training step of full-size AlexNet: images a second, share of this machine's sgemm peak, and memory.

    python benchmarks/step.py --batch 16 128 --threads 1 2 [--against torch]

Forward, loss, backward and update on synthetic images. With --against torch, PyTorch runs the same step in its four
ways (float32 and bfloat16 autocast, NCHW and channels_last; fused SGD), each contender in a process of its own, one step
in turn; ratios are medians of the pairs, and the best ones are those to the faster memory format of each precision. The
share of the processors that other programs used is printed, too: more than a few percent makes the figures worthless.
The last line is JSON.
"""

import argparse
import json
from statistics import median

from common import (
    Contender,
    OtherLoad,
    describe_machine,
    engine_and_batch,
    fastest,
    paired_ratio,
    race,
    serve,
    sgemm_peak,
)

from alexnet_dist.model.architecture import Conv2d, Network, layer_table

TORCH_WAYS = ("float32 nchw", "float32 channels_last", "bfloat16 nchw", "bfloat16 channels_last")


def multiplications(network: Network) -> int:
    """Multiply-adds of one image's training step by the direct algorithm, without a gradient of the pixels."""
    total = 0
    layers = layer_table(network).layers
    for layer in layers:
        if layer.parameters:
            weight = layer.parameters[0].size
            places = layer.output[0] * layer.output[1] if isinstance(layer.layer, Conv2d) else 1
            total += weight * places * (2 if layer is layers[0] else 3)
    return total


def work_numpy(batch: int, threads: int) -> None:
    """Serves steps of ours."""
    _, step = engine_and_batch(batch, threads)
    serve({"step": step})


def work_torch(batch: int, threads: int, way: str) -> None:
    """Serves PyTorch's steps."""
    import torch
    from torch_alexnet import alexnet

    torch.set_num_threads(threads)
    precision, format_name = way.split()
    memory_format = torch.channels_last if format_name == "channels_last" else torch.contiguous_format
    net = alexnet().to(memory_format=memory_format)
    x = torch.randn(batch, 3, 224, 224).to(memory_format=memory_format)
    labels = torch.randint(0, 1000, (batch,))
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(net(x), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    serve({"step": step})


def compare(batch: int, threads: int, ways: tuple[str, ...], rounds: int) -> dict[str, object]:
    """Prints a line for each contender; returns what was measured, for JSON."""
    other_load, peak = OtherLoad(), sgemm_peak(threads)
    arguments = (str(batch), str(threads))
    ours = Contender("alexnet_dist", __file__, "numpy", *arguments)
    others = [Contender(way, __file__, "torch", *arguments, way) for way in ways]
    race([ours, *others], rounds)
    speed = batch / median(ours.seconds["step"])
    share = 2 * multiplications(Network()) * speed / (peak * 1e9)
    print(f"batch {batch}, {threads} threads (sgemm peak {peak:.0f} GFLOP/s, {other_load})")
    print(f"  {ours.name:24} {speed:7.1f} images/s  {share:5.0%} of peak  {ours.peak_megabytes:6.0f} MB")
    result: dict[str, object] = {
        "batch": batch,
        "threads": threads,
        "sgemm_peak_gflops": round(peak, 1),
        "images_per_second": round(speed, 2),
        "share_of_peak": round(share, 3),
        "peak_megabytes": round(ours.peak_megabytes),
        "others_share": round(other_load.share(), 3),
    }
    for other in others:
        theirs, ratio = batch / median(other.seconds["step"]), paired_ratio(ours, other, "step")
        print(f"  torch {other.name:18} {theirs:7.1f} images/s  ratio {ratio:6.2f}  {other.peak_megabytes:6.0f} MB")
        result[f"torch {other.name}"] = {
            "images_per_second": round(theirs, 2),
            "ratio": round(ratio, 3),
            "peak_megabytes": round(other.peak_megabytes),
        }
    if others:
        best = {}
        for short, precision in (("fp32", "float32"), ("bf16", "bfloat16")):
            formats = [other for other in others if other.name.startswith(precision)]
            best[short] = paired_ratio(ours, fastest(formats, "step"), "step")
            result[f"best_{short}_ratio"] = round(best[short], 3)
        print("  " + ", ".join(f"best {short} ratio {ratio:.2f}" for short, ratio in best.items()))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32, 128, 256], metavar="N")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--rounds", type=int, default=7, help="counted steps of each contender (default: 7)")
    parser.add_argument("--against", choices=["torch"], help="compare with PyTorch (pip install 'alexnet_dist[bench]')")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, batch, threads, *way = args.worker
        return work_numpy(int(batch), int(threads)) if kind == "numpy" else work_torch(int(batch), int(threads), *way)
    machine = describe_machine("torch")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    ways = TORCH_WAYS if args.against else ()
    results = [compare(batch, threads, ways, args.rounds) for threads in args.threads for batch in args.batch]
    print(json.dumps({"machine": machine, "results": results}))
    return None


if __name__ == "__main__":
    main()
