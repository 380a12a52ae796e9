"""Sums in pairs: the order doesn't depend on how many of the terms are known to whom."""

import numpy as np


def sum_in_pairs_(terms: list[np.ndarray]) -> np.ndarray:
    """The sum of 1, 2, 4, 8, ... arrays of one shape, in the first of them; the others are overwritten.

    Neighbours are added, then neighbouring pairs, and so on. Who is given the sums of all pairs, or of all pairs of pairs,
    gets the same bits.
    """
    while len(terms) > 1:
        terms = [np.add(one, other, out=one) for one, other in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
