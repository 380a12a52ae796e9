"""What the programs share on the command line: one message without traceback, exit code 2 for bad input, all ranks end."""

import argparse
import difflib
import os
import platform
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_dist import __version__
from alexnet_dist.errors import BAD_INPUT, SharedError, UserError
from alexnet_dist.support.starting import BY_ONE_COMMAND, has_started

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World

ABOUT = {"-h", "--help", "--version"}  # what a program answers without doing anything
INTERRUPTED = 130  # by Ctrl-C: 128 and the signal's number, as in a shell


class Parser(argparse.ArgumentParser):
    """argparse that raises UserErrors, so that a wrong flag is reported once for all ranks; without abbreviations."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None, **options: Any) -> None:
        super().__init__(
            prog=prog.replace("-", " ", 1) if BY_ONE_COMMAND else prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        self._given: list[str] = []
        self.add_argument("--version", action=_Version, help="print the versions of this program and of what it uses")

    # argparse declares it with overloads, of which one is used here.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []  # else argparse takes -b for -batchsize whatever allow_abbrev says

    def error(self, message: str) -> NoReturn:
        known = _options(self, self._given)
        wrong = [word.split("=")[0] for word in self._given[: [*self._given, "--"].index("--")]]
        meant = "".join(did_you_mean(word, known) for word in wrong if word[:1] == "-" and word not in known)
        meant = meant.replace("?.", "?")  # where there are two
        raise UserError(f"{message}{meant} (see --help)")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Which of the known words is like this one, as the end of a message; "" if none is."""
    like = difflib.get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.7)
    return f". Did you mean {like[0]} instead of {word}?" if like else ""


def _options(parser: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """The flags of a parser, and of those subcommands of it that are among the words."""
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            options = options.union(*(_options(one, words) for name, one in action.choices.items() if name in words))
    return options


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(version())
        parser.exit()


def version() -> str:
    """This program's version, and those of what it uses; of MPI only mpi4py's: `alexnet doctor` starts the library."""
    used = [f"Python {platform.python_version()}"]
    for name, package in (("NumPy", "numpy"), ("mpi4py", "mpi4py"), ("Pillow", "pillow")):
        try:
            used.append(f"{name} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            used.append(f"no {name}")
    return f"alexnet_dist {__version__} ({', '.join(used)})"


def add_load(parser: argparse.ArgumentParser) -> None:
    """Adds --load, by which programs are given weights."""
    parser.add_argument(
        "--load",
        "-load",
        required=True,
        metavar="RUN",
        help="a run's folder (its best weights), a checkpoint, or torchvision's weights",
    )


def require_positive(args: argparse.Namespace, *flags: str) -> None:
    """Raises UserError for a flag that was given as less than 1."""
    for flag in flags:
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} is {value}, but must be at least 1")


def run(parser: Parser, argv: list[str] | None, body: Callable[[argparse.Namespace], int]) -> int:
    """The exit code of a program that runs without MPI: body's own, or a UserError's after one line about it."""
    _print_any_name()
    try:
        _heed_earlier_signals()
        return body(parser.parse_args(argv))
    except UserError as error:
        return _report(parser, error)
    except PermissionError as error:
        return _report(parser, _forbidden(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has ended: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would report it again at exit
        return 0


def run_on_ranks(
    parser: Parser,
    argv: list[str] | None,
    body: "Callable[[World, argparse.Namespace], int]",
    needs_mpi: bool = True,
) -> int:
    """The exit code of this rank of a program: body's own, or a SharedError's if all ranks raise the same (rank 0 prints it).

    An exception that only one rank raises would leave the others waiting: it is printed with the rank's number, and MPI
    ends all ranks. A body that takes `Ranks`, of which World is one kind, doesn't need MPI: it runs alone without it.
    """
    argv = sys.argv[1:] if argv is None else argv
    _print_any_name()
    if ABOUT & set(argv):
        print(version() if "--version" in argv else parser.format_help().rstrip())
        return 0
    try:
        world = _open_world(needs_mpi)
    except UserError as error:
        return _report(parser, error)

    def end(text: str, exit_code: int = 1) -> None:
        with suppress(OSError):  # a closed pipe must not keep the others from ending
            # One write, so that the lines of several ranks don't mingle.
            sys.stderr.write(f"{parser.prog}: rank {world.rank} of {world.size} failed, all ranks end: {text}\n")
        world.abort(exit_code)

    threading.excepthook = lambda args: end(
        "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    )
    # A run that diverges is reported once, by its loss, and not for each operation in which NumPy meets a NaN.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"alexnet_dist\.")
    try:
        _heed_earlier_signals()
        with world.shared_errors():
            args = parser.parse_args(argv)
        return world.leave(body(world, args))
    except SharedError as error:
        return world.leave(_report(parser, error) if world.rank == 0 else error.exit_code)
    except UserError as error:
        end(str(error), error.exit_code)
    except PermissionError as error:
        end(str(_forbidden(error)), BAD_INPUT)
    except KeyboardInterrupt:
        if world.rank == 0:
            print(f"{parser.prog}: interrupted", file=sys.stderr, flush=True)
        world.abort(INTERRUPTED)
    except BaseException:  # SystemExit of one rank included
        end(traceback.format_exc())
    return 1


def _heed_earlier_signals() -> None:
    if has_started():
        raise KeyboardInterrupt


def _print_any_name() -> None:
    """Lets stdout take names of files that aren't UTF-8, as stderr does: where such a name is printed, the work is done."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _open_world(needs_mpi: bool) -> Any:
    """All ranks of this MPI run; Ranks() where there is no MPI and it isn't needed. Raises UserError."""
    # Imported here, because --help and the programs without MPI don't need it.
    try:
        from alexnet_dist.comm.world import World

        return World()
    except UserError:
        # What MPICH, Open MPI and Slurm tell a process: beside others, it must not take itself for the only one.
        sizes = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
        if needs_mpi or any(os.environ.get(name, "1") != "1" for name in sizes):
            raise
    from alexnet_dist.comm.ranks import Ranks

    return Ranks()


def _forbidden(error: PermissionError) -> UserError:
    return UserError(f"{error.filename or 'something'} may not be used by this person: {error.strerror}")


def _report(parser: Parser, error: UserError) -> int:
    print(f"{parser.prog}: error: {error}", file=sys.stderr, flush=True)
    return error.exit_code
