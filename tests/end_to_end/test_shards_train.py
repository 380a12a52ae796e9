"""Training and evaluation from packed shards: to the bit what they are from the list, on any number of ranks."""

import json
import sys

import pytest
from launcher import alone, assert_refused, epoch_results, needs_mpirun, on_ranks, steps, train

pytestmark = needs_mpirun

RECIPE = ["--epochs", 2, "--global-batch", 8, "--lr", "0.001", "--color-noise", "--save-every", 2, "--keep", 9]
RECIPE += ["--val-fraction", 0.1]  # not val.list, which lies beside it


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    """Lists, their shards, and a run of two epochs from the list that holds a share out."""
    folder = pictures.write_lists(tmp_path_factory.mktemp("shards"), 27, 9)
    for name in ("train", "val"):
        command = ["-m", "alexnet_dist.prepare", "pack", f"{name}.list", "--output", f"{name}-shards"]
        alone([sys.executable, *command], folder).ok()
    train(2, ["--data", "train.list", *RECIPE, "--output-dir", "of-list", "--save", "weights"], folder).ok()
    return folder


def test_packed_and_unpacked_give_the_same_losses_to_the_bit(folder):
    train(2, ["--data", "train-shards", *RECIPE, "--output-dir", "of-shards"], folder).ok()
    expected = steps(folder / "of-list")
    assert len(set(expected.values())) == len(expected) == 6
    assert steps(folder / "of-shards") == expected


def test_a_run_from_the_list_continues_from_its_shards_to_the_bit(folder):
    checkpoint = next((folder / "of-list").glob("checkpoint-*2.safetensors"))
    flags = ["--data", "train-shards", *RECIPE, "--output-dir", "resumed", "--resume", checkpoint]
    job = train(2, flags, folder).ok()
    assert steps(folder / "resumed") == steps(folder / "of-list")
    assert "training images are not those" in job.out  # the log tells that they are named otherwise


@pytest.mark.parametrize("ranks", [1, 3])
def test_evaluation_takes_shards(folder, ranks):
    results = []
    for data in ("val.list", "val-shards"):
        flags = ["--load", "weights", "--data", data, "--batch-size", 2, "--threads", 1, "--json"]
        results.append(json.loads(on_ranks(ranks, ["-m", "alexnet_dist.evaluate", *flags], folder).ok().out))
    assert results[0]["images"] == 9
    assert results[0] == results[1]


def test_validation_takes_shards(folder):
    for val in ("val.list", "val-shards"):
        flags = ["--data", "train.list", "--val", val, "--epochs", 1, "--output-dir", f"run-{val}"]
        train(2, flags, folder).ok()
    of_list, of_shards = (epoch_results(folder / f"run-{val}") for val in ("val.list", "val-shards"))
    assert len(of_list) == 1
    assert of_list == of_shards


def test_a_shard_that_was_cut_off_is_refused_by_all_ranks_at_once(folder, tmp_path):
    copy = tmp_path / "cut"
    copy.mkdir()
    for file in (folder / "train-shards").iterdir():
        (copy / file.name).write_bytes(file.read_bytes()[: -512 if file.suffix == ".tar" else None])
    job = train(2, ["--data", copy, "--output-dir", tmp_path / "run"], folder)
    assert_refused(job, "the shard", "000000.tar has", "copy it again")
