"""`python -m alexnet_dist.prepare`: writes the lists that training and evaluation read."""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dist import cli
from alexnet_dist.data.decode import IMAGE_SUFFIXES
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.pack import pack, unpack, write_index
from alexnet_dist.support.files import replacing, write_text
from alexnet_dist.support.randomness import Purpose, generator

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_ATTRIBUTION = """\
These images are the handwritten digits that scikit-learn ships (sklearn.datasets.load_digits), which are the test part of:
  E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
  https://doi.org/10.24432/C50P49
Licence: Creative Commons Attribution 4.0 International, https://creativecommons.org/licenses/by/4.0/
Changes: enlarged from 8x8 pixels by bicubic interpolation, values scaled from 0..16 to 0..255, saved as PNG.
"""

DESCRIPTION = """\
Writes images.list, val.list and classes.txt, which training and evaluation read. A line of a list is
`class_id image_path`; classes.txt has the name of class 0 on its first line, and so on."""

EXAMPLES = """\
examples:
  A folder with one folder of images a class; a tenth of each class becomes validation:
    alexnet-prepare folder flowers --output flowers-lists
  ImageNet, with its own validation images sorted into folders of the same names:
    alexnet-prepare folder imagenet/train --val-dir imagenet/val --output lists
  A million small files are slow to read on many file systems; tar files of some hundred megabytes are not:
    alexnet-prepare pack lists/images.list --output train-shards
  1797 handwritten digits to try the trainer with (needs scikit-learn):
    alexnet-prepare digits --output digits-demo
"""

FOLDER_HELP = "list the images of a folder that holds one folder of images a class"
DIGITS_HELP = "write scikit-learn's handwritten digits as images, to try the trainer with"

PACK_HELP = "pack the images of a list into tar shards (WebDataset's layout) with an index"
UNPACK_HELP = "write the images of shards as files again, with a list"
INDEX_HELP = "write the index of shards in WebDataset's layout that others have made"

Entry = tuple[int, Path]  # class id, image


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 0, or 2 after a user's mistake, which it prints to stderr."""
    return cli.run(build_parser(), argv, _run)


def _run(args: argparse.Namespace) -> int:
    if args.command == "folder":
        prepare_folder(
            args.source,
            args.output,
            val_dir=args.val_dir,
            val_fraction=args.val_fraction,
            seed=args.seed,
            force=args.force,
        )
    elif args.command == "pack":
        pack(args.source, args.output, args.shard_size, args.force)
    elif args.command == "unpack":
        unpack(args.source, args.output, args.force)
    elif args.command == "index":
        write_index(args.source)
    else:
        prepare_digits(args.output, args.size, args.seed)
    return 0


