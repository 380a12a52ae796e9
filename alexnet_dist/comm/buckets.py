"""The flat gradient cut into buckets, in the order in which backward fills them: from the end."""

import threading

BUCKET = 1 << 22  # floats; 16 MB pieces were the fastest of those measured


class Buckets:
    """[lo, hi) in buckets of `length` floats, and how much of each has been handed over. Any thread may mark."""

    def __init__(self, lo: int, hi: int, length: int = BUCKET) -> None:
        self._lo, self._hi, self._length = lo, hi, length
        self.bounds = [(max(lo, end - length), end) for end in range(hi, lo, -length)]
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Nothing has been handed over."""
        self.filled = [0] * len(self.bounds)

    def mark_filled(self, lo: int, hi: int) -> None:
        """Notes that [lo, hi) has been handed over."""
        with self._lock:
            for index in range((self._hi - hi) // self._length, (self._hi - lo - 1) // self._length + 1):
                start, end = self.bounds[index]
                self.filled[index] += min(hi, end) - max(lo, start)

    def is_full(self, index: int) -> bool:
        """Whether all of a bucket has been handed over here."""
        lo, hi = self.bounds[index]
        return self.filled[index] == hi - lo

    def forgotten(self, index: int) -> RuntimeError:
        """What to raise where a bucket is not full at the step's end: a layer has left something out."""
        lo, hi = self.bounds[index]
        return RuntimeError(f"a layer has not handed over its gradient: {hi - lo - self.filled[index]} of [{lo}, {hi})")
