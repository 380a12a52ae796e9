"""The flags of a training run, and the configuration that they and a TOML file make."""

import argparse
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.model.convolutions import MODES
from alexnet_dist.model.parameters import INITIALIZERS
from alexnet_dist.training.config import CROPS, GLOBAL_BATCH, INTERPOLATIONS, POLICIES, TrainingConfig
from alexnet_dist.training.not_finite import ON_NAN
from alexnet_dist.training.optim import OPTIMIZERS, hyperparameter_owners
from alexnet_dist.training.recipes import FOLDER, recipe_file, recipe_list
from alexnet_dist.training.schedule import SCHEDULERS
from alexnet_dist.training.screen import SCREENS
from alexnet_dist.training.strategies import sync_choices

DESCRIPTION = "Train AlexNet with NumPy on every rank of an MPI run."
EXAMPLES = """examples:
  mpirun -n 8 python -m alexnet_dist.train                          images.list in this folder, the paper's recipe
  mpirun -n 2 python -m alexnet_dist.train --data train.list --val val.list --epochs 20 --lr-scheduler cosine
  mpirun -n 2 python -m alexnet_dist.train --resume runs/alexnet    go on where the last checkpoint was written

exit codes: 0 finished, 2 bad input, 65 diverged, 69 stalled, 71 replicas parted, 74 storage failed, 75 stopped after writing
a checkpoint (--resume goes on), other: a rank has died"""

BATCHES = {"global_batch", "batch_size"}


class _Group:
    """A group of flags in --help. Each help text ends with the default that TrainingConfig has, if it has one."""

    def __init__(self, parser: cli.Parser, title: str, shown: bool) -> None:
        self._group, self._shown = parser.add_argument_group(title), shown

    def __call__(self, *names: str, help: str, **options: Any) -> None:
        """As add_argument. A flag that is not given stays None, so that a --config file can set it."""
        default = getattr(TrainingConfig, names[0].removeprefix("--").replace("-", "_"))
        if default not in (None, "", ()):
            shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
            help = f"{help} (default: {shown})"
        self._group.add_argument(*names, help=help if self._shown else argparse.SUPPRESS, **options)


def build_parser() -> cli.Parser:
    """The flags of alexnet-train, named like those of torchvision's reference script where both have them."""
    parser = cli.Parser("alexnet-train", DESCRIPTION, f"{EXAMPLES}\n\nrecipes (files in {FOLDER}):\n{recipe_list()}")
    add_flags(parser)
    return parser


def add_flags(parser: cli.Parser, shown: bool = True) -> None:
    """Adds alexnet-train's flags to a parser; whose help, if they aren't `shown`, doesn't explain them."""
    recipe = "flags of a recipe, see below; --config and the command line win over it"
    config = "a file with flags: a line `name = value`; the command line wins"
    for flag, metavar, text in (("--recipe", "NAME", recipe), ("--config", "TOML", config)):
        parser.add_argument(flag, metavar=metavar, help=text if shown else argparse.SUPPRESS)
    _add_data(_Group(parser, "data", shown))
    _add_network(_Group(parser, "network", shown))
    _add_optimisation(_Group(parser, "optimisation", shown))
    _add_learning_rate(_Group(parser, "learning rate", shown))
    _add_run(_Group(parser, "run", shown))
    _add_views(_Group(parser, "pictures of the run", shown))


def _add_data(add: _Group) -> None:
    yes_or_no = argparse.BooleanOptionalAction
    add(
        "--data",
        metavar="LIST",
        help="`class_id image_path` a line, or a folder: of shards, or with one folder a class (if images.list is in it, this)",
    )
    add(
        "--val",
        metavar="LIST",
        help="validation images, likewise (default: val.list beside --data, or val in it, if there)",
    )
    add(
        "--val-fraction",
        type=float,
        metavar="F",
        help="the share of --data that is held out (default: 0.1 if no others)",
    )
    add("--class-names", metavar="FILE", help="one name a line (default: classes.txt beside --data, if there)")
    add("--num-classes", type=int, metavar="N", help="default: as many as --class-names, else the largest id + 1")
    add(
        "--ignore-class-names",
        action=yes_or_no,
        help="a file's and validation images' classes are those of the list by number, whatever their names",
    )
    add("--crop", choices=CROPS, help="training crops: random-resized, paper (256, then a random 224), none")
    add("--flip", action=yes_or_no, help="mirror every other training image")
    add("--color-noise", action=yes_or_no, help="the paper's noise along RGB's principal components")
    add(
        "--color-jitter",
        nargs=4,
        type=float,
        metavar=("B", "C", "S", "H"),
        help="change brightness, contrast, saturation by up to this share, hue by up to H (at most 0.5) of the circle",
    )
    add("--auto-augment", choices=POLICIES, help="random operations: TrivialAugment Wide, or RandAugment (two)")
    add("--ra-magnitude", type=int, metavar="N", help="their strength in --auto-augment ra, 0 to 30")
    add("--random-erasing", type=float, metavar="P", help="probability of erasing a random rectangle")
    add("--mixup-alpha", type=float, metavar="A", help="mix images in pairs, by shares of Beta(A, A); 0: not")
    add("--interpolation", choices=INTERPOLATIONS, help="how images are scaled, in evaluation too")
    add("--workers", type=int, metavar="N", help="threads a rank that decode images (default: as --threads)")
    add("--strict", action=yes_or_no, help="a broken image is an error, not skipped and counted")
    add("--max-bad", type=float, metavar="F", help="give up when so large a share of the images is broken")
    add("--io-patience", type=float, metavar="SECONDS", help="how long to go on trying where storage fails")


