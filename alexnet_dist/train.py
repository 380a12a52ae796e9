"""python -m alexnet_dist.train: train AlexNet on all ranks of this MPI run."""

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.model.convolutions import MODES
from alexnet_dist.model.parameters import INITIALIZERS
from alexnet_dist.training.config import CROPS, SYNCS, TrainingConfig
from alexnet_dist.training.schedule import SCHEDULERS

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World

EXAMPLES = """examples:
  mpirun -n 8 python -m alexnet_dist.train                          images.list in this folder, the paper's recipe
  mpirun -n 2 python -m alexnet_dist.train --data train.list --val val.list --epochs 20 --lr-scheduler cosine
  mpirun -n 2 python -m alexnet_dist.train --resume                 go on where the last checkpoint was written

exit codes: 0 finished, 2 bad input, 75 stopped by a signal after writing a checkpoint, other: a rank has died"""


def build_parser() -> cli.Parser:
    """The flags of alexnet-train, under torchvision's reference names where both have one."""
    parser = cli.Parser("alexnet-train", "Train AlexNet with NumPy on every rank of an MPI run.", EXAMPLES)
    add = parser.add_argument
    add("--config", metavar="TOML", help="a file with flags: one `name = value` a line; the command line wins")

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="LIST", help="`class_id image_path` a line (default: images.list)")
    add("--val", metavar="LIST", help="validation images (default: hold out a share of --data)")
    add("--val-fraction", type=float, metavar="F", help="the share that is held out without --val (default: 0.1)")
    add("--class-names", metavar="FILE", help="one name a line (default: classes.txt beside --data, if there)")
    add("--num-classes", type=int, metavar="N", help="default: as many as --class-names, else the largest id + 1")
    add("--crop", choices=CROPS, help="training crops: random-resized (default), paper (256, then a random 224), none")
    add("--flip", action=argparse.BooleanOptionalAction, help="mirror every other training image (default: yes)")
    add(
        "--color-noise",
        action=argparse.BooleanOptionalAction,
        help="the paper's noise along RGB's principal components",
    )
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action=argparse.BooleanOptionalAction, help="a broken image is an error, not skipped and counted")
    add(
        "--max-bad",
        type=float,
        metavar="F",
        help="give up when so large a share of the images is broken (default: 0.1)",
    )

    add = parser.add_argument_group("network").add_argument
    add("--image-size", type=int, metavar="PIXELS", help="default: 224")
    add("--width", type=float, metavar="F", help="factor of every hidden layer's width, for small nets (default: 1)")
    add("--dropout", type=float, metavar="P", help="default: 0.5")
    add("--init", choices=sorted(INITIALIZERS), help="initial weights: He et al. (default), the paper's, torchvision's")
    add("--conv", choices=MODES, help="convolutions: the faster for each layer (default: auto), winograd or direct")
    add("--load-pretrained", "-load_pretrained", metavar="FILE", help="start from these weights (--resume has its own)")

    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", "-epochs", type=int, metavar="N", help="default: 90")
    add("--global-batch", type=int, metavar="N", help="images a step over all ranks (default: 128)")
    add("--batch-size", "-batchsize", type=int, metavar="N", help="the same, said as images a step of each rank")
    add("--lr", type=float, help="learning rate for the global batch, after warmup (default: 0.01)")
    add("--momentum", type=float, help="default: 0.9")
    add("--weight-decay", type=float, help="default: 0.0005")
    add("--label-smoothing", type=float, metavar="F", help="default: 0")

    add = parser.add_argument_group("learning rate").add_argument
    add("--lr-scheduler", choices=SCHEDULERS, help="default: plateau (the validation error has stopped improving)")
    add("--lr-gamma", type=float, metavar="F", help="plateau, step: a reduction multiplies by this (default: 0.1)")
    add("--lr-patience", type=int, metavar="N", help="plateau: epochs without improvement that are borne (default: 5)")
    add("--lr-reductions", type=int, metavar="N", help="plateau: stop at the plateau after so many (default: 3)")
    add(
        "--lr-step-size", type=float, metavar="EPOCHS", help="step: epochs from one reduction to the next (default: 30)"
    )
    add("--lr-power", type=float, help="polynomial: default 1, linear")
    add("--lr-min", type=float, metavar="LR", help="cosine, polynomial: the rate at the end (default: 0)")
    add("--lr-warmup-epochs", type=float, metavar="F", help="rise linearly for so long, may be a fraction (default: 0)")
    add("--lr-warmup-decay", type=float, metavar="F", help="warmup begins at this share of the rate (default: 0.01)")
    add("--lr-reference-batch", type=int, metavar="N", help="scale --lr by global batch / N (default: no scaling)")

    add = parser.add_argument_group("run").add_argument
    add("--output-dir", metavar="DIR", help="checkpoints, log and metrics (default: runs/alexnet)")
    add("--resume", nargs="?", const="", metavar="FILE", help="continue exactly (default: latest in --output-dir)")
    add("--save", "-save", metavar="FILE", help="also write the final weights here, as torchvision reads them")
    add("--save-every", type=int, metavar="STEPS", help="also checkpoint within epochs (default: 0, no)")
    add("--keep", type=int, metavar="N", help="how many checkpoints to keep besides the best weights (default: 3)")
    add("--sample", nargs="+", metavar="IMAGE", help="log after each epoch what these images are taken for")
    add("--print-freq", type=int, metavar="STEPS", help="steps from one line of progress to the next (default: 10)")
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add(
        "--sync",
        choices=SYNCS,
        help="how ranks share gradients: auto (default) measures which of the others is fastest",
    )
    add("--timeline", metavar="FILE", help="at the end, write what each rank did when, as a trace for chrome://tracing")
    add("--seed", type=int, help="of initial weights, order, crops and dropout (default: 0)")
    return parser


def read_config(args: argparse.Namespace) -> TrainingConfig:
    """The configuration: defaults, then --config, then the flags that were given. Raises UserError."""
    values = _given(build_parser().parse_args(_flags_in(Path(args.config)))) if args.config else {}
    given = _given(args)
    if given.keys() & {"global_batch", "batch_size"}:  # two flags for one thing: the command line's wins here too
        values = {name: value for name, value in values.items() if name not in ("global_batch", "batch_size")}
    return TrainingConfig.from_flags(values | given)


def _given(args: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(args).items() if value is not None}


def _flags_in(file: Path) -> list[str]:
    """A TOML file's `name = value` as command-line flags, so that one parser judges both."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {file} can't be read: {error}") from error
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags.append(f"--{flag}={value}")
    return flags


def body(world: "World", args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    # Here and not above: --help needs no MPI.
    from alexnet_dist.training.trainer import Trainer

    with world.together():
        config = read_config(args)
    with Trainer(config, world) as trainer:
        return trainer.run()


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run_on_ranks(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
