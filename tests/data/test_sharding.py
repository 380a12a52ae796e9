"""Every image of an epoch belongs to exactly one rank in exactly one step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_dist.data.sharding import PIECES, epoch_order, pieces, share, step_size, steps_per_epoch


@settings(deadline=None)  # a loaded machine is no mistake
@given(images=st.integers(1, 300), batch=st.integers(1, 70), size=st.integers(1, 8))
def test_ranks_divide_the_global_batch(images, batch, size):
    steps = steps_per_epoch(images, batch)
    sizes = [step_size(step, images, batch) for step in range(steps)]
    assert sum(sizes) == images
    assert all(count == batch for count in sizes[:-1])
    assert 1 <= sizes[-1] <= batch
    for count in {*sizes}:
        shares = [share(count, rank, size) for rank in range(size)]
        assert [place for part in shares for place in part] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("count", "size", "lengths"), [(7, 3, [2, 2, 3]), (2, 4, [0, 1, 0, 1]), (128, 8, [16] * 8), (0, 2, [0, 0])]
)
def test_known_shares(count, size, lengths):
    assert [len(share(count, rank, size)) for rank in range(size)] == lengths


@settings(deadline=None)
@given(count=st.integers(0, 100))
def test_pieces_are_the_same_on_any_number_of_ranks(count):
    for size in (1, 2, 4, 8):
        places = []
        for rank in range(size):
            mine = list(share(count, rank, size))
            parts = [mine[piece] for piece in pieces(count, rank, size)]
            assert [place for part in parts for place in part] == mine
            places += parts
        assert places == [list(share(count, piece, PIECES)) for piece in range(PIECES)]


@pytest.mark.parametrize("size", [3, 5, 16])
def test_there_are_no_pieces_that_these_ranks_could_share(size):
    assert pieces(100, 0, size) == ()


def test_order_is_a_permutation_of_its_own_for_every_epoch_and_seed():
    orders = [epoch_order(1000, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert (orders[one] == orders[other]).mean() < 0.02
    np.testing.assert_array_equal(epoch_order(1000, 0, 1), orders[1])
