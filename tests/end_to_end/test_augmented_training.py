"""Augmentation and mixup are the same on any number of ranks, and a run that is resumed goes on with them to the bit."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from launcher import alone as start_alone
from launcher import epoch_results, needs_mpirun, on_ranks, steps, train
from safetensors.numpy import load_file

from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs.checkpoint import load_weights, save

pytestmark = needs_mpirun

EVERYTHING = (
    *("--mixup-alpha", 0.4, "--random-erasing", 0.5, "--color-jitter", 0.4, 0.4, 0.4, 0.1),
    *("--auto-augment", "ta_wide", "--interpolation", "bicubic", "--color-noise"),
)


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    """A folder with lists; one training image is missing, so that mixup meets it on each number of ranks."""
    folder = tmp_path_factory.mktemp("augmented")
    lines = [*pictures.lines(26), "1 gone.png"]
    (folder / "train.list").write_text("\n".join(lines) + "\n")
    pictures.write_list(folder / "val.list", 6)
    return folder


def run(site, name, ranks, *flags):
    """The losses of a run, and its weights."""
    data = ["--data", "train.list", "--val", "val.list", "--epochs", 2, "--global-batch", 12, "--lr", "0.001"]
    train(ranks, [*data, "--output-dir", name, "--save", f"{name}.safetensors", *flags], site).ok()
    return steps(site / name), load_file(site / f"{name}.safetensors")


@pytest.fixture(scope="module")
def alone(site):
    return run(site, "alone", 1, *EVERYTHING)


@pytest.fixture(scope="module")
def plain(site):
    """The losses without any of it."""
    return run(site, "plain", 2)[0]


@pytest.mark.parametrize(("ranks", "sync"), [(2, "hybrid"), (4, "allreduce"), (4, "sharded")])
def test_ranks_do_not_change_the_training(site, alone, ranks, sync):
    expected, expected_weights = alone
    losses, weights = run(site, f"{ranks}-{sync}", ranks, *EVERYTHING, "--sync", sync)
    assert list(losses) == list(expected) == list(range(1, 7))
    assert losses[1] == pytest.approx(expected[1], rel=1e-6)
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert [entry["skipped"] for entry in epoch_results(site / f"{ranks}-{sync}")] == [1, 1]
    for name, array in expected_weights.items():
        np.testing.assert_allclose(weights[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)


@pytest.mark.parametrize(
    "flags",
    [
        ("--mixup-alpha", 0.4),
        ("--random-erasing", 0.7),
        ("--color-jitter", 0.4, 0.4, 0.4, 0.1, "--auto-augment", "ta_wide"),
        ("--auto-augment", "ra"),
    ],
    ids=lambda flags: flags[0],
)
def test_resumed_within_an_epoch_it_continues_to_the_bit(site, plain, flags):
    name = "-".join(map(str, flags)).strip("-")
    whole, weights = run(site, name, 2, *flags, "--save-every", 2, "--keep", 9)
    assert whole[1] != plain[1]
    state = site / name / "checkpoint-00000002.safetensors"
    resumed, after = run(site, f"{name}-resumed", 2, *flags, "--resume", state)
    assert resumed == whole  # with the rows up to the state
    assert all((after[key] == weights[key]).all() for key in weights)


def test_evaluation_and_inference_scale_images_as_training_did(site, alone):
    """The file of the weights says how; the same weights under another interpolation see other pixels."""
    header, flat = load_weights(site / "alone.safetensors")
    assert header.network.interpolation == "bicubic"
    network = replace(header.network, interpolation="bilinear")
    save(site / "bilinear.safetensors", parameter_map(network), flat, {}, replace(header, network=network))
    image = (site / "val.list").read_text().splitlines()[0].split(" ", 1)[1]
    losses, answers = [], []
    for weights in ("alone.safetensors", "bilinear.safetensors"):
        job = on_ranks(1, ["-m", "alexnet_dist.evaluate", "--load", weights, "--data", "val.list", "--json"], site)
        losses.append(json.loads(job.ok().out)["loss"])
        command = ["-m", "alexnet_dist.inference", "--load", weights, "--input", image, "--json"]
        answers.append(start_alone([sys.executable, *command], site).ok().out)
    assert losses[0] == pytest.approx(epoch_results(site / "alone")[-1]["val_loss"], rel=1e-7)
    assert losses[1] != pytest.approx(losses[0], rel=1e-5)
    assert answers[0] != answers[1]
