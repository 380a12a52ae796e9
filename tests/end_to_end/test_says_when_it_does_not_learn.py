"""A run that doesn't learn says so, why, and what to do; a healthy one says nothing."""

import math

import pytest
from launcher import assert_refused, epoch_results, events, needs_mpirun, train
from safetensors.numpy import load_file, save_file

pytestmark = needs_mpirun


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    folder = pictures.write_lists(tmp_path_factory.mktemp("learning"), 45, 6)
    # Each image with each label in turn: nothing can be learned from them but how frequent the labels are.
    lines = [f"{label} {path}" for label in range(3) for _, path in pictures.files[:9]]
    (folder / "random.list").write_text("\n".join(lines) + "\n")
    return folder


def flags(output, *more, data="train.list"):
    lists = ["--data", data, "--val", "val.list", "--global-batch", 3, "--lr-scheduler", "step"]
    return [*lists, "--output-dir", output, *more]


def warnings(job):
    return [line for line in job.out.splitlines() if line.startswith("WARNING")]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_healthy_run_says_nothing(site, ranks):
    output = f"healthy-{ranks}"
    job = train(ranks, flags(output, "--epochs", 20, "--lr", "0.003", "--sync", "auto"), site).ok()
    assert warnings(job) == []
    assert events(site / output, "diagnosis") == []
    assert epoch_results(site / output)[-1]["train_loss"] < 0.5 * math.log(3)


@pytest.mark.parametrize("ranks", [1, 2])
def test_labels_that_belong_to_no_image(site, ranks):
    output = f"labels-{ranks}"
    job = train(ranks, flags(output, "--epochs", 34, "--lr", "0.0005", "--sync", "auto", data="random.list"), site).ok()
    (warning,) = warnings(job)
    assert "not learning: after 306 steps" in warning
    assert "1.0986 and 33.33%" in warning  # ln(3)
    assert "check that the labels in the list are those of the images" in warning
    assert "--init" not in warning  # he is in force
    ((entry),) = events(site / output, "diagnosis")
    assert (entry["kind"], entry["step"]) == ("guessing", 306)
    assert entry["text"] in warning


def test_a_learning_rate_too_high(site):
    job = train(2, flags("hot", "--epochs", 40, "--lr", "100"), site)
    assert_refused(job, "loss is nan", "is the first layer whose output isn't finite", "Lower --lr (now 100)", code=65)
    (warning,) = warnings(job)
    assert "step 1 has changed the weights of Linear-21 by" in warning
    assert "lower --lr (now 100)" in warning


def test_layers_whose_units_are_dead_are_named(site):
    train(1, flags("start", "--epochs", 1, "--lr", "0.0001"), site).ok()
    weights = load_file(site / "start" / "best.safetensors")
    for name, value in weights.items():
        if name in ("features.8.bias", "classifier.4.bias"):
            value[:] = -100
    save_file(weights, site / "dead.safetensors")
    more = ("--epochs", 2, "--load-pretrained", "dead.safetensors", "--sync", "hybrid")
    job = train(2, flags("dead", *more), site).ok()
    (warning,) = warnings(job)
    assert "all units are 0 for every image, in step 1: Conv2d-9" in warning
    assert "Linear-19" in warning
    assert "Conv2d-7" not in warning
    assert "without --load-pretrained (dead.safetensors)" in warning


def test_one_is_not_many(site):
    """One rank, thread, image a rank, epoch and step."""
    (site / "one.list").write_text((site / "train.list").read_text().splitlines()[0] + "\n")
    one = ("--epochs", 1, "--val", "one.list", "--num-classes", 3, "--global-batch", 1)
    job = train(1, flags("one", *one, data="one.list"), site).ok()
    for text in (
        "1 training and 1 validation image, 3",
        "1 rank of 1 thread;",
        "1 image a rank",
        "after 1 epoch and 1 step",
    ):
        assert f"{text}\n" in job.out or f"{text} " in job.out, text
