"""The flags of a training run, and the configuration that they and a TOML file make."""

import argparse
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.model.convolutions import MODES
from alexnet_dist.model.parameters import INITIALIZERS
from alexnet_dist.training.config import CROPS, GLOBAL_BATCH, TrainingConfig
from alexnet_dist.training.not_finite import ON_NAN
from alexnet_dist.training.optim import OPTIMIZERS, hyperparameter_owners
from alexnet_dist.training.schedule import SCHEDULERS
from alexnet_dist.training.strategies import sync_choices

DESCRIPTION = "Train AlexNet with NumPy on every rank of an MPI run."
EXAMPLES = """examples:
  mpirun -n 8 python -m alexnet_dist.train                          images.list in this folder, the paper's recipe
  mpirun -n 2 python -m alexnet_dist.train --data train.list --val val.list --epochs 20 --lr-scheduler cosine
  mpirun -n 2 python -m alexnet_dist.train --resume                 go on where the last checkpoint was written

exit codes: 0 finished, 2 bad input, 75 stopped by a signal after writing a checkpoint, other: a rank has died"""


class _Group:
    """A group of flags in --help. Each help text ends with the default that TrainingConfig has, if it has one."""

    def __init__(self, parser: cli.Parser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def __call__(self, *names: str, help: str, **options: Any) -> None:
        """As add_argument. A flag that is not given stays None, so that a --config file can set it."""
        default = getattr(TrainingConfig, names[0].removeprefix("--").replace("-", "_"))
        if default not in (None, "", ()):
            shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
            help = f"{help} (default: {shown})"
        self._group.add_argument(*names, help=help, **options)


def build_parser() -> cli.Parser:
    """The flags of alexnet-train, named like those of torchvision's reference script where both have them."""
    parser = cli.Parser("alexnet-train", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--config", metavar="TOML", help="a file with flags: a line `name = value`; the command line wins"
    )
    _add_data(_Group(parser, "data"))
    _add_network(_Group(parser, "network"))
    _add_optimisation(_Group(parser, "optimisation"))
    _add_learning_rate(_Group(parser, "learning rate"))
    _add_run(_Group(parser, "run"))
    return parser


def _add_data(add: _Group) -> None:
    yes_or_no = argparse.BooleanOptionalAction
    add("--data", metavar="LIST", help="`class_id image_path` a line")
    add("--val", metavar="LIST", help="validation images (default: hold out a share of --data)")
    add("--val-fraction", type=float, metavar="F", help="the share that is held out without --val")
    add("--class-names", metavar="FILE", help="one name a line (default: classes.txt beside --data, if there)")
    add("--num-classes", type=int, metavar="N", help="default: as many as --class-names, else the largest id + 1")
    add("--crop", choices=CROPS, help="training crops: random-resized, paper (256, then a random 224), none")
    add("--flip", action=yes_or_no, help="mirror every other training image")
    add("--color-noise", action=yes_or_no, help="the paper's noise along RGB's principal components")
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action=yes_or_no, help="a broken image is an error, not skipped and counted")
    add("--max-bad", type=float, metavar="F", help="give up when so large a share of the images is broken")


def _add_network(add: _Group) -> None:
    add("--image-size", type=int, metavar="PIXELS", help="width and height that the network sees")
    add("--width", type=float, metavar="F", help="factor of every hidden layer's width, for small nets")
    add("--dropout", type=float, metavar="P", help="probability before the first two fully connected layers")
    add("--init", choices=sorted(INITIALIZERS), help="initial weights: He et al., the paper's, torchvision's")
    add("--conv", choices=MODES, help="convolutions: the faster for each layer (auto), winograd or direct")
    add("--load-pretrained", "-load_pretrained", metavar="FILE", help="start from these weights (--resume has its own)")


