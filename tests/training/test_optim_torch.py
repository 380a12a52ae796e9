"""The options of the step against PyTorch's, where it is installed: twenty steps from the same gradients."""

import numpy as np
import pytest

from alexnet_dist.comm.local import Local
from alexnet_dist.comm.strategy import StrategyOptions
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.support.threads import Team
from alexnet_dist.support.workspace import Workspace
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.optim_wrappers import AVERAGE, configured_optimizer
from alexnet_dist.training.updater import Updater

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'alexnet_dist[bench]')")

PARAMETERS = parameter_map(Network(num_classes=5, image_size=67, width=1 / 32))
STEPS, LR, DECAY = 20, 0.01, 0.9
CLIP = 0.5 * np.sqrt(PARAMETERS.size)  # every other gradient is longer


def gradients():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(PARAMETERS.size, np.float32) / (1 + 3 * (step % 2)) for step in range(STEPS)]


def start():
    values = np.zeros(PARAMETERS.size, np.float32)
    initialize(PARAMETERS, values, "torchvision", seed=1)
    return values


def ours(**flags):
    """The parameters after STEPS, and their average if there is one."""
    updater = Updater(configured_optimizer(TrainingConfig(**flags)), PARAMETERS)
    with Team(2) as team:
        strategy = Local(StrategyOptions(PARAMETERS.size, 0, updater, team))
        updater.bind(strategy.values, strategy.state)
        strategy.values[:] = start()
        for step, gradient in enumerate(gradients()):
            updater.begin(LR, step)
            with strategy.block(0, PARAMETERS.size, Workspace()) as block:
                block[...] = gradient
            strategy.finish()
    return strategy.values, strategy.state.get(AVERAGE)


def theirs(make, clip=None):
    """The same of torch.optim's class that `make` calls with the parameters that are no biases, and with those that are."""
    module = torch.nn.ParameterDict()
    first = PARAMETERS.views(start())
    names = {name: name.replace(".", "_") for name in first}
    for name, array in first.items():
        module[names[name]] = torch.nn.Parameter(torch.tensor(array))
    weights, biases = ([module[names[s.name]] for s in PARAMETERS.specs if s.is_bias is kind] for kind in (False, True))
    optimizer = make(weights, biases)
    average = torch.optim.swa_utils.AveragedModel(module, avg_fn=torch.optim.swa_utils.get_ema_avg_fn(DECAY))
    for gradient in gradients():
        for name, array in PARAMETERS.views(gradient).items():
            module[names[name]].grad = torch.tensor(array)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        average.update_parameters(module)
    return [flat({name: one[names[name]] for name in names}) for one in (module, average.module)]


def flat(tensors):
    values = np.zeros(PARAMETERS.size, np.float32)
    for name, view in PARAMETERS.views(values).items():
        view[...] = tensors[name].detach().numpy()
    return values


def groups(kind, weight_decay, bias_weight_decay, **options):
    def make(weights, biases):
        both = [
            {"params": weights, "weight_decay": weight_decay},
            {"params": biases, "weight_decay": bias_weight_decay},
        ]
        return kind(both, lr=LR, **options)

    return make


SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
CASES = {
    "nesterov": ({"nesterov": True, "weight_decay": 0.02}, groups(SGD, 0.02, 0.02, momentum=0.9, nesterov=True), None),
    "biases": ({"bias_weight_decay": 0.0, "weight_decay": 0.1}, groups(SGD, 0.1, 0.0, momentum=0.9), None),
    "biases of adamw": (
        {"opt": "adamw", "bias_weight_decay": 0.5, "weight_decay": 0.1},
        groups(ADAMW, 0.1, 0.5),
        None,
    ),
    "clipped": ({"clip_grad_norm": CLIP}, groups(SGD, 5e-4, 5e-4, momentum=0.9), CLIP),
    "averaged": ({"ema_decay": DECAY}, groups(SGD, 5e-4, 5e-4, momentum=0.9), None),
    "all": (
        {"nesterov": True, "bias_weight_decay": 0.0, "clip_grad_norm": CLIP, "ema_decay": DECAY},
        groups(SGD, 5e-4, 0.0, momentum=0.9, nesterov=True),
        CLIP,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_pytorchs(case):
    flags, make, clip = CASES[case]
    values, average = ours(**flags)
    expected, expected_average = theirs(make, clip)
    assert np.abs(values - expected).max() < 1e-6 * np.abs(expected).max()
    if average is not None:
        assert np.abs(average - expected_average).max() < 1e-6 * np.abs(expected_average).max()
    plain, _ = ours()
    assert case == "averaged" or np.abs(plain - expected).max() > 1e-3 * np.abs(expected).max()