def _add_network(add: _Group) -> None:
    add("--image-size", type=int, metavar="PIXELS", help="width and height that the network sees")
    add("--width", type=float, metavar="F", help="factor of every hidden layer's width, for small nets")
    add("--dropout", type=float, metavar="P", help="probability before the first two fully connected layers")
    add("--init", choices=sorted(INITIALIZERS), help="initial weights: He et al., the paper's, torchvision's")
    add("--conv", choices=MODES, help="convolutions: the faster for each layer (auto), winograd or direct")
    add(
        "--load-pretrained",
        "-load_pretrained",
        metavar="FILE",
        help="start from these weights, or a run's best; for another number of classes, with a new last layer "
        "(--resume has its own weights)",
    )
    add(
        "--freeze",
        metavar="LAYERS",
        help="leave layers as they are: features, all-but-last, or how many from the first on",
    )
    add("--head-lr-factor", type=float, metavar="F", help="the last layer's learning rate is so many times the others'")


def _add_optimisation(add: _Group) -> None:
    add("--epochs", "-epochs", type=int, metavar="N", help="passes over the training images")
    add("--global-batch", type=int, metavar="N", help=f"images a step over all ranks (default: {GLOBAL_BATCH})")
    add("--batch-size", "-batchsize", type=int, metavar="N", help="the same, said as images a step of each rank")
    add("--accumulate", type=int, metavar="N", help="compute a step's images in N parts, with the memory of one part")
    add("--opt", choices=OPTIMIZERS, help="sgd with momentum; lars, for large batches; adamw")
    add("--lr", type=float, help="learning rate for the global batch, after warmup")
    add("--momentum", type=float, help="of the steps before" + _owners("momentum"))
    add("--nesterov", action=argparse.BooleanOptionalAction, help="look ahead along it" + _owners("nesterov"))
    add("--weight-decay", type=float, help="added to the gradient; adamw: taken off the weights")
    owners = _owners("bias_weight_decay")
    add("--bias-weight-decay", type=float, metavar="F", help=f"of biases, if not as --weight-decay{owners}")
    add("--trust-coefficient", type=float, metavar="F", help="of each layer's rate" + _owners("trust_coefficient"))
    add("--beta1", type=float, help="decay of the gradients' mean" + _owners("beta1"))
    add("--beta2", type=float, help="decay of the squared gradients' mean" + _owners("beta2"))
    add("--eps", type=float, help="keeps steps finite where gradients are tiny" + _owners("eps"))
    add("--clip-grad-norm", type=float, metavar="X", help="scale the gradient of all weights to at most this L2 norm")
    add("--ema-decay", type=float, metavar="D", help="validate and save a moving average of the weights, such as 0.999")
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
    add("--lr-patience", type=int, metavar="N", help="plateau: validations without improvement that are borne")
    add("--lr-reductions", type=int, metavar="N", help="plateau: stop at the plateau after so many")
    add("--lr-step-size", type=float, metavar="EPOCHS", help="step: epochs from one reduction to the next")
    add("--lr-power", type=float, help="polynomial: 1 is linear")
    add("--lr-min", type=float, metavar="LR", help="cosine, polynomial: the rate at the end")
    add("--lr-warmup-epochs", type=float, metavar="F", help="rise linearly for so long, may be a fraction")
    add("--lr-warmup-decay", type=float, metavar="F", help="warmup begins at this share of the rate")
    add("--lr-reference-batch", type=int, metavar="N", help="scale --lr by global batch / N (default: no scaling)")


