"""Signals while a program imports its modules, which takes a second: they are kept until it can heed them.

Nothing ends at once, which would be simpler: MPICH's mpirun waits for ever where a rank exits before it has started MPI, and
another one is just starting it.
"""

import os
import signal
import sys
from types import FrameType

from alexnet_dist.support.signals import CAUGHT

TRAIN = "alexnet-train"


ONE_COMMAND = "alexnet"  # which starts the others: `alexnet train` is alexnet-train


def _program() -> tuple[str, bool]:
    """The name of our program for which Python has been started, and whether the one command was asked for it."""
    if sys.argv[0] == "-m":  # as long as Python looks for the module
        module = next((word for word in sys.orig_argv if word.split(".")[0] == "alexnet_dist"), "")
        name = module.removesuffix(".__main__").replace("alexnet_dist", ONE_COMMAND).replace(".", "-", 1)
    else:
        name = os.path.basename(sys.argv[0])
    if name == ONE_COMMAND:
        return "-".join([name, *sys.argv[1:2]]), True
    return (name, False) if name.startswith(f"{ONE_COMMAND}-") else ("", False)


PROGRAM, BY_ONE_COMMAND = _program()  # "" where another imports this package
_kept: list[int] = []


def keep_signals() -> None:
    """From now on Ctrl-C is kept; for training, all that asks a run to stop. A second Ctrl-C ends the process."""
    for number in CAUGHT if PROGRAM == TRAIN else (signal.SIGINT,):
        if signal.getsignal(number) in (
            signal.SIG_DFL,
            signal.default_int_handler,
        ):  # else it is ignored, as under nohup
            signal.signal(number, _keep)


def has_started() -> bool:
    """The program heeds signals itself from now on; returns, once, whether one has been kept."""
    for number in CAUGHT:
        if signal.getsignal(number) == _keep:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    kept = bool(_kept)
    _kept.clear()
    return kept


def _keep(number: int, frame: FrameType | None) -> None:
    _kept.append(number)
    if number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
