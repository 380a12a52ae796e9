"""Milliseconds of single layers, of four single operators and of inference with the whole network, beside PyTorch's.

    python benchmarks/ops.py [--parts layers scenes inference] [--batch 16 128] [--threads 2] [--against torch]

layers: each layer of AlexNet with its bias, ReLU and pooling, without dropout and update. "forward" is that of
evaluation, whose weights don't change, so that filters are transformed already; "both" is that of a training step: new
weights, forward, and the gradients of weights, bias and (except for the pixels) input, which are stored. scenes:
convolutions without padding and fully connected layers from the page of the C program that this project began from,
forward, with bias and ReLU in ours and PyTorch's, beside that program's time on another machine, without bias and ReLU.
inference: the whole network on one image and on 32, in a process that has warmed up.

Everything is float32. With --against torch, PyTorch does the same in both memory formats, each contender in a process
of its own, one item in turn; ratios are medians of the pairs, to the memory format that is faster for the item. The
share of the processors that other programs used is printed after each part: more than a few percent makes its figures
worthless. The last line is JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from common import BLOCKS, Contender, OtherLoad, describe_machine, fastest, paired_ratio, race, serve

from alexnet_dist.model.architecture import Network, output_extent, parameter_map
from alexnet_dist.model.convolutions import choose_convolution
from alexnet_dist.model.layers.base import Block, BlockContext, LayerParameters
from alexnet_dist.model.layers.conv import ConvBlock, ConvShape
from alexnet_dist.model.layers.linear import LinearBlock, LinearShape
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace, zeros

Work = dict[str, Callable[[], object]]
MEMORY_FORMATS = ("nchw", "channels_last")


class Scene(NamedTuple):
    """A single operator: shape of x, of the weights as PyTorch has them, stride, and the C program's milliseconds.

    Those are quoted: operator alone, -O3 -march=native, best of several, on 2 cores of an AMD EPYC with AVX-512.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int
    c_program: float


SCENES = {
    "Conv2D 1": Scene((4, 224, 224, 3), (64, 3, 11, 11), 4, 22.6),
    "Conv2D 2": Scene((4, 57, 57, 128), (256, 128, 3, 3), 1, 176.6),
    "Linear 1": Scene((4, 2048), (1024, 2048), 1, 1.3),
    "Linear 2": Scene((4, 4096), (4096, 4096), 1, 9.9),
}
RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    """Random values as after a ReLU: none is negative."""
    return np.maximum(RNG.standard_normal(shape, dtype=np.float32), 0)


class Store:
    """A sink that stores the gradients."""

    def __init__(self, size: int) -> None:
        self._gradients = zeros((size,))

    @contextmanager
    def block(self, lo: int, hi: int, workspace: Workspace) -> Iterator[np.ndarray]:
        yield self._gradients[lo:hi]

    def poll(self) -> None:
        """Does nothing: there is no communication."""


def network(batch: int, team: Team, training: bool) -> AlexNet:
    """Full-size AlexNet with random weights."""
    parameters = parameter_map(Network(dropout=0.0))
    flat = zeros((parameters.size,))
    initialize(parameters, flat, "he", seed=0)
    return AlexNet(Network(dropout=0.0), flat, batch, team, training=training)


def layers_numpy(batch: int, team: Team) -> Work:
    """Ours, for the part `layers`."""
    net = network(batch, team, training=True)
    store, work, shape = Store(net.parameters.size), Work(), (224, 224, 3)
    for name, block in zip(BLOCKS, net.blocks, strict=True):
        x, dy = values(batch, *shape), values(*block.y.shape)
        dx = None if name == "conv1" else np.empty_like(x)
        shape = block.y.shape[1:]

        def both(block: Any = block, x: np.ndarray = x, dy: np.ndarray = dy, dx: np.ndarray | None = dx) -> None:
            block.forward(x, None)
            block.backward(x.reshape(len(x), -1) if dy.ndim == 2 else x, dy, dx, store)

        work[f"{name} forward"] = partial(block.forward, x, None)
        work[f"{name} both"] = both
    return work


