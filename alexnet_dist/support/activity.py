"""What this process is doing, for a watchdog that looks whether it moves."""

import threading


class Activity:
    """Its current phase, which of its threads wait for other ranks, and a count that grows whenever something moves."""

    def __init__(self) -> None:
        self.phase = "start"
        self.moves = 0
        self.waiting: set[int] = set()  # threading.get_ident of each

    def begin(self, phase: str) -> None:
        """The main thread does something else now."""
        self.phase = phase
        self.moves += 1

    @property
    def waits_for_others(self) -> bool:
        """Whether the main thread waits for other ranks."""
        return threading.main_thread().ident in self.waiting


ACTIVITY = Activity()  # of this process: waiting and phases are marked in many places
