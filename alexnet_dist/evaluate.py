"""python -m alexnet_dist.evaluate: top-1 and top-5 accuracy on an images.list, sharded over the ranks and exact."""

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.data.sources import open_evaluated
from alexnet_dist.errors import SharedError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.network import AlexNet
from alexnet_dist.runs import checkpoint
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import zeros

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World
    from alexnet_dist.training.evaluation import Evaluation


def build_parser() -> cli.Parser:
    """The flags of alexnet-evaluate."""
    parser = cli.Parser(
        "alexnet-evaluate",
        "Measure a trained AlexNet on a list of images.",
        "example: mpirun -n 2 python -m alexnet_dist.evaluate --load runs/alexnet/best.safetensors --data val.list",
    )
    add = parser.add_argument
    add("--load", "-load", required=True, metavar="FILE", help="a checkpoint, or weights saved by torchvision")
    add(
        "--data",
        default="images.list",
        metavar="LIST",
        help="`class_id image_path` a line, or a folder of shards or classes (default: %(default)s)",
    )
    add(
        "--batch-size",
        "-batchsize",
        type=int,
        default=32,
        metavar="N",
        help="images a rank in one pass (default: %(default)s)",
    )
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action="store_true", help="an image that can't be read is an error, not skipped and counted")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def body(world: "World", args: argparse.Namespace) -> int:
    """Loads the network on every rank, evaluates, prints on rank 0."""
    # Imported here, because --help needs no MPI.
    from alexnet_dist.training.evaluation import evaluate
    from alexnet_dist.training.shared_tables import share_images

    with world.shared_errors():
        cli.require_positive(args, "batch_size", "threads", "workers")
        header, flat = checkpoint.load_weights(Path(args.load)) if world.rank == 0 else (None, None)
    network = Network(**world.broadcast_json(asdict(header)["network"] if header else None))
    images = share_images(world, partial(open_evaluated, Path(args.data), network.num_classes))
    world.require_same(images.fingerprint(), f"the list {args.data}")
    if flat is None:
        flat = zeros((parameter_map(network).size,))
    world.broadcast_(flat)
    with Team(args.threads or world.node_threads()) as team:
        result = evaluate(AlexNet(network, flat, args.batch_size, team), images, world, args.workers or team.size)
    if args.strict and result.broken:
        raise SharedError(result.broken[0])
    if world.rank == 0:
        show(result, args.json)
    return 0


def show(result: "Evaluation", as_json: bool) -> None:
    """Prints the result, as text or as a JSON object."""
    if as_json:
        sums = result.sums
        counts = {"images": result.images, "top1": int(sums.top1), "top5": int(sums.top5), "loss_sum": sums.loss}
        print(json.dumps({**counts, "broken": result.broken, "loss": sums.means()["loss"]}))
        return
    for message in result.broken:
        print(f"skipped: {message}")
    print(result)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run_on_ranks(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
