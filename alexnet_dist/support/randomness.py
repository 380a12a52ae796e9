"""Counter-based random numbers (Philox 4x64-10; Salmon et al., SC 2011), keyed by what they are for.

A generator depends on its key alone, not on the rank, the thread or the order of calls. So a global batch gets the same
crops and dropout masks on any number of ranks and threads, and a resumed run continues as if it had never stopped.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; part of every key, so that no two uses share a stream."""

    INITIALIZE = 1  # (parameter index,)
    SHUFFLE = 2  # (epoch,)
    AUGMENT = 3  # (epoch, sample)
    DROPOUT = 4  # (step, layer, sample)
    HOLD_OUT = 5  # ()
    MIXUP = 6  # (epoch, sample)


DRAWN = 8  # float32 numbers that a generator makes of one value of its counter


def generator(seed: int, purpose: Purpose, *key: int, skip: int = 0) -> np.random.Generator:
    """The random generator of one purpose and up to three further keys (non-negative integers below 2**64, the first
    one below 2**48), as it is when `skip` float32 numbers in [0, 1) have been drawn; a multiple of DRAWN."""
    # Philox has 128 key bits and a 256-bit counter. Word 0 of the counter is what drawing numbers advances.
    first, second, third = (*key, 0, 0, 0)[:3]
    philox = np.random.Philox(
        key=np.array([seed, (first << 8) | purpose], dtype=np.uint64),
        counter=np.array([skip // DRAWN, second, third, 0], dtype=np.uint64),
    )
    return np.random.Generator(philox)