def prepare_folder(
    source: Path,
    output: Path,
    *,
    val_dir: Path | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Lists the images of `source`, which holds a folder a class: sorted by name, the folders are classes 0, 1, ...

    Validation images are those of `val_dir`, in folders of the same names, or a share of each class. Paths are relative
    to `output` where the images lie in it, absolute otherwise. Prints what it found. Raises UserError.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must lie between 0 and 1, not be {val_fraction}")
    existing = [name for name in ("images.list", "val.list", "classes.txt") if (output / name).exists()]
    if existing and not force:
        raise UserError(
            f"{output} already has {', '.join(existing)}; choose another --output, or overwrite with --force"
        )
    classes = _class_folders(source)
    train = _find_images(source, classes)
    if not train:
        raise UserError(f"the class folders of {source} hold no image ({', '.join(IMAGE_SUFFIXES)})")
    if val_dir is None:
        train, val = _split(train, (val_fraction,), seed)
    else:
        unknown = sorted(set(_class_folders(val_dir)) - set(classes))
        if unknown:
            raise UserError(f"{val_dir} has the folder {unknown[0]!r}, which is no class: {source} has no such folder")
        val = _find_images(val_dir, classes)
        if not val:
            raise UserError(
                f"the class folders of {val_dir} hold no image; leave --val-dir out to split {source} instead"
            )
    _write_lists(output, {"images.list": train, "val.list": val}, classes)


def prepare_digits(output: Path, size: int = 224, seed: int = 0) -> None:
    """Writes scikit-learn's 1797 handwritten digits as size x size PNG files, and lists of 80, 10 and 10 % of them.

    Running it again changes nothing. Raises UserError if scikit-learn is missing, or if `output` has other lists.
    """
    folder, attribution = output / "digits", output / "digits" / "ATTRIBUTION.txt"
    if size < 8:
        raise UserError(f"--size must be at least 8 pixels, not {size}")
    if (output / "images.list").exists() and not attribution.exists():
        raise UserError(f"{output} has an images.list of other images; choose another --output")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn; install it: pip install 'alexnet_dist[demo]'") from None
    digits = load_digits()
    write_text(attribution, DIGITS_ATTRIBUTION)
    entries = []
    for number, (label, pixels) in enumerate(zip(digits.target.tolist(), digits.images, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))
        _write_png(path, image.resize((size, size), Image.Resampling.BICUBIC))
        entries.append((label, path))
    train, val, test = _split(entries, (0.1, 0.1), seed)
    _write_lists(output, {"images.list": train, "val.list": val, "test.list": test}, DIGIT_NAMES)


def _write_png(path: Path, image: Image.Image) -> None:
    """Writes the file unless it is there already. The next run repairs a file that an interruption has left incomplete.

    So files need not be flushed to the disk one by one, which would take longer than everything else.
    """
    content = BytesIO()
    image.save(content, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content.getvalue():
            path.write_bytes(content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _class_folders(source: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(source) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"can't look into the folder {source}: {error.strerror}") from error
    if not names:
        raise UserError(f"{source} holds no folders; put the images of each class into a folder of their own in it")
    return names


def _find_images(source: Path, classes: Sequence[str]) -> list[Entry]:
    """Every image below source/class, in sorted order. Hidden files are left out: macOS puts ._x.jpg beside x.jpg."""

    def refuse(error: OSError) -> None:
        # A class may be missing from the validation images, but a folder that can't be read is not an empty one.
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"can't look into the folder {error.filename}: {error.strerror}") from error

    found = []
    for label, name in enumerate(classes):
        for folder, folders, files in os.walk(source / name, onerror=refuse):
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
            images = (file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."))
            found += [(label, Path(folder, image)) for image in sorted(images)]
    return found


def _split(entries: Sequence[Entry], fractions: Sequence[float], seed: int) -> list[list[Entry]]:
    """Takes a random share of every class for each fraction. Returns the remaining entries, then the shares, in order.

    A share has at least one image of a class, unless that would leave none to the remaining entries.
    """
    rng = generator(seed, Purpose.HOLD_OUT)
    labels = np.array([label for label, _ in entries])
    part = np.zeros(len(entries), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        start = 0
        for number, fraction in enumerate(fractions, 1):
            count = min(max(round(fraction * len(members)), 1), len(members) - 1 - start)
            part[members[start : start + count]] = number
            start += count
    return [
        [entry for entry, part_of_entry in zip(entries, part, strict=True) if part_of_entry == number]
        for number in range(len(fractions) + 1)
    ]


def _write_lists(output: Path, lists: dict[str, list[Entry]], classes: Sequence[str]) -> None:
    contents = {name: b"".join(_lines(output, entries)) for name, entries in lists.items()}
    contents["classes.txt"] = b"".join(os.fsencode(name) + b"\n" for name in classes)
    for name, content in contents.items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    for name, entries in lists.items():
        counts = np.bincount([label for label, _ in entries], minlength=len(classes))
        each = f"{counts.min()} to {counts.max()} of each of {len(classes)} classes"
        print(f"{output / name}: {len(entries)} images, {each}")
        empty = [class_name for class_name, count in zip(classes, counts, strict=True) if count == 0]
        if empty:
            print(f"  none of {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")


def _lines(output: Path, entries: Iterable[Entry]) -> Iterator[bytes]:
    base = output.resolve()
    for label, path in entries:
        absolute = Path(os.path.abspath(path))
        name = os.fsencode(absolute.relative_to(base) if absolute.is_relative_to(base) else absolute)
        if b"\n" in name or name != name.strip():
            raise UserError(f"{os.fsdecode(name)!r} begins or ends with white space or holds a line break; rename it")
        yield b"%d %s\n" % (label, name)


def build_parser() -> cli.Parser:
    parser = cli.Parser("alexnet-prepare", DESCRIPTION, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    folder = commands.add_parser("folder", help=FOLDER_HELP, description=FOLDER_HELP)
    folder.add_argument("source", type=Path, metavar="SOURCE", help="holds one folder a class, of JPEG and PNG files")
    validation = folder.add_mutually_exclusive_group()
    validation.add_argument(
        "--val-dir", type=Path, metavar="DIR", help="validation images, in folders of the same names"
    )
    validation.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="else, this share of each class (default: %(default)s)",
    )
    folder.add_argument("--force", action="store_true", help="overwrite lists that exist")

    digits = commands.add_parser("digits", help=DIGITS_HELP, description=DIGITS_HELP)
    digits.add_argument("--size", type=int, default=224, help="width and height in pixels (default: %(default)s)")

    _add_shard_commands(commands)
    for command in (folder, digits):
        command.add_argument(
            "--output", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)"
        )
        command.add_argument("--seed", type=int, default=0, help="of the random split (default: %(default)s)")
    return parser


def _add_shard_commands(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
    packing = commands.add_parser("pack", help=PACK_HELP, description=PACK_HELP)
    packing.add_argument("source", type=Path, metavar="LIST_OR_FOLDER", help="what --data of the training takes")
    packing.add_argument(
        "--shard-size", type=int, default=256, metavar="MB", help="of a tar file (default: %(default)s)"
    )
    unpacking = commands.add_parser("unpack", help=UNPACK_HELP, description=UNPACK_HELP)
    unpacking.add_argument("source", type=Path, metavar="DIR", help="holds the shards and their index")
    for command in (packing, unpacking):
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write")
        command.add_argument("--force", action="store_true", help="overwrite what is there")
    indexing = commands.add_parser("index", help=INDEX_HELP, description=INDEX_HELP)
    indexing.add_argument("source", type=Path, metavar="DIR", help="holds the shards; the index goes there, too")


if __name__ == "__main__":
    raise SystemExit(main())
