"""Images in pieces, each computed by itself: the gradients don't depend on which of them are computed together."""

import numpy as np
import pytest
import reference
from small import SMALL, KeepGradients, images, make_net
from whole import step

from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.predict import predict
from alexnet_dist.support.pairwise import sum_in_pairs_
from alexnet_dist.support.threads import Team

LARGER = Network(num_classes=5, image_size=131, width=1 / 16)  # Winograd's algorithm in all but the last layers
PIECES = [slice(0, 2), slice(2, 2), slice(2, 5), slice(5, 8)]


@pytest.mark.parametrize("network", [SMALL, LARGER])
def test_pieces_are_the_batch_up_to_rounding(network):
    x, labels = images(network, 8)
    with Team(2) as team:
        net, _ = make_net(team, network)
        whole = step(net, x, labels)
        parts = step(net, x, labels, pieces=tuple(PIECES))
        again = step(net, x, labels)
    assert reference.error(parts[0], whole[0]) < 1e-5
    assert parts[1] == pytest.approx(whole[1], rel=1e-6)
    assert reference.error(parts[2], whole[2]) < 1e-5
    assert not np.array_equal(parts[2], whole[2])
    assert np.array_equal(again[2], whole[2])  # pieces are of one forward pass


@pytest.mark.parametrize("network", [SMALL, LARGER])
@pytest.mark.parametrize("ranks", [2, 4])
def test_sums_over_ranks_have_the_bits_of_one(network, ranks):
    x, _ = images(network, 8)
    start = layer_table(network).classifier_start

    def gradient(net, pieces):
        rows, sink = slice(pieces[0].start, pieces[-1].stop), KeepGradients(start)
        own = tuple(slice(piece.start - rows.start, piece.stop - rows.start) for piece in pieces)
        net.forward(x[rows], None, own)
        features = net.features.blocks[-1].y.shape[1:]
        dy = np.random.default_rng(1).standard_normal((8, *features)).astype(np.float32)[rows]
        net.features.backward(dy, sink, data=False)
        return sink.flat

    with Team(1) as team:
        net, _ = make_net(team, network)
        whole = gradient(net, PIECES)
        count = len(PIECES) // ranks
        parts = [gradient(net, PIECES[rank * count : (rank + 1) * count]) for rank in range(ranks)]
    assert np.isfinite(whole).all()
    assert np.array_equal(sum_in_pairs_(parts), whole)


@pytest.mark.parametrize("conv", ["auto", "direct"])
@pytest.mark.parametrize("network", [SMALL, LARGER])
def test_in_groups_an_image_has_the_same_bits_whatever_is_evaluated_with_it(network, conv):
    x, _ = images(network, 8)
    with Team(2, fixed=True) as team:
        plain, _ = make_net(team, network, conv=conv)
        net, _ = make_net(team, network, conv=conv, group=3)
        assert (plain.block, net.block) == (8, 6)
        expected = plain.forward(x).copy()
        whole = net.forward(x).copy()
        blocks = [net.forward(x[lo : lo + 3]).copy() for lo in (0, 3, 6)]  # of 3, 3 and 2 images
        nothing = net.forward(x[:0])
        smaller, _ = make_net(team, network, batch=3, conv=conv, group=3)
        assert np.array_equal(predict(net, x), predict(smaller, x))
    assert np.array_equal(np.concatenate(blocks), whole)
    assert reference.error(whole, expected) < 1e-5
    assert nothing.shape == (0, network.num_classes)
