"""Scratch memory for kernels: allocated in the first step, reused in all later ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes: a cache line, and an AVX-512 register


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """An uninitialised C-contiguous array that begins on a cache line."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """A zeroed C-contiguous array that begins on a cache line."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


class Workspace:
    """Scratch memory of one thread, or shared by a team: a stack of arrays.

    `with workspace.frame():` releases at its end the arrays taken inside it. Arrays are never cleared: they must be
    written before they are read.
    """

    def __init__(self) -> None:
        self._slots: list[np.ndarray] = []  # one buffer for each depth of the stack, the largest ever asked for there
        self._depth = 0

    @contextmanager
    def frame(self) -> Iterator[None]:
        """A scope for `take`."""
        depth = self._depth
        try:
            yield
        finally:
            self._depth = depth

    def take(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """An uninitialised array of this shape, valid until the frame ends."""
        count = np.dtype(dtype).itemsize
        for extent in shape:
            count *= extent
        if self._depth == len(self._slots):
            self._slots.append(empty((count,), np.uint8))
        elif self._slots[self._depth].size < count:
            self._slots[self._depth] = empty((count,), np.uint8)
        array = self._slots[self._depth][:count].view(dtype).reshape(shape)
        self._depth += 1
        return array