def _add_run(add: _Group) -> None:
    add("--output-dir", metavar="DIR", help="checkpoints, log and metrics")
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="continue exactly a run's folder or state (default: --output-dir), with its flags where none are given; "
        "auto: the newest whole state in --output-dir, or a new run",
    )
    add("--save", "-save", metavar="FILE", help="also write the final weights here, as torchvision reads them")
    add("--save-every", type=int, metavar="STEPS", help="also checkpoint within epochs; 0: not")
    add("--save-minutes", type=float, metavar="M", help="also checkpoint when so long has passed")
    add("--keep", type=int, metavar="N", help="how many checkpoints to keep besides the best weights")
    add("--sample", nargs="+", metavar="IMAGE", help="log after each epoch what these images are taken for")
    add(
        "--progress",
        choices=SCREENS,
        help="on a terminal a live view, elsewhere plain lines (auto); none: only epochs and what happens",
    )
    add("--print-freq", type=int, metavar="STEPS", help="a line of progress so often (default: some ten an epoch)")
    add("--summary", action=argparse.BooleanOptionalAction, help="show the table of layers, which the log's file has")
    add("--validate-every", type=int, metavar="EPOCHS", help="validate after so many epochs, and after the last")
    add("--threads", type=int, metavar="N", help="threads a rank (default: this node's cores shared by its ranks)")
    add(
        "--sync",
        choices=sync_choices(),
        help="how ranks share gradients: auto picks what sends least, measure what is fastest",
    )
    add(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        help="on one node: the same losses and weights, to the bit, on 1, 2, 4 and 8 ranks of any number of threads",
    )
    add(
        "--stall-timeout",
        type=float,
        metavar="SECONDS",
        help="end all ranks when one has not moved for so long, as where a host is gone; 0: never",
    )
    add(
        "--elastic",
        action=argparse.BooleanOptionalAction,
        help="go on without ranks that are lost: Open MPI with mpirun --with-ft ulfm, --sync allreduce",
    )
    add("--min-ranks", type=int, metavar="N", help="elastic: end when fewer are left")
    add("--timeline", metavar="FILE", help="at the end, write what each rank did when, as a trace for chrome://tracing")
    add("--seed", type=int, help="of initial weights, order, crops and dropout")


def _add_views(add: _Group) -> None:
    add(
        "--report",
        action=argparse.BooleanOptionalAction,
        help="at the end, write report.html, as alexnet-report does, if what that needs is installed",
    )
    add(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        help="also write steps and epochs as TensorBoard reads them, to tensorboard in --output-dir",
    )


def parse_config(argv: Iterable[str]) -> TrainingConfig:
    """The configuration of a command line. Raises UserError."""
    return read_config(build_parser().parse_args(list(argv)))


def read_config(args: argparse.Namespace) -> TrainingConfig:
    """The configuration: defaults, then --recipe, then --config, then the flags that were given. Raises UserError."""
    return TrainingConfig.from_flags(given_flags(args))


def given_flags(args: argparse.Namespace) -> dict[str, object]:
    """What --recipe, --config and the command line say, by the names of the configuration's fields. Raises UserError."""
    on_command_line = _set_flags(args)
    in_file = parsed(_values_in(Path(args.config)), f"--config {args.config}") if args.config else {}
    recipe = on_command_line.get("recipe", in_file.get("recipe"))
    in_recipe = parsed(_values_in(recipe_file(str(recipe))), f"--recipe {recipe}") if recipe else {}
    return layered(in_recipe, in_file, on_command_line)


def layered(*layers: Mapping[str, object]) -> dict[str, object]:
    """The flags of all layers, of which the later ones win."""
    values: dict[str, object] = {}
    for layer in layers:
        if layer.keys() & BATCHES:  # alternatives: one replaces the other
            values = {name: value for name, value in values.items() if name not in BATCHES}
        values |= layer
    return values


def parsed(values: Mapping[str, object], where: str = "") -> dict[str, object]:
    """Values by their flags' names, as command-line flags, so that one parser checks all. Raises UserError."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if flag in ("help", "version", "config"):
            raise UserError(f"{where} has {name!r}, which belongs on the command line: take it out")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            if taken := [item for item in value if isinstance(item, str) and item.startswith("-")]:
                raise UserError(
                    f"{where} has {taken[0]!r} in {name!r}, which begins as a flag does: write ./{taken[0]}"
                )
            flags += [f"--{flag}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return _set_flags(build_parser().parse_args(flags))


def _set_flags(args: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(args).items() if value is not None}


def _values_in(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--config {file} can't be read: {error}") from error
