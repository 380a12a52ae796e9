"""python -m alexnet_dist.inference: what is on these images, where does it show, what does a layer yield? Needs no MPI."""

import argparse
import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_dist import cli
from alexnet_dist.data.augment import CROPS, seen
from alexnet_dist.data.class_names import match_classes, read_class_names
from alexnet_dist.data.decode import ImageError, decode
from alexnet_dist.data.decoded import Decoded
from alexnet_dist.data.folders import images_below
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.explain import EXPLAINERS
from alexnet_dist.model.predict import LAYERS, most_probable
from alexnet_dist.pictures.heat import overlaid
from alexnet_dist.pictures.sheet import MOST, Entry, sheet, side
from alexnet_dist.predictor import Predictor
from alexnet_dist.support.files import check_writable, replacing, write_text
from alexnet_dist.support.npy import RowsWriter
from alexnet_dist.support.plural import plural
from alexnet_dist.support.readable_json import dump_json
from alexnet_dist.support.tracking import track, tracking


def build_parser() -> cli.Parser:
    """The flags of alexnet-inference."""
    parser = cli.Parser(
        "alexnet-inference",
        "Classify images with a trained AlexNet, or write what one of its layers yields for them.",
        "example: alexnet-inference --load runs/alexnet/best.safetensors --input photo.jpg --topk 3",
    )
    add = parser.add_argument
    add(
        "--input",
        "-input",
        nargs="+",
        required=True,
        metavar="IMAGE",
        help="JPEG or PNG files, globs, or folders with all below them but hidden files",
    )
    cli.add_load(parser)
    add("--class-names", metavar="FILE", help="one name a line (default: those in the checkpoint)")
    add("--ignore-class-names", action="store_true", help="take --class-names by number, whatever the checkpoint's are")
    add(
        "--topk",
        type=int,
        default=5,
        metavar="K",
        help="how many classes to print of each image (default: %(default)s)",
    )
    add("--ten-crop", action="store_true", help="mean probabilities of corners, centre and their mirror images")
    add("--features", choices=LAYERS, metavar="LAYER", help=f"write this layer's activations: {', '.join(LAYERS)}")
    add(
        "--output", type=Path, metavar="FILE.npy", help="where to write them: a row an image, whose path is in FILE.txt"
    )
    _add_explain(parser)
    add("--batch-size", type=int, default=32, metavar="N", help="images in one pass (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads (default: one a core)")
    add("--json", action="store_true", help="print one JSON object a line for each image")
    return parser


def _add_explain(parser: cli.Parser) -> None:
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FILE.png",
        help=f"draw where the network has looked, beside the image (of up to {MOST} images)",
    )
    parser.add_argument(
        "--explain-by",
        choices=EXPLAINERS,
        metavar="HOW",
        help="how to find that: grad-cam (default), from the gradient at the last convolution, or occlusion, hiding each part",
    )


def find_images(inputs: list[str]) -> list[str]:
    """The files that the command line names. Raises UserError for a name that matches no image."""
    found: list[str] = []
    for name in inputs:
        try:
            if Path(name).is_dir():
                matches = images_below(name)
            elif Path(name).exists():
                matches = [name]
            else:
                matches = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())
        except OSError as error:
            raise UserError(f"--input {name}: {error.strerror}") from error
        if not matches:
            raise UserError(
                f"--input {name}: there is no such image, no image in that folder, or no match of that glob"
            )
        found += matches
    return found


def body(args: argparse.Namespace) -> int:
    """Prints or writes the results; exit code 2 if an image could not be read, after all others have had their turn."""
    cli.require_positive(args, "topk", "batch_size", "threads")
    if (args.features is None) != (args.output is None):
        raise UserError("--features LAYER and --output FILE.npy need each other")
    if args.features and args.ten_crop:
        raise UserError("--features are those of the central crop; leave --ten-crop out")
    if args.explain_by and not args.explain:
        raise UserError("--explain-by says how, --explain FILE.png where to")
    if args.explain and (args.features or args.ten_crop):
        raise UserError("--explain is of the classes of the central crop; leave --features and --ten-crop out")
    if args.explain and args.explain.suffix.lower() != ".png":
        raise UserError(f"--explain {args.explain} must end in .png")
    if args.output and args.output.suffix != ".npy":
        raise UserError(f"--output {args.output} must end in .npy; the images' paths go to the same name in .txt")
    paths = find_images(args.input)
    crops = CROPS if args.ten_crop else 1
    with Predictor(args.load, batch_size=min(args.batch_size, crops * len(paths)), threads=args.threads) as net:
        return write_features(net, paths, args) if args.features else classify(net, paths, args)


