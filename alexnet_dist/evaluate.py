"""python -m alexnet_dist.evaluate: top-1 and top-5 accuracy on an images.list, sharded over the ranks and exact."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_dist import checkpoint, cli
from alexnet_dist.architecture import Network
from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.loader import Loader
from alexnet_dist.errors import SharedError
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.model import AlexNet, layout_of
from alexnet_dist.threads import Team
from alexnet_dist.workspace import empty, zeros

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World


@dataclass(frozen=True)
class Evaluation:
    """Sums over exactly the images that could be read: each counted once, on whatever rank."""

    images: int
    top1: int
    top5: int
    loss_sum: float
    broken: tuple[str, ...]

    @property
    def error(self) -> float:
        """The share of images whose most probable class is wrong."""
        return 1 - self.top1 / self.images

    def means(self) -> dict[str, float]:
        """Mean loss, and top-1 and top-5 accuracy as shares of 1."""
        return {"loss": self.loss_sum / self.images, "top1": self.top1 / self.images, "top5": self.top5 / self.images}

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1 / self.images:.2%} ({self.top1} of {self.images})  "
            f"top-5 {self.top5 / self.images:.2%} ({self.top5})  loss {self.loss_sum / self.images:.4f}"
        )


def evaluate(net: AlexNet, images: ImageList, world: "World", workers: int) -> Evaluation:
    """Runs the network over the list, each rank over its shard. Raises SharedError if no image could be read."""
    size, classes = net.network.image_size, net.network.num_classes
    scratch = empty((net.batch, classes))
    count = loss = top1 = top5 = 0.0
    broken: list[str] = []

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        load_for_evaluation(images.path(index), size, out)

    with Loader(
        images,
        load=load,
        global_batch=net.batch * world.size,
        rank=world.rank,
        size=world.size,
        image_size=size,
        workers=workers,
    ) as loader:
        for batch in loader.batches(0):
            logits = net.forward(batch.images)
            loss += cross_entropy(logits, batch.labels, scratch[: len(logits)], total=1)
            first, fifth = count_correct(logits, batch.labels)
            top1, top5, count = top1 + first, top5 + fifth, count + len(batch.labels) - len(batch.broken)
            broken += batch.broken
    count, loss, top1, top5 = world.sum([count, loss, top1, top5])
    complaints = world.all_texts(broken)
    if count == 0:
        raise SharedError(f"none of the {len(images)} images of {images.source} could be read; first: {complaints[0]}")
    return Evaluation(int(count), int(top1), int(top5), loss, tuple(complaints))


def build_parser() -> cli.Parser:
    """The flags of alexnet-evaluate."""
    parser = cli.Parser(
        "alexnet-evaluate",
        "Measure a trained AlexNet on a list of images.",
        "example: mpirun -n 2 python -m alexnet_dist.evaluate --load runs/alexnet/best.safetensors --data val.list",
    )
    add = parser.add_argument
    add("--load", "-load", required=True, metavar="FILE", help="a checkpoint, or weights saved by torchvision")
    add("--data", default="images.list", metavar="LIST", help="`class_id image_path` a line (default: images.list)")
    add("--batch-size", "-batchsize", type=int, default=32, metavar="N", help="images a rank in one pass (default: 32)")
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action="store_true", help="an image that can't be read is an error, not skipped and counted")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def body(world: "World", args: argparse.Namespace) -> int:
    """Loads the network on every rank, evaluates, prints on rank 0."""
    path = Path(args.load)
    with world.together():
        cli.require_positive(args, "batch_size", "threads", "workers")
        header = asdict(checkpoint.read_header(path)) if world.rank == 0 else None
    network = Network(**world.broadcast_json(header)["network"])
    with world.together():
        images = read_image_list(Path(args.data), network.num_classes)
    world.require_same(images.fingerprint(), f"the list {args.data}")
    layout = layout_of(network)
    flat = zeros((layout.size,))
    with world.together():
        if world.rank == 0:
            checkpoint.load(path, layout, flat, None)
    world.broadcast_(flat)
    with Team(args.threads or world.node_threads()) as team:
        result = evaluate(AlexNet(network, flat, args.batch_size, team), images, world, args.workers or team.size)
    if args.strict and result.broken:
        raise SharedError(result.broken[0])
    if world.rank == 0:
        if args.json:
            print(json.dumps({**asdict(result), "loss": result.loss_sum / result.images}))
        else:
            for complaint in result.broken:
                print(f"skipped: {complaint}")
            print(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run_on_ranks(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
