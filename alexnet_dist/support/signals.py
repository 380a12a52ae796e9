"""Signals that ask a run to stop: they set a flag, which the ranks agree on at the next step."""

import signal
from types import FrameType
from typing import Any


class StopSignals:
    """Catches SIGTERM, SIGINT and SIGUSR1 in a `with` block. SIGINT after one of them ends the process at once.

    SIGUSR1 is there because Open MPI kills its ranks a quarter of a second after SIGTERM, but forwards SIGUSR1.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
