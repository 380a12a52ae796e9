"""`python -m alexnet_dist.prepare`: writes the lists that training and evaluation read."""

import argparse
import sys
from pathlib import Path

from alexnet_dist import cli
from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.class_names import read_class_names
from alexnet_dist.preparation.digits import prepare_digits
from alexnet_dist.preparation.folder import prepare_folder
from alexnet_dist.preparation.idx import prepare_idx
from alexnet_dist.preparation.imagenet import JPEG_QUALITY, prepare_imagenet
from alexnet_dist.preparation.known_names import KNOWN_NAMES
from alexnet_dist.preparation.pack import pack, unpack, write_index

DESCRIPTION = """\
Writes images.list, val.list and classes.txt, which training and evaluation read. A line of a list is
`class_id image_path`; classes.txt has the name of class 0 on its first line, and so on."""

EXAMPLES = """\
examples:
  A folder with one folder of images a class; a tenth of each class becomes validation:
    alexnet-prepare folder flowers --output flowers-lists
  ImageNet, from the archives ILSVRC2012_*.tar or a tree of folders, the short sides 256 pixels long, on 4 ranks:
    mpirun -n 4 alexnet-prepare imagenet downloads --size 256 --output imagenet
  Fashion-MNIST, from its files or Debian's package dataset-fashion-mnist:
    alexnet-prepare idx /usr/share/datasets/fashion-mnist --names fashion-mnist --output fashion
  A million small files are slow to read on many file systems; tar files of some hundred megabytes are not:
    alexnet-prepare pack lists/images.list --output train-shards
  1797 handwritten digits to try the trainer with (needs scikit-learn):
    alexnet-prepare digits --output digits-demo
"""

FOLDER_HELP = "list the images of a folder that holds one folder of images a class"
IDX_HELP = "write the images of IDX files (MNIST, Fashion-MNIST) as PNG files"
IMAGENET_HELP = "write the images of ILSVRC2012's archives, or list those of a tree of folders"
DIGITS_HELP = "write scikit-learn's handwritten digits as images, to try the trainer with"

PACK_HELP = "pack the images of a list into tar shards (WebDataset's layout) with an index"
UNPACK_HELP = "write the images of shards as files again, with a list"
INDEX_HELP = "write the index of shards in WebDataset's layout that others have made"


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 0, or 2 after a user's mistake, which it prints to stderr."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["imagenet"] and not cli.ABOUT & set(argv):
        return cli.run_on_ranks(build_parser(), argv, _run_imagenet, needs_mpi=False)
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
    elif args.command == "idx":
        names = read_class_names(args.class_names) if args.class_names else KNOWN_NAMES.get(args.names)
        prepare_idx(args.source, args.output, names, args.force, args.border)
    elif args.command == "pack":
        pack(args.source, args.output, args.shard_size, args.force)
    elif args.command == "unpack":
        unpack(args.source, args.output, args.force)
    elif args.command == "index":
        write_index(args.source)
    else:
        prepare_digits(args.output, args.size, args.seed, args.force)
    return 0


def _run_imagenet(ranks: Ranks, args: argparse.Namespace) -> int:
    prepare_imagenet(args.source, args.output, ranks, args.size, args.force)
    return 0


def build_parser() -> cli.Parser:
    """The flags of alexnet-prepare."""
    parser = cli.Parser("alexnet-prepare", DESCRIPTION, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    folder = commands.add_parser("folder", help=FOLDER_HELP, description=FOLDER_HELP)
    idx = commands.add_parser("idx", help=IDX_HELP, description=IDX_HELP)
    imagenet = commands.add_parser("imagenet", help=IMAGENET_HELP, description=IMAGENET_HELP)
    digits = commands.add_parser("digits", help=DIGITS_HELP, description=DIGITS_HELP)
    _add_folder_flags(folder)
    _add_idx_flags(idx)
    _add_imagenet_flags(imagenet)
    _add_shard_commands(commands)
    digits.add_argument("--size", type=int, default=224, help="width and height in pixels (default: %(default)s)")
    for command in (folder, digits):
        command.add_argument("--seed", type=int, default=0, help="of the random split (default: %(default)s)")
    for command in (folder, idx, imagenet, digits):
        command.add_argument(
            "--output", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)"
        )
        command.add_argument("--force", action="store_true", help="overwrite lists of other images")
    return parser


def _add_folder_flags(folder: argparse.ArgumentParser) -> None:
    folder.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="holds one folder a class, of JPEG and PNG files; or train/ and val/, which do",
    )
    validation = folder.add_mutually_exclusive_group()
    validation.add_argument(
        "--val-dir", type=Path, metavar="DIR", help="validation images, in folders of the same names"
    )
    validation.add_argument(
        "--val-fraction",
        type=float,
        metavar="SHARE",
        help="else, this share of each class (default: val/ where SOURCE holds train/ and val/, else 0.1)",
    )


def _add_idx_flags(idx: argparse.ArgumentParser) -> None:
    idx.add_argument(
        "--border",
        type=int,
        default=0,
        metavar="PIXELS",
        help="black pixels around each image; 2 for MNIST's 28, of which the central crop then leaves out nothing "
        "(default: %(default)s)",
    )
    idx.add_argument(
        "source",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="a folder that holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte, each with .gz or without; or these four files, in this order",
    )
    names = idx.add_mutually_exclusive_group()
    names.add_argument("--names", choices=sorted(KNOWN_NAMES), help="names of the classes (default: 0, 1, ...)")
    names.add_argument("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")


def _add_imagenet_flags(imagenet: argparse.ArgumentParser) -> None:
    imagenet.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="holds the archives ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz; or "
        "train/ and val/ with a folder n01440764 a class; or Kaggle's ILSVRC/ with its LOC_ files",
    )
    imagenet.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help=f"shrink images to this short side, as JPEG of quality {JPEG_QUALITY} (default: leave them as they are)",
    )


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
