"""Signals while a program imports its modules, which takes a second: one line, not a traceback of each rank."""

import os
import signal
import sys
from types import FrameType

from alexnet_dist.errors import STOPPED
from alexnet_dist.support.signals import CAUGHT

INTERRUPTED = 130  # by Ctrl-C: 128 and the signal's number, as in a shell
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # what MPICH, Open MPI and Slurm tell a process
TRAIN = "alexnet-train"


def _program() -> str:
    if sys.argv[0] == "-m":  # as long as Python looks for the module
        module = next((word for word in sys.orig_argv if word.startswith("alexnet_dist.")), "")
        return module.replace("_dist.", "-", 1)
    name = os.path.basename(sys.argv[0])
    return name if name.startswith("alexnet-") else ""


PROGRAM = _program()  # that of ours for which Python has been started; "" where another imports this package


def end_quietly() -> None:
    """From now on, Ctrl-C ends this program at once; all that asks a run to stop ends training likewise."""
    for number in CAUGHT if PROGRAM == TRAIN else (signal.SIGINT,):
        if signal.getsignal(number) in (
            signal.SIG_DFL,
            signal.default_int_handler,
        ):  # else it is ignored, as under nohup
            signal.signal(number, _end)


def has_started() -> None:
    """The imports are done: signals do again what they do in Python."""
    for number in CAUGHT:
        if signal.getsignal(number) == _end:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    if next((os.environ[rank] for rank in RANKS if rank in os.environ), "0") == "0":
        os.write(sys.stderr.fileno(), f"{PROGRAM}: interrupted before it began\n".encode())
    # At once: at an orderly exit, a rank in which MPI has started would wait for the others.
    os._exit(STOPPED if PROGRAM == TRAIN else INTERRUPTED)
