"""Every recipe trains some steps, with a small network and few images; finetune from weights that are given."""

import math

import pytest
from launcher import needs_mpirun, steps, train
from safetensors.numpy import load_file

from alexnet_dist.training.recipes import recipe_names

pytestmark = needs_mpirun


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    folder = pictures.write_lists(tmp_path_factory.mktemp("recipes"), 28, 6)
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    base = ["--data", "train.list", "--val", "val.list", "--global-batch", 8, "--epochs", 1]
    train(2, [*base, "--output-dir", "before", "--save", "before.safetensors"], folder).ok()
    return folder


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_trains(site, recipe):
    flags = ["--recipe", recipe, "--data", "train.list", "--val", "val.list", "--global-batch", 8, "--epochs", 2]
    more = ["--load-pretrained", "before.safetensors"] if recipe == "finetune" else []
    train(2, [*flags, *more, "--output-dir", recipe, "--save", f"{recipe}.safetensors"], site).ok()
    losses = list(steps(site / recipe).values())
    assert len(losses) == 8
    assert all(math.isfinite(loss) for loss in losses)
    weights = load_file(site / f"{recipe}.safetensors")
    if recipe == "finetune":
        before = load_file(site / "before.safetensors")
        assert all(abs(weights[name] - before[name]).max() < 0.1 for name in before)
        assert any((weights[name] != before[name]).any() for name in before)


def test_an_unknown_recipe_is_one_message(site):
    job = train(2, ["--recipe", "cake", "--output-dir", "cake"], site)
    assert job.code == 2
    assert job.err.count("--recipe cake is unknown") == 1
    assert "torchvision" in job.err
