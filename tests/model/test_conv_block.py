"""Threads that divide one image: what one of them writes, no other one does."""

from itertools import combinations

import numpy as np
import pytest
from small import SMALL, images, make_net

from alexnet_dist.kernels import pool
from alexnet_dist.support.threads import Team


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_each_row_of_the_winners_is_written_by_one_thread(threads, monkeypatch):
    forward, written = pool.maxpool_forward, []

    def watched(x, y, winners, **options):
        written.append(winners)
        forward(x, y, winners, **options)

    with Team(threads) as team:
        net, _ = make_net(team, batch=1)
        monkeypatch.setattr(pool, "maxpool_forward", watched)
        net.forward(images(SMALL, 1)[0])
        pooled = [block.winners for block in net.blocks if getattr(block, "winners", None)]
    assert len(written) > len(pooled) == 3  # some images were divided
    for place in (0, 1):
        pieces = [piece[place] for piece in written]
        assert not any(np.shares_memory(one, other) for one, other in combinations(pieces, 2))
        assert sum(piece.size for piece in pieces) == sum(winners[place].size for winners in pooled)


@pytest.mark.parametrize("ties", [False, True])
def test_winners_don_t_depend_on_the_number_of_threads(ties):
    x, _ = images(SMALL, 1)
    x = np.round(x) if ties else x
    found = []
    for threads in (1, 2, 5):
        with Team(threads) as team:
            net, _ = make_net(team, batch=1)
            net.forward(x)
            found.append([np.copy(array) for block in net.blocks for array in getattr(block, "winners", None) or ()])
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))
