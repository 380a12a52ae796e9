"""How a number of things is divided among unequal takers: pure arithmetic, the same everywhere."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

ALIGNMENT = 16  # parts begin at multiples of this: a cache line of floats, and whole draws of the dropout's generator


def divide(count: int, weights: Sequence[int]) -> list[slice]:
    """[0, count) in contiguous parts, in proportion to the weights as far as ALIGNMENT allows; parts may be empty."""
    total = sum(weights)
    edges = [count * done // total // ALIGNMENT * ALIGNMENT for done in accumulate(weights[:-1], initial=0)] + [count]
    return [slice(lo, hi) for lo, hi in pairwise(edges)]
