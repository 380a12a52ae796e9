"""python -m alexnet_dist.evaluate: accuracy on a list of images, sharded over the ranks and exact. One rank needs no MPI."""

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.data.augment import CROPS
from alexnet_dist.data.class_names import class_names_beside, distinct, is_part, match_classes
from alexnet_dist.data.decode import LISTED
from alexnet_dist.data.sources import list_in, open_evaluated
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import SharedError
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.network import AlexNet
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import weights_in
from alexnet_dist.support.files import check_writable, write_text
from alexnet_dist.support.plural import plural
from alexnet_dist.support.readable_json import dump_json
from alexnet_dist.support.threads import Team
from alexnet_dist.support.tracking import tracking
from alexnet_dist.support.workspace import zeros

if TYPE_CHECKING:
    from alexnet_dist.comm.ranks import Ranks
    from alexnet_dist.data.table import ImageTable
    from alexnet_dist.training.evaluation import Evaluation
    from alexnet_dist.training.predictions import Prediction


def build_parser() -> cli.Parser:
    """The flags of alexnet-evaluate."""
    parser = cli.Parser(
        "alexnet-evaluate",
        "Measure a trained AlexNet on a list of images.",
        "example: mpirun -n 2 python -m alexnet_dist.evaluate --load runs/alexnet/best.safetensors --data val.list",
    )
    add = parser.add_argument
    cli.add_load(parser)
    add(
        "--data",
        default="images.list",
        metavar="LIST",
        help="`class_id image_path` a line, or a folder of shards or classes; of one that holds lists, val.list "
        "(default: %(default)s)",
    )
    add("--ten-crop", action="store_true", help="mean probabilities of corners, centre and their mirror images")
    add(
        "--ignore-class-names", action="store_true", help="take the list's classes by number, whatever classes.txt says"
    )
    add("--predictions", type=Path, metavar="FILE.csv", help="write each image's class and its most probable classes")
    add("--topk", type=int, default=5, metavar="K", help="how many of them (default: %(default)s)")
    add("--per-class", type=Path, metavar="FILE.csv", help="write each class's accuracy and precision")
    add("--confusion", type=Path, metavar="FILE.csv", help="write how often each class is taken for each")
    add(
        "--batch-size",
        "-batchsize",
        type=int,
        default=32,
        metavar="N",
        help="images, or crops, a rank in one pass (default: %(default)s)",
    )
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action="store_true", help="an image that can't be read is an error, not skipped and counted")
    add(
        "--io-patience",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to go on trying where storage fails (default: %(default)g)",
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser


def body(world: "Ranks", args: argparse.Namespace) -> int:
    """Loads the network on every rank, evaluates, prints and writes on rank 0."""
    # Imported here, because --help needs no MPI.
    from alexnet_dist.training.evaluation import evaluate
    from alexnet_dist.training.predictions import Predictions
    from alexnet_dist.training.shared_tables import share_images

    files = [path for path in (args.predictions, args.per_class, args.confusion) if path is not None]
    with world.shared_errors():
        cli.require_positive(args, "batch_size", "threads", "workers", "topk")
        header, flat = checkpoint.load_weights(weights_in(Path(args.load))) if world.rank == 0 else (None, None)
        for path in files if world.rank == 0 else []:
            check_writable(path)
    settings, trained = world.broadcast_json([asdict(header.network), header.class_names] if header else None)
    network = Network(**settings)
    with world.shared_errors():
        data, notes = list_in(Path(args.data), validation=True)
        wanted = None if args.ignore_class_names else class_names_beside(data)
        lacking = is_part(wanted, trained)  # images of some classes are still told from all of them
        names, order = match_classes(trained, None if lacking else wanted, network.num_classes, args.load)
    how = (network.num_classes, trained if lacking else None, args.ignore_class_names)
    images = share_images(world, partial(open_evaluated, data, *how))
    world.require_same(images.fingerprint(), f"the list {data}")
    for line in notes if world.rank == 0 else ():
        print(line, file=sys.stderr, flush=True)
    if flat is None:
        flat = zeros((parameter_map(network).size,))
    world.broadcast_(flat)
    predictions = Predictions(args.topk)
    with Team(args.threads or world.node_threads()) as team, tracking("evaluating", world.rank == 0) as tracker:
        result = evaluate(
            AlexNet(network, flat, max(args.batch_size, CROPS if args.ten_crop else 1), team),
            images,
            world,
            args.workers or team.size,
            ten_crop=args.ten_crop,
            order=order,
            observe=predictions.add if files else None,
            progress=tracker,
            patience=Patience(args.io_patience, lambda text: print(text, file=sys.stderr, flush=True)),
        )
    if args.strict and result.broken:
        raise SharedError(result.broken[0])
    everything = predictions.gathered(world)
    with world.shared_errors():
        if world.rank == 0:
            show(result, args.json)
            write(args, everything, names, images)
    return 0


def show(result: "Evaluation", as_json: bool) -> None:
    """Prints the result, as text or as a JSON object."""
    if as_json:
        sums, means = result.sums, result.means()
        counts = {"images": result.images, "top1": int(sums.top1), "top5": int(sums.top5), "loss_sum": sums.loss}
        if "top5" not in means:
            del counts["top5"]
        print(dump_json({**counts, "broken": result.broken, "loss": means["loss"]}))
        return
    for message in result.broken[:LISTED]:
        print(f"skipped: {message}")
    if len(result.broken) > LISTED:
        print(f"skipped: {plural(len(result.broken) - LISTED, 'further image')} that can't be read (--json names all)")
    print(result)


def write(args: argparse.Namespace, predictions: "list[Prediction]", names: list[str], images: "ImageTable") -> None:
    """Writes the files that have been asked for. Raises UserError."""
    from alexnet_dist.training.predictions import confusion, confusion_csv, per_class_csv, predictions_csv

    names = distinct(names)
    if args.predictions:
        write_text(args.predictions, predictions_csv(predictions, names, images.title))
    counts = confusion(predictions, len(names))
    if args.per_class:
        write_text(args.per_class, per_class_csv(counts, names))
    if args.confusion:
        write_text(args.confusion, confusion_csv(counts, names))


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run_on_ranks(build_parser(), argv, body, needs_mpi=False)


if __name__ == "__main__":
    raise SystemExit(main())
