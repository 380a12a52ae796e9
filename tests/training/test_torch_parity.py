"""Against PyTorch, where it is installed: the same logits, gradients and losses from the same weights."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from alexnet_dist.comm.world import World
from alexnet_dist.data.loader import Batch
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.engine import Engine, StepSpec
from alexnet_dist.training.optim import SGD, AdamW, StepContext

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'alexnet_dist[bench]')")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
alexnet = importlib.import_module("torch_alexnet").alexnet  # it imports torch

# Full size, and a small one whose map is averaged to 6 x 6.
# Relative, of each parameter's gradient. Winograd's rounding, 1e-5 of the largest value, now and then turns a near tie of
# a ReLU or a maximum the other way: one of the 74,000 places after conv5 is some 0.4 % of the gradient's norm there.
TOLERANCE = {"direct": 1e-4, "winograd": 2e-2}
NETWORKS = [Network(dropout=0.0), Network(num_classes=10, image_size=256, dropout=0.0, width=1 / 8)]


@pytest.fixture(params=sorted(TOLERANCE))
def conv(request):
    return request.param


@pytest.fixture(params=NETWORKS, ids=["full size", "small, averaged"])
def pair(request, conv):
    """An engine of ours and a PyTorch module with the same weights, and a batch for both."""
    network = request.param
    with Team(2) as team:
        engine = Engine(StepSpec(network, 8, SGD(), conv=conv), World(MPI.COMM_SELF), team)
        # PyTorch's own initialisation: from He's, the first losses are so wild that float32 itself drifts from float64
        # by more than the tolerance within ten steps, in PyTorch as here.
        engine.fill(lambda values, _: initialize(engine.parameters, values, "torchvision", seed=6))
        module = alexnet(network)
        views = engine.parameters.views(engine.values)
        state = {spec.name: torch.tensor(spec.to_file(views[spec.name])) for spec in engine.parameters.specs}
        module.load_state_dict(state)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((8, network.image_size, network.image_size, 3), dtype=np.float32)
        labels = rng.integers(0, network.num_classes, 8)
        yield engine, module, x, labels


def error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


def test_logits_and_gradients(pair, conv):
    engine, module, x, labels = pair
    x, labels = x[:2], labels[:2]  # few images and this seed: no near tie that rounding turns (docs/LOG.md)
    logits = module(torch.tensor(x.transpose(0, 3, 1, 2).copy()))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    assert error(engine.net.forward(x), logits.detach().numpy()) < 1e-4
    engine.step(Batch(x, labels, np.arange(2)), 2, 0, lr=0.0)
    gradients = engine.parameters.views(engine.strategy.gradients)
    for spec in engine.parameters.specs:
        expected = module.get_parameter(spec.name).grad.numpy()
        difference = np.linalg.norm(spec.to_file(gradients[spec.name]) - expected) / np.linalg.norm(expected)
        assert difference < TOLERANCE[conv], spec.name


@pytest.mark.parametrize("weight_decay", [5e-4, 0.1])
def test_adamw_is_pytorchs(weight_decay):
    rng = np.random.default_rng(0)
    p = rng.standard_normal(1000).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(p))
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=weight_decay)
    ours, state, workspace = AdamW(weight_decay=weight_decay), [np.zeros_like(p) for _ in range(2)], Workspace()
    for index in range(20):
        g = rng.standard_normal(1000).astype(np.float32)
        theirs.grad = torch.tensor(g)
        adamw.step()
        ours.update_(p, g, state, StepContext(0.01, index), workspace)
    assert error(p, theirs.detach().numpy()) < 1e-6


def test_twenty_steps_of_sgd(pair):
    engine, module, x, labels = pair
    sgd = torch.optim.SGD(module.parameters(), lr=3e-3, momentum=0.9, weight_decay=5e-4)
    pixels, target = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(labels)
    losses = []
    for number in range(20):
        ours = engine.step(Batch(x, labels, np.arange(8)), 8, number, lr=3e-3).loss / 8
        loss = torch.nn.functional.cross_entropy(module(pixels), target)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        assert ours == pytest.approx(loss.item(), abs=1e-3), f"step {number}"
        losses.append(ours)
    assert losses[-1] < losses[0] - 0.05
