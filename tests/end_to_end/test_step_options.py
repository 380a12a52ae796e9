"""Accumulation, clipping, averaged weights, decay of biases, Nesterov, validation now and then: the same training on any
number of ranks, and to the bit after a resumption."""

import json

import numpy as np
import pytest
from launcher import epoch_results, needs_mpirun, on_ranks, rows, steps, train, validations
from safetensors.numpy import load_file

pytestmark = needs_mpirun

CLIP = 0.5  # the norm of some steps' gradients is larger, of some smaller
OPTIONS = {
    "accumulate": ("--accumulate", 2),
    "clip": ("--clip-grad-norm", CLIP),
    "ema": ("--ema-decay", 0.8),
    "sgd": ("--nesterov", "--bias-weight-decay", 0, "--weight-decay", 0.1),
    "lars": ("--opt", "lars", "--accumulate", 2, "--clip-grad-norm", CLIP, "--ema-decay", 0.8),
    "all": (
        "--accumulate", 2, "--clip-grad-norm", CLIP, "--ema-decay", 0.8, "--nesterov", "--bias-weight-decay", 0,
        "--validate-every", 2,
    ),
}  # fmt: skip
WAYS = [(1, "auto"), (2, "allreduce"), (2, "sharded"), (2, "hybrid")]  # one rank by itself uses `local`


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("options"), 28, 6)


def run(site, name, way, *flags):
    """Trains; the losses by step, and the final weights."""
    ranks, sync = way
    base = ["--data", "train.list", "--val", "val.list", "--global-batch", 8, "--epochs", 3, "--keep", 9, "--lr", 0.002]
    output = ["--output-dir", name, "--save", f"{name}.safetensors", "--save-every", 3]
    job = train(ranks, [*base, *output, "--sync", sync, *flags], site).ok()
    return steps(site / name), load_file(site / f"{name}.safetensors"), job


@pytest.fixture(scope="module")
def plain(site):
    return run(site, "plain", WAYS[0])


@pytest.fixture(scope="module")
def alone(site):
    """The losses and weights of one rank, by the name of the options."""
    return {name: run(site, f"alone-{name}", WAYS[0], *OPTIONS[name]) for name in OPTIONS}


def assert_same_training(results, expected, tolerance=1e-4):
    (losses, weights, _), (expected_losses, expected_weights, _) = results, expected
    assert list(losses.values()) == pytest.approx(list(expected_losses.values()), rel=tolerance)
    for name, array in expected_weights.items():
        np.testing.assert_allclose(weights[name], array, rtol=0, atol=tolerance * np.abs(array).max(), err_msg=name)


def test_accumulation_is_the_larger_batch(site, plain, alone):
    assert_same_training(alone["accumulate"], plain)
    assert "8 images a rank in 2 parts" in alone["accumulate"][2].out
    assert_same_training(run(site, "eight parts", WAYS[0], "--accumulate", 8), plain)  # steps of 4 images, too


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "accumulate"])
def test_the_options_change_the_training(plain, alone, name):
    weights, of_plain = alone[name][1], plain[1]
    assert any(np.abs(weights[key] - of_plain[key]).max() > 1e-3 * np.abs(of_plain[key]).max() for key in weights)


@pytest.mark.parametrize("name", ["lars", "all"])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("sync", ["allreduce", "sharded", "hybrid"])
def test_ranks_agree(site, alone, name, ranks, sync):
    assert_same_training(run(site, f"{name}-{ranks}-{sync}", (ranks, sync), *OPTIONS[name]), alone[name])


@pytest.mark.parametrize(("ranks", "sync"), WAYS)
@pytest.mark.parametrize("name", ["ema", "lars", "all"])
def test_continues_to_the_bit(site, name, ranks, sync):
    whole, resumed = f"{name}-{sync}-whole", f"{name}-{sync}-resumed"
    losses, weights, _ = run(site, whole, (ranks, sync), *OPTIONS[name])
    state = site / whole / "checkpoint-00000006.safetensors"  # in the middle of the second epoch
    again, weights_again, _ = run(site, resumed, (ranks, sync), *OPTIONS[name], "--resume", state)
    assert [row["step"] for row in rows(site / resumed, "steps") if row["attempt"] == 2] == list(range(7, 13))
    assert again == losses
    assert all((weights[key] == weights_again[key]).all() for key in weights)


def test_averaged_weights_are_validated_and_saved(site, plain, alone):
    folder = site / "alone-ema"
    # The steps themselves don't know of the average.
    assert alone["ema"][0] == plain[0]
    state = load_file(folder / "latest.safetensors")
    for name, array in alone["ema"][1].items():
        assert (state[f"ema.{name}"] == array).all()
        assert (state[name] == plain[1][name]).all()
    assert validations(folder) != validations(site / "plain")
    flags = ["--load", "alone-ema.safetensors", "--data", "val.list", "--threads", 1, "--json"]
    result = json.loads(on_ranks(1, ["-m", "alexnet_dist.evaluate", *flags], site).ok().out)
    assert result["loss"] == pytest.approx(epoch_results(folder)[-1]["val_loss"], rel=1e-6)
    best = load_file(folder / "best.safetensors")
    states = [load_file(path) for path in folder.glob("checkpoint-*")]
    assert any(all((best[key] == one[f"ema.{key}"]).all() for key in best) for one in states)


@pytest.mark.parametrize(("first", "then", "advice"), [
    ((), ("--ema-decay", 0.8), "without --ema-decay: leave --ema-decay out"),
    (("--ema-decay", 0.8), (), "with --ema-decay: give --ema-decay 0.8"),
])  # fmt: skip
def test_an_average_can_not_begin_or_end_in_the_middle(site, plain, alone, first, then, advice):
    name = "alone-ema" if first else "plain"
    flags = ["--data", "train.list", "--val", "val.list", "--global-batch", 8, "--output-dir", name]
    job = train(1, [*flags, "--resume", "auto", *then], site)  # which doesn't take the run's own flags
    assert job.code == 2
    assert advice in job.err


def test_validation_every_other_epoch_and_after_the_last(site, alone):
    epochs = epoch_results(site / "alone-all")
    assert [row["val_loss"] is not None for row in epochs] == [False, True, True]
    assert "not validated" in alone["all"][2].out
    best = load_file(site / "alone-all" / "best.safetensors")
    states = [load_file(site / "alone-all" / f"checkpoint-{step:08d}.safetensors") for step in (8, 12)]
    assert any(all((best[key] == one[f"ema.{key}"]).all() for key in best) for one in states)


def test_more_parts_than_images_are_refused(site):
    job = train(2, ["--data", "train.list", "--global-batch", 8, "--accumulate", 5, "--output-dir", "too many"], site)
    assert job.code == 2
    assert job.err.count("--accumulate 5 parts are more than the 4 images of a rank") == 1
