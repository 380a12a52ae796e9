"""Training with Winograd's convolutions and with direct ones: the same losses, step by step, as far as rounding allows."""

import numpy as np
from mpi4py import MPI

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD

STEPS, BATCH = 200, 16
# Without dropout. With it, and at a larger learning rate, steps amplify any rounding: direct convolutions that begin from
# weights changed by one part in ten million part from themselves as fast as from Winograd's (docs/LOG.md).
NETWORK = Network(num_classes=5, image_size=67, width=1 / 16, dropout=0.0)


def train(conv):
    """Losses, and correct answers among the last ten steps' images; five noisy patterns are to be told apart."""
    rng = np.random.default_rng(0)
    size = NETWORK.image_size
    patterns = rng.standard_normal((5, 9, 9, 3)).repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    losses, correct = [], 0
    with Team(2) as team:
        engine = Engine(StepSpec(NETWORK, BATCH, SGD(), conv=conv), World(MPI.COMM_SELF), team)
        engine.fill(lambda values, _: initialize(engine.parameters, values, "he", seed=0))
        for number in range(STEPS):
            labels = rng.integers(0, 5, BATCH)
            noise = rng.standard_normal((BATCH, size, size, 3))
            images = (patterns[labels] + 0.5 * noise).astype(np.float32)
            lr = 0.002 * min(1, (number + 1) / 30)
            sums = engine.step(Batch(images, labels, np.arange(BATCH)), BATCH, number, lr)
            losses.append(sums.loss / BATCH)
            correct += sums.top1 if number >= STEPS - 10 else 0
    return np.array(losses), correct


def test_200_steps_agree():
    (winograd, correct), (direct, same) = train("winograd"), train("direct")
    assert np.abs(winograd - direct).max() < 1e-2
    assert correct == same == 10 * BATCH
    assert direct[-10:].mean() < 0.1 * direct[:3].mean()
