"""A run resumed in the middle of an epoch goes on to the bit, with every optimizer and strategy; another optimizer is
refused."""

import pytest
from launcher import needs_mpirun, steps, train
from safetensors.numpy import load_file

from alexnet_dist.training.optim import OPTIMIZERS

pytestmark = needs_mpirun

WAYS = [(1, "auto"), (2, "allreduce"), (2, "sharded"), (2, "hybrid")]  # one rank by itself uses `local`
RATES = {"sgd": 0.01, "lars": 0.5, "adamw": 0.001}


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("optimizers"), 28, 6)


def flags(name, opt, sync, *more):
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", 4, "--epochs", 2, "--save-every", 4]
    return [*data, "--opt", opt, "--lr", RATES[opt], "--sync", sync, "--output-dir", name, "--keep", 9, *more]


@pytest.mark.parametrize(("ranks", "sync"), WAYS)
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_continues_to_the_bit(site, opt, ranks, sync):
    whole, resumed = f"{opt}-{sync}", f"{opt}-{sync}-resumed"
    done = train(ranks, flags(whole, opt, sync, "--save", f"{whole}.safetensors"), site).ok()
    assert sync != "auto" or "gradients: local" in done.out
    state = site / whole / "checkpoint-00000004.safetensors"
    train(ranks, flags(resumed, opt, sync, "--resume", state, "--save", f"{resumed}.safetensors"), site).ok()
    expected = steps(site / whole, first=5)
    assert len(set(expected.values())) == 10
    assert steps(site / resumed, first=5) == expected
    one, other = (load_file(site / f"{name}.safetensors") for name in (whole, resumed))
    assert all((one[key] == other[key]).all() for key in one)
    assert not list(site.glob(f"{resumed}/.*"))


def test_another_optimizer_is_refused(site):
    train(1, flags("first", "sgd", "auto"), site).ok()
    job = train(1, flags("first", "adamw", "auto", "--resume"), site)
    assert job.code == 2
    assert "was trained with the optimizer sgd, not adamw" in job.err
    assert "give --opt sgd" in job.err
