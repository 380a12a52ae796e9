"""What this process is doing, for a watchdog that looks whether it moves."""


class Activity:
    """The main thread's phase, whether it waits for other ranks, and a count that grows whenever it does something else."""

    def __init__(self) -> None:
        self.phase = "start"
        self.waits_for_others = False
        self.moves = 0

    def begin(self, phase: str) -> None:
        """It does something else now."""
        self.phase = phase
        self.moves += 1


ACTIVITY = Activity()  # of this process: phases and waits are marked in many places
