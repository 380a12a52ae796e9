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


def _program() -> str:
    if sys.argv[0] == "-m":  # as long as Python looks for the module
        module = next((word for word in sys.orig_argv if word.startswith("alexnet_dist.")), "")
        return module.replace("_dist.", "-", 1)
    name = os.path.basename(sys.argv[0])
    return name if name.startswith("alexnet-") else ""


PROGRAM = _program()  # that of ours for which Python has been started; "" where another imports this package
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
