"""Which rank loads which image in which step: pure arithmetic, the same on every rank.

An epoch is one pass over the images in `epoch_order`. A step takes the next global batch of them (the last step may have
fewer), and each rank a contiguous share of those, which may be empty. Nothing is dropped and nothing padded.
"""

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.support.randomness import Purpose, generator

PIECES = 8  # of a step, the same on any number of ranks that divides it


def steps_per_epoch(images: int, global_batch: int) -> int:
    """How many steps an epoch has, on every rank."""
    return -(-images // global_batch)


def step_size(step: int, images: int, global_batch: int) -> int:
    """How many images all ranks together have in a step of the epoch."""
    return min(global_batch, images - step * global_batch)


def share(count: int, rank: int, size: int) -> range:
    """Those of the positions 0 .. count - 1 of a step that belong to `rank` of `size`; sizes differ by at most one."""
    return range(count * rank // size, count * (rank + 1) // size)


def pieces(count: int, rank: int, size: int) -> tuple[slice, ...]:
    """Which rows of a rank's share are each of the step's PIECES that it has; none where ranks can't have whole pieces."""
    if PIECES % size:
        return ()
    start = share(count, rank, size).start
    mine = [share(count, piece, PIECES) for piece in share(PIECES, rank, size)]
    return tuple(slice(piece.start - start, piece.stop - start) for piece in mine)


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of the images' indices, a different one in each epoch."""
    return generator(seed, Purpose.SHUFFLE, epoch).permutation(images)
