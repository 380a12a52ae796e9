"""The flat gradient cut into buckets, in the order in which backward fills them: from the end."""

import threading

BUCKET = 1 << 22  # floats in a bucket; 16 MB was the fastest of the sizes measured
SMALL_BUCKET = 1 << 19  # for the convolutions' gradients alone: their exchange begins early in backward


class Buckets:
    """[lo, hi) in buckets of `length` floats, and how much of each is filled. Any thread may call mark_filled."""

    def __init__(self, lo: int, hi: int, length: int = BUCKET) -> None:
        self._lo, self._hi, self._length = lo, hi, length
        self.bounds = [(max(lo, end - length), end) for end in range(hi, lo, -length)]
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Marks all buckets as empty."""
        self.filled = [0] * len(self.bounds)

    def mark_filled(self, lo: int, hi: int) -> None:
        """Marks [lo, hi) as filled."""
        with self._lock:
            for index in range((self._hi - hi) // self._length, (self._hi - lo - 1) // self._length + 1):
                start, end = self.bounds[index]
                self.filled[index] += min(hi, end) - max(lo, start)

    def is_full(self, index: int) -> bool:
        """Whether this rank has filled all of a bucket."""
        lo, hi = self.bounds[index]
        return self.filled[index] == hi - lo

    def incomplete_error(self, index: int) -> RuntimeError:
        """The error for a bucket that is not full at the end of a step: a layer has left out part of its gradient."""
        lo, hi = self.bounds[index]
        return RuntimeError(f"a layer has not handed over its gradient: {hi - lo - self.filled[index]} of [{lo}, {hi})")
