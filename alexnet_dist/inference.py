"""python -m alexnet_dist.inference: what is on these images? Needs no MPI."""

import argparse
import glob
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alexnet_dist import cli
from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.data.class_names import read_class_names
from alexnet_dist.data.decode import IMAGE_SUFFIXES, ImageError
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.predict import most_probable, predict
from alexnet_dist.runs import checkpoint
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import empty


def build_parser() -> cli.Parser:
    """The flags of alexnet-inference."""
    parser = cli.Parser(
        "alexnet-inference",
        "Classify images with a trained AlexNet.",
        "example: alexnet-inference --load runs/alexnet/best.safetensors --input photo.jpg --topk 3",
    )
    add = parser.add_argument
    add("--input", "-input", nargs="+", required=True, metavar="IMAGE", help="JPEG or PNG files, folders or globs")
    add("--load", "-load", required=True, metavar="FILE", help="a checkpoint, or weights saved by torchvision")
    add("--class-names", metavar="FILE", help="one name a line (default: those in the checkpoint)")
    add(
        "--topk",
        type=int,
        default=5,
        metavar="K",
        help="how many classes to print of each image (default: %(default)s)",
    )
    add("--batch-size", type=int, default=32, metavar="N", help="images in one pass (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads (default: one a core)")
    add("--json", action="store_true", help="print one JSON object a line for each image")
    return parser


def find_images(inputs: list[str]) -> list[Path]:
    """The files that the command line names. Raises UserError for a name that matches no image."""
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        try:
            if path.is_dir():
                matches = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            elif path.exists():
                matches = [path]
            else:
                matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        except OSError as error:
            raise UserError(f"--input {name}: {error.strerror}") from error
        if not matches:
            raise UserError(
                f"--input {name}: there is no such image, no image in that folder, or no match of that glob"
            )
        found += matches
    return found


def decoded(paths: list[Path], network: Network, batch: int) -> Iterator[tuple[list[Path], np.ndarray, list[str]]]:
    """Batches of readable images: their paths, their pixels [N, size, size, 3], and messages about the others."""
    size, interpolation = network.image_size, network.interpolation
    rows = empty((min(batch, len(paths)), size, size, 3))
    with ThreadPoolExecutor() as pool:
        for lo in range(0, len(paths), batch):
            names = paths[lo : lo + batch]
            tasks = [
                pool.submit(load_for_evaluation, name, size, row, interpolation)
                for name, row in zip(names, rows, strict=False)
            ]
            errors = [task.exception() for task in tasks]
            for error in errors:
                if error is not None and not isinstance(error, ImageError):
                    raise error
            good = [index for index, error in enumerate(errors) if error is None]
            yield (
                [names[index] for index in good],
                rows[good],
                [f"{n}: {e}" for n, e in zip(names, errors, strict=True) if e],
            )


def body(args: argparse.Namespace) -> int:
    """Prints the predictions; exit code 2 if an image could not be read, after all others have been classified."""
    cli.require_positive(args, "topk", "batch_size", "threads")
    paths = find_images(args.input)
    failed = 0
    with Team(args.threads) as team:
        header, flat = checkpoint.load_weights(Path(args.load))
        names = class_names(args, header)
        net = AlexNet(header.network, flat, min(args.batch_size, len(paths)), team)
        for batch, images, broken in decoded(paths, header.network, args.batch_size):
            for message in broken:
                print(f"alexnet-inference: {message}", file=sys.stderr)
            failed += len(broken)
            if batch:
                for path, probabilities in zip(batch, predict(net, images), strict=True):
                    show(path, probabilities, names, args)
    return 2 if failed else 0


def class_names(args: argparse.Namespace, header: checkpoint.Header) -> list[str]:
    """A name for each class: of --class-names, else of the checkpoint, else its number. Raises UserError."""
    classes = header.network.num_classes
    names = read_class_names(Path(args.class_names)) if args.class_names else header.class_names
    if names is not None and len(names) != classes:
        raise UserError(f"{args.class_names or args.load} names {len(names)} classes, the network has {classes}")
    return names or [str(number) for number in range(classes)]


def show(path: Path, probabilities: np.ndarray, names: list[str], args: argparse.Namespace) -> None:
    """Prints one image's most probable classes, as text or as a JSON object."""
    best = most_probable(probabilities, args.topk)
    if args.json:
        classes = [{"class_id": i, "class": names[i], "probability": float(probabilities[i])} for i in best]
        print(json.dumps({"image": str(path), "predictions": classes}))
        return
    print(path)
    for index in best:
        print(f"  {probabilities[index]:7.2%}  {names[index]}")


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
