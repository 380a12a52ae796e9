"""Small networks and a sink for tests that need no MPI."""

from contextlib import contextmanager

import numpy as np

from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.workspace import zeros

SMALL = Network(num_classes=7, image_size=67, dropout=0.5, width=1 / 16)


class KeepGradients:
    """A sink that stores gradients in a flat buffer and notes which ranges came."""

    def __init__(self, size):
        self.flat = np.full(size, np.nan, np.float32)
        self.seen = np.zeros(size, int)

    @contextmanager
    def block(self, lo, hi, workspace):
        yield self.flat[lo:hi]
        self.seen[lo:hi] += 1

    def poll(self):
        pass


def make_net(team, network=SMALL, batch=8, training=True, scheme="he", **options):
    parameters = parameter_map(network)
    flat = zeros((parameters.size,))
    initialize(parameters, flat, scheme, seed=3)
    # Biases that aren't zero, so that a gradient which forgets them shows.
    flat += np.random.default_rng(4).normal(0, 0.01, flat.size).astype(np.float32)
    return AlexNet(network, flat, batch, team, training=training, **options), flat


def images(network, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, network.image_size, network.image_size, 3)).astype(np.float32)
    return x, rng.integers(0, network.num_classes, n)
