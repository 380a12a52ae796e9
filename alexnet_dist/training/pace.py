"""How fast a run is, how long it will take, and when it is time for another line about it."""

import time

PARTS = 10  # about so many lines an epoch, unless --print-freq says how many
LEAST, MOST = 5.0, 300.0  # seconds from one line to the next
NOW = 10.0  # seconds over which the speed of the moment is taken, at least; a step may take longer


class Pace:
    """Counts images and seconds of steps; `every` is --print-freq, and a validation is of `validated` images."""

    def __init__(self, every: int | None, validated: int = 0) -> None:
        self._every, self._validated = every, validated
        self.seconds = self.images = 0.0  # of all steps so far
        self._forward = 0.0  # seconds of these that validation takes for as many images, too
        self.validation: float | None = None  # seconds of the latest
        self.start_epoch()

    def start_epoch(self) -> None:
        """To be called before the first step of an epoch, so that its speed doesn't include what came before."""
        self._mark = self._line_mark = time.perf_counter()
        self.epoch_seconds = self.epoch_images = 0.0
        self._steps = 0
        self._recent: list[tuple[float, float]] = [(self._mark, 0.0)]  # when, and how many images of the epoch by then

    def step(self, images: float, forward: float) -> float:
        """Counts a step that has just ended, of which decoding and forward were so many seconds; returns all that it took."""
        now = time.perf_counter()
        took, self._mark = now - self._mark, now
        self.seconds += took
        self.epoch_seconds += took
        self.images += images
        self._forward += forward
        self.epoch_images += images
        self._steps += 1
        self._recent.append((now, self.epoch_images))
        while len(self._recent) > 2 and self._recent[1][0] < now - NOW:
            del self._recent[0]
        return took

    @property
    def now(self) -> float:
        """Images a second in the latest steps."""
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(end - start, 1e-9)

    @property
    def mean(self) -> float:
        """Images a second in all steps."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def of_epoch(self) -> float | None:
        """Images a second in the epoch's steps; None if it has had none."""
        return self.epoch_images / self.epoch_seconds if self.epoch_seconds else None

    def left(self, images: float, validations: int) -> float:
        """Seconds that training on so many images will take, and so many validations: each as long as the latest, and as
        long as there was none, as decoding and forward take in training."""
        estimate = self._validated * self._forward / max(self.images, 1)
        return images / max(self.now, 1e-9) + validations * (estimate if self.validation is None else self.validation)

    def due(self, step: int, steps: int) -> bool:
        """Whether it is time for a line, after `step` of the epoch's `steps`: after the last one it always is."""
        if self._every:
            due = step % self._every == 0
        else:
            whole = self.epoch_seconds / self._steps * steps
            due = self._mark - self._line_mark >= min(max(whole / PARTS, LEAST), MOST)
        if due or step == steps:
            self._line_mark = self._mark
            return True
        return False