def _add_optimisation(add: _Group) -> None:
    add("--epochs", "-epochs", type=int, metavar="N", help="passes over the training images")
    add("--global-batch", type=int, metavar="N", help=f"images a step over all ranks (default: {GLOBAL_BATCH})")
    add("--batch-size", "-batchsize", type=int, metavar="N", help="the same, said as images a step of each rank")
    add("--opt", choices=OPTIMIZERS, help="sgd with momentum; lars, for large batches; adamw")
    add("--lr", type=float, help="learning rate for the global batch, after warmup")
    add("--momentum", type=float, help="of the steps before" + _owners("momentum"))
    add("--weight-decay", type=float, help="added to the gradient; adamw: taken off the weights")
    add("--trust-coefficient", type=float, metavar="F", help="of each layer's rate" + _owners("trust_coefficient"))
    add("--beta1", type=float, help="decay of the gradients' mean" + _owners("beta1"))
    add("--beta2", type=float, help="decay of the squared gradients' mean" + _owners("beta2"))
    add("--eps", type=float, help="keeps steps finite where gradients are tiny" + _owners("eps"))
    add("--label-smoothing", type=float, metavar="F", help="share of the target that goes to all classes alike")
    add(
        "--on-nan",
        choices=ON_NAN,
        help="a loss or gradient that isn't finite ends the run, changes nothing, or leads back to the latest checkpoint",
    )


def _owners(field: str) -> str:
    """Which optimizers a hyperparameter belongs to, for --help."""
    return f" ({', '.join(hyperparameter_owners()[field])})"


def _add_learning_rate(add: _Group) -> None:
    add("--lr-scheduler", choices=SCHEDULERS, help="plateau: reduce when the validation error has stopped improving")
    add("--lr-gamma", type=float, metavar="F", help="plateau, step: a reduction multiplies by this")
    add("--lr-patience", type=int, metavar="N", help="plateau: epochs without improvement that are borne")
    add("--lr-reductions", type=int, metavar="N", help="plateau: stop at the plateau after so many")
    add("--lr-step-size", type=float, metavar="EPOCHS", help="step: epochs from one reduction to the next")
    add("--lr-power", type=float, help="polynomial: 1 is linear")
    add("--lr-min", type=float, metavar="LR", help="cosine, polynomial: the rate at the end")
    add("--lr-warmup-epochs", type=float, metavar="F", help="rise linearly for so long, may be a fraction")
    add("--lr-warmup-decay", type=float, metavar="F", help="warmup begins at this share of the rate")
    add("--lr-reference-batch", type=int, metavar="N", help="scale --lr by global batch / N (default: no scaling)")


def _add_run(add: _Group) -> None:
    add("--output-dir", metavar="DIR", help="checkpoints, log and metrics")
    add("--resume", nargs="?", const="", metavar="FILE", help="continue exactly (default: latest in --output-dir)")
    add("--save", "-save", metavar="FILE", help="also write the final weights here, as torchvision reads them")
    add("--save-every", type=int, metavar="STEPS", help="also checkpoint within epochs; 0: not")
    add("--keep", type=int, metavar="N", help="how many checkpoints to keep besides the best weights")
    add("--sample", nargs="+", metavar="IMAGE", help="log after each epoch what these images are taken for")
    add("--print-freq", type=int, metavar="STEPS", help="steps from one line of progress to the next")
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add(
        "--sync",
        choices=sync_choices(),
        help="how ranks share gradients: auto picks what sends least, measure what is fastest",
    )
    add("--timeline", metavar="FILE", help="at the end, write what each rank did when, as a trace for chrome://tracing")
    add("--seed", type=int, help="of initial weights, order, crops and dropout")


def parse_config(argv: Iterable[str]) -> TrainingConfig:
    """The configuration of a command line. Raises UserError."""
    return read_config(build_parser().parse_args(list(argv)))


def read_config(args: argparse.Namespace) -> TrainingConfig:
    """The configuration: defaults, then --config, then the flags that were given. Raises UserError."""
    in_file = _set_flags(build_parser().parse_args(_flags_in(Path(args.config)))) if args.config else {}
    on_command_line = _set_flags(args)
    if on_command_line.keys() & {"global_batch", "batch_size"}:  # alternatives: the command line's replaces the file's
        in_file = {name: value for name, value in in_file.items() if name not in ("global_batch", "batch_size")}
    return TrainingConfig.from_flags(in_file | on_command_line)


def _set_flags(args: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(args).items() if value is not None}


def _flags_in(file: Path) -> list[str]:
    """A TOML file's `name = value` as command-line flags, so that one parser checks both."""
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
