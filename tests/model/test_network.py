"""The whole network: gradients, threads, batches, dropout, allocation."""

import tracemalloc

import numpy as np
import pytest
import reference
from small import SMALL, KeepGradients, images, make_net
from whole import assert_equals_reference, forward64, step

from alexnet_dist.kernels.loss import cross_entropy
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.layers.base import DropoutKey
from alexnet_dist.support.threads import Team


# 67: a 1 x 1 map, averaged up to 6 x 6; 224: the real geometry, without averaging
@pytest.mark.parametrize("network", [SMALL, Network(num_classes=5, image_size=224, width=1 / 32)])
def test_gradients_of_the_whole_network(network):
    with Team(2) as team:
        net, flat = make_net(team, network, batch=3)
        masks = assert_equals_reference(net, flat, *images(network, 3), DropoutKey(0, 7, np.arange(3)))
        assert len(masks) == 2


def test_threads_agree():
    # Winograd's convolutions and fully connected layers give the same bits for any number of threads (tested with their
    # kernels). Where a convolution is direct, its patches are grouped otherwise: equal to float32 rounding.
    results = []
    for threads in (1, 2, 3):
        with Team(threads) as team:
            net, _ = make_net(team)
            x, labels = images(SMALL, 7)
            results.append(step(net, x, labels, DropoutKey(0, 0, np.arange(7))))
    for logits, loss, gradient in results[1:]:
        assert reference.error(logits, results[0][0]) < 1e-5
        assert loss == pytest.approx(results[0][1], rel=1e-6)
        assert reference.error(gradient, results[0][2]) < 1e-5


def test_second_step_on_dirty_memory_gives_the_same_bits(soil):
    with Team(2) as team:
        net, _ = make_net(team)
        x, labels = images(SMALL, 8)
        key = DropoutKey(0, 0, np.arange(8))
        first = step(net, x, labels, key)
        for workspace in (*team.workspaces, team.shared):
            soil(workspace)
        for block in net.blocks:
            block.y.fill(np.nan)
        second = step(net, x, labels, key)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_is_the_sum_of_its_parts():
    with Team(2) as team:
        net, _ = make_net(team)
        x, labels = images(SMALL, 8)
        _, whole_loss, whole = step(net, x, labels, DropoutKey(5, 2, np.arange(8)))
        total, parts = np.zeros_like(whole), 0.0
        for part in (slice(0, 3), slice(3, 3), slice(3, 8)):
            _, loss, gradient = step(net, x[part], labels[part], DropoutKey(5, 2, np.arange(8)[part]))
            total += gradient * (part.stop - part.start) / 8
            parts += loss
    assert parts == pytest.approx(whole_loss, rel=1e-6)
    assert reference.error(total, whole) < 1e-5


def test_dropout_only_with_a_key():
    with Team(1) as team:
        net, flat = make_net(team)
        x, _ = images(SMALL, 2)
        plain = net.forward(x).copy()
        assert reference.error(plain, forward64(net, flat, x)) < 1e-5
        masked = [net.forward(x, DropoutKey(0, number, np.arange(2))).copy() for number in (1, 1, 2)]
        assert np.array_equal(masked[0], masked[1])
        assert not np.array_equal(masked[0], masked[2])
        assert not np.array_equal(masked[0], plain)


def test_an_inference_network_gives_the_training_networks_logits():
    with Team(2) as team:
        x, _ = images(SMALL, 5)
        trained, _ = make_net(team)
        small, _ = make_net(team, training=False)
        assert np.array_equal(trained.forward(x), small.forward(x))


def test_wrong_images_are_refused():
    with Team(1) as team:
        net, _ = make_net(team)
        with pytest.raises(ValueError, match="x is"):
            net.forward(np.zeros((9, 67, 67, 3), np.float32))
        with pytest.raises(ValueError, match="x is"):
            net.forward(np.zeros((1, 66, 67, 3), np.float32))


def test_no_allocation_after_the_first_step():
    network = Network(num_classes=7, image_size=99, width=1 / 4)
    with Team(2) as team:
        net, _ = make_net(team, network, batch=16)
        x, labels = images(network, 16)
        sink = KeepGradients(net.parameters.size)
        dlogits = np.empty((16, 7), np.float32)

        def one(number):
            logits = net.forward(x, DropoutKey(0, number, np.arange(16)))
            cross_entropy(logits, labels, dlogits, total=16)
            net.backward(dlogits, sink)

        one(0)
        tracemalloc.start()
        try:
            one(1)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            one(2)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # NumPy's casting buffers (some 100 KB a thread) and small objects; a single map of one image is larger.
    assert peak - before < 500_000
    assert after - before < 20_000
