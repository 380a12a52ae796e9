"""Sums in pairs: the right sum, in an order that can be divided."""

import numpy as np
import pytest

from alexnet_dist.support.pairwise import sum_in_pairs_


def terms(count, rng):
    return [rng.standard_normal(1000).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_it_is_the_sum(count, rng):
    arrays = terms(count, rng)
    expected = np.sum(arrays, axis=0, dtype=np.float64)
    total = sum_in_pairs_(arrays)
    assert total is arrays[0]
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-5)


def test_sums_of_parts_sum_to_the_same_bits(rng):
    arrays = terms(8, rng)
    whole = sum_in_pairs_([term.copy() for term in arrays])
    for size in (2, 4):
        parts = [sum_in_pairs_([term.copy() for term in arrays[lo : lo + size]]) for lo in range(0, 8, size)]
        assert np.array_equal(sum_in_pairs_(parts), whole)
    one_by_one = arrays[0].copy()
    for term in arrays[1:]:
        one_by_one += term
    assert not np.array_equal(one_by_one, whole)  # rounded otherwise: so the order is what makes them equal


def test_others_than_powers_of_two_are_refused(rng):
    with pytest.raises(ValueError, match="argument"):
        sum_in_pairs_(terms(3, rng))
