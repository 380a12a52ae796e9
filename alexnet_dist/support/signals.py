"""Signals that ask a program to stop: they set a flag, which the ranks of a run agree on at the next step."""

import os
import signal
import time
from types import FrameType
from typing import Any

# SIGUSR1 is there because Open MPI kills its ranks a quarter of a second after SIGTERM, but forwards SIGUSR1.
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
ECHO = 2.0  # seconds: batch systems send SIGTERM to each process, and mpirun forwards the one that it has got itself


class StopSignals:
    """Catches the signals in CAUGHT in a `with` block. After one of them, SIGINT ends the process at once, and so does
    SIGTERM where it can't be the same request once more.

    A signal that was ignored before, as SIGHUP under nohup, stays ignored. `last` says that the process ends after this.
    """

    def __init__(self, *, last: bool = False) -> None:
        self._last = last
        self.received = False
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def catch(self) -> None:
        """Catches them from now on; once more after a library has put a handler of its own in place, as MPICH does."""
        for number in CAUGHT:
            handler = signal.getsignal(number)
            if handler is signal.SIG_IGN or handler == self._handle:
                continue
            self._before.setdefault(number, handler)
            signal.signal(number, self._handle)
        if self.received:
            self._let_ctrl_c_end()

    def __enter__(self) -> "StopSignals":
        self.catch()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if number == signal.SIGUSR1 and self.received and self._last:
                # launch/local.sh repeats it until mpirun ends: this process mustn't die of it while it ends by itself.
                handler = signal.SIG_IGN
            # What a library had put there in C can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._since = True, now
        elif number == signal.SIGTERM and now - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._let_ctrl_c_end()

    def _let_ctrl_c_end(self) -> None:
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