def layers_torch(batch: int, format_name: str) -> Work:
    """PyTorch's, for the part `layers`."""
    import torch
    from torch_alexnet import alexnet

    net, work, shape = alexnet(Network(dropout=0.0)), Work(), (3, 224, 224)
    modules = [module for module in [*net.features, *net.classifier] if not isinstance(module, torch.nn.Dropout)]
    starts = [i for i, module in enumerate(modules) if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    for name, lo, hi in zip(BLOCKS, starts, [*starts[1:], len(modules)], strict=True):
        group = in_memory_format(torch.nn.Sequential(*modules[lo:hi]), format_name)
        x = torch.from_numpy(values(batch, *shape))
        x = in_memory_format(x.flatten(1) if name == "fc1" else x, format_name).requires_grad_(name != "conv1")
        y = group(x)
        shape, dy = tuple(y.shape[1:]), torch.rand_like(y)

        def both(group: Any = group, x: Any = x, dy: Any = dy) -> None:
            x.grad = None
            group.zero_grad()
            group(x).backward(dy)

        work[f"{name} forward"] = without_gradients(group, x)
        work[f"{name} both"] = both
    return work


def scenes_numpy(batch: int, team: Team) -> Work:
    """Ours, for the part `scenes`, whose batch is given."""
    work = Work()
    for name, scene in SCENES.items():
        x, outputs = values(*scene.x), scene.w[0]
        w, b = RNG.standard_normal(scene.w, dtype=np.float32), zeros((outputs,))
        context = BlockContext(len(x), team, team)
        block: Block
        if len(scene.w) == 4:
            w = np.ascontiguousarray(w.transpose(2, 3, 1, 0))
            extent = output_extent(scene.x[1], scene.w[2], scene.stride, 0)
            shape = (extent, extent, outputs)
            convolution = choose_convolution("auto", w, shape, scene.stride, 0, pixels=scene.x[3] == 3)
            parameters = LayerParameters(w, b, 0, w.size)
            block = ConvBlock(parameters, convolution, ConvShape(shape, shape), context)
        else:
            block = LinearBlock(LayerParameters(w, b, 0, w.size), LinearShape(0), context)
        work[name] = partial(block.forward, x, None)
    return work


def scenes_torch(batch: int, format_name: str) -> Work:
    """PyTorch's, for the part `scenes`."""
    import torch

    work = Work()
    for name, scene in SCENES.items():
        x = torch.from_numpy(values(*scene.x))
        if len(scene.w) == 4:
            x = x.permute(0, 3, 1, 2).contiguous()
            operator: Any = torch.nn.Conv2d(scene.w[1], scene.w[0], scene.w[2], scene.stride)
        else:
            operator = torch.nn.Linear(scene.w[1], scene.w[0])
        operator = torch.nn.Sequential(operator, torch.nn.ReLU(inplace=True))
        work[name] = without_gradients(in_memory_format(operator, format_name), in_memory_format(x, format_name))
    return work


def inference_numpy(batch: int, team: Team) -> Work:
    """Ours, for the part `inference`."""
    net, x = network(batch, team, training=False), values(batch, 224, 224, 3)
    return {"whole network": lambda: net.forward(x)}


def inference_torch(batch: int, format_name: str) -> Work:
    """PyTorch's, for the part `inference`."""
    import torch
    from torch_alexnet import alexnet

    net, x = alexnet().eval(), torch.from_numpy(values(batch, 3, 224, 224))
    net, x = in_memory_format(net, format_name), in_memory_format(x, format_name)
    return {"whole network": without_gradients(net, x)}


def in_memory_format(thing: Any, format_name: str) -> Any:
    """A module, or a tensor of images, in this memory format."""
    import torch

    maps = isinstance(thing, torch.nn.Module) or thing.dim() == 4
    return thing.to(memory_format=torch.channels_last) if format_name == "channels_last" and maps else thing


def without_gradients(module: Any, x: Any) -> Callable[[], None]:
    """A function that calls the module in inference mode."""
    import torch

    def forward() -> None:
        with torch.inference_mode():
            module(x)

    return forward


NUMPY = {"layers": layers_numpy, "scenes": scenes_numpy, "inference": inference_numpy}
TORCH = {"layers": layers_torch, "scenes": scenes_torch, "inference": inference_torch}


def work_of(kind: str, part: str, batch: int, threads: int) -> Work:
    """The items that a contender serves."""
    if kind == "numpy":
        return NUMPY[part](batch, Team(threads))
    import torch

    torch.set_num_threads(threads)
    return TORCH[part](batch, kind)


def compare(part: str, batch: int, threads: int, against: str | None, rounds: int) -> dict[str, Any]:
    """Prints a line for each item; returns what was measured, for JSON."""
    title = f"{part}, {threads} threads" if part == "scenes" else f"{part}, batch {batch}, {threads} threads"
    print(title)
    other_load = OtherLoad()
    arguments = (part, str(batch), str(threads))
    ours = Contender("alexnet_dist", __file__, "numpy", *arguments)
    others = [
        Contender(format_name, __file__, format_name, *arguments) for format_name in (MEMORY_FORMATS if against else ())
    ]
    race([ours, *others], rounds)
    items: dict[str, Any] = {}
    for item, seconds in ours.seconds.items():
        items[item] = {"ms": round(1e3 * median(seconds), 3)}
        line = f"  {item:16} {1e3 * median(seconds):9.2f} ms"
        if others:
            best = fastest(others, item)
            theirs, ratio = 1e3 * median(best.seconds[item]), paired_ratio(ours, best, item)
            items[item] |= {"torch_ms": round(theirs, 3), "torch_layout": best.name, "ratio": round(ratio, 3)}
            line += f"   torch {best.name:13} {theirs:9.2f} ms   ratio {ratio:5.2f}"
        if part == "scenes":
            c_program = SCENES[item].c_program
            items[item]["times_c_program"] = round(c_program / items[item]["ms"], 2)
            line += f"   SEED: C program {c_program:6.1f} ms, {items[item]['times_c_program']:5.1f} times as fast"
        print(line)
    print(f"  ({other_load})")
    share = round(other_load.share(), 3)
    return {"part": part, "batch": batch, "threads": threads, "others_share": share, "items": items}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=sorted(NUMPY), default=list(NUMPY))
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128], metavar="N", help="of the layers")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], metavar="N")
    parser.add_argument("--rounds", type=int, default=15, help="counted turns of each item (default: 15)")
    parser.add_argument("--against", choices=["torch"], help="compare with PyTorch (pip install 'alexnet_dist[bench]')")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, part, batch, threads = args.worker
        return serve(work_of(kind, part, int(batch), int(threads)), at_least=0.02)
    machine = describe_machine("torch")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    batches = {"layers": args.batch, "scenes": [4], "inference": [1, 32]}
    results = [
        compare(part, batch, threads, args.against, args.rounds)
        for threads in args.threads
        for part in args.parts
        for batch in batches[part]
    ]
    print(json.dumps({"machine": machine, "results": results}))
    return None


if __name__ == "__main__":
    main()