def classify(net: Predictor, paths: list[str], args: argparse.Namespace) -> int:
    """Prints the most probable classes of each image; returns the exit code."""
    wanted = read_class_names(Path(args.class_names)) if args.class_names else None
    trained = None if args.ignore_class_names and wanted else net.class_names
    names, order = match_classes(trained, wanted, net.network.num_classes, args.load)
    if args.explain:
        check_writable(args.explain)
    parts = Readable(net, paths, args.ten_crop)
    held: list[str] = []  # with --explain, until that is written: who reads the results may leave before their end
    to_explain: list[Told] = []
    for part in parts:
        logits = net.logits(part, ten_crop=args.ten_crop)
        results = []
        for index, row in zip(part.indices, softmax(logits if order is None else logits[:, order]), strict=True):
            results.append(shown(paths[index], row, names, args))
            if args.explain and len(to_explain) < MOST:
                best = most_probable(row, 1)[0]
                label = best if order is None else order[best]
                to_explain.append(Told(paths[index], label, f"{names[best]}  {row[best]:.1%}"))
        if args.explain:
            held += results
        else:
            print("\n".join(results))
    if args.explain:
        try:
            what = explain(net, to_explain, len(parts.read), args)
        finally:
            print("\n".join(held), flush=True)
        print(what, file=sys.stderr if args.json else sys.stdout)  # with --json, stdout is for programs
    return parts.code


class Told(NamedTuple):
    """What was told of an image: the network's number of the class, and the class in words."""

    path: str
    label: int
    text: str


def explain(net: Predictor, told: list[Told], count: int, args: argparse.Namespace) -> str:
    """Draws where the network has looked, in the first of `count` images; says so. Raises UserError for none."""
    if not told:
        raise UserError(f"no image could be read, so {args.explain} is not written")
    by, edge = args.explain_by or next(iter(EXPLAINERS)), side(len(told))
    entries = []
    for path, label, text in track(told, "explaining"):
        try:
            picture = decode(path)
        except ImageError as error:  # read before, but gone meanwhile
            raise UserError(f"{printable(path)} {error}") from error
        explained = net.explained(next(net.decode([picture])), [label], by)
        crop = seen(*picture.size, net.network.image_size)
        small = picture.resize([max(1, round(extent * edge / max(picture.size))) for extent in picture.size])
        entries.append(Entry(small, overlaid(small, explained.over(0, *small.size, crop)), printable(path), text))
    with replacing(args.explain) as temporary:
        sheet(entries).save(temporary, "PNG")
    which = plural(count, "image") if count == len(told) else f"the first {len(told)} of {count} images"
    return f"{args.explain}: where the network has looked ({by}) in {which}"


def write_features(net: Predictor, paths: list[str], args: argparse.Namespace) -> int:
    """Writes a layer's activations, and the paths of the images that they are of; returns the exit code."""
    output: Path = args.output
    parts = Readable(net, paths)
    with replacing(output) as temporary, open(temporary, "w+b") as file:
        writer = RowsWriter(file)
        for part in parts:
            writer.add(net.activations(part, args.features))
        if not parts.read:
            raise UserError(f"none of the images could be read, so {output} is not written")
        writer.finish()
        write_text(output.with_suffix(".txt"), "".join(f"{printable(path)}\n" for path in parts.read))
    print(f"{output}: {args.features} of {plural(writer.count, 'image')}, named in {output.with_suffix('.txt')}")
    return parts.code


class Readable:
    """The batches of images that can be read; says of each other image, on stderr, what is wrong with it, and shows how far
    it has come."""

    def __init__(self, net: Predictor, paths: list[str], ten_crop: bool = False) -> None:
        self._net, self._paths, self._ten_crop = net, paths, ten_crop
        self.read: list[str] = []  # the paths of the images so far

    def __iter__(self) -> Iterator[Decoded]:
        seen, total = 0, len(self._paths)
        with tracking("images") as tracker:
            for part in self._net.decode(self._paths, ten_crop=self._ten_crop):
                for index, problem in part.problems.items():
                    print(f"alexnet-inference: {printable(self._paths[index])}: {problem}", file=sys.stderr)
                self.read += [self._paths[index] for index in part.indices]
                if part.indices:
                    yield part
                seen += len(part.indices) + len(part.problems)
                tracker(seen, total)

    @property
    def code(self) -> int:
        """The exit code, once all have been read: 2 if one could not be."""
        return 0 if len(self.read) == len(self._paths) else 2


def printable(path: str) -> str:
    """A path for output in UTF-8: bytes of its name that aren't appear as \\xff."""
    return os.fsencode(path).decode(errors="backslashreplace")


def shown(path: str, probabilities: np.ndarray, names: list[str], args: argparse.Namespace) -> str:
    """One image's most probable classes, as text or as a JSON object."""
    best = most_probable(probabilities, args.topk)
    if args.json:
        classes = [{"class_id": i, "class": names[i], "probability": float(probabilities[i])} for i in best]
        return dump_json({"image": printable(path), "predictions": classes})
    return "\n".join([printable(path), *(f"  {probabilities[index]:7.2%}  {names[index]}" for index in best)])


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
