"""What the programs share on the command line: one message without traceback, exit code 2 for bad input, all ranks end."""

import argparse
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_dist.errors import BAD_INPUT, SharedError, UserError
from alexnet_dist.support.starting import has_started

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World

INTERRUPTED = 130  # by Ctrl-C: 128 and the signal's number, as in a shell


class Parser(argparse.ArgumentParser):
    """argparse that raises UserErrors, so that a wrong flag is reported once for all ranks; without abbreviations."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None, **options: Any) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


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
    if {"-h", "--help"} & set(argv):
        parser.print_help()
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
