"""The same global batch on any number of ranks is the same training; evaluation counts exactly, on any number of ranks."""

import json

import numpy as np
import pytest
from launcher import needs_mpirun, on_ranks, steps, train
from safetensors.numpy import load_file

pytestmark = needs_mpirun

# 43 images in batches of 20, 20 and 3: on 8 ranks shares of 2 and 3 images, and at each third step most ranks have none.
IMAGES, BATCH, EPOCHS, STEPS = 43, 20, 7, 21
# A gentle learning rate: at 0.01 and, with OpenBLAS's kernels for AVX2, at 0.001 rounding turns a near tie of a ReLU now and
# then, for one seed in four and with every strategy, and the losses part by 1e-4 to 1e-1; at 0.0003 by 1e-6 at most (8 seeds).
RANDOM = ("--dropout", "0.5", "--crop", "random-resized", "--flip", "--color-noise", "--lr", "0.0003")


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """A function that trains on some ranks: (the losses, the file of the final weights)."""
    folder = pictures.write_lists(tmp_path_factory.mktemp("ranks"), IMAGES, 9)

    def run(name, ranks, *flags):
        base = ["--data", "train.list", "--val", "val.list", "--epochs", EPOCHS, *RANDOM]
        output = ["--output-dir", name, "--save", f"{name}.safetensors"]
        train(ranks, [*base, *output, *flags], folder).ok()
        return steps(folder / name), folder / f"{name}.safetensors"

    return run


@pytest.fixture(scope="module")
def alone(run):
    return run("1-rank", 1, "--global-batch", str(BATCH))


@pytest.mark.parametrize(
    ("ranks", "threads", "sync"),
    [
        *((ranks, 1, sync) for ranks in (2, 4, 8) for sync in ("allreduce", "sharded", "hybrid")),
        *((1, 1, sync) for sync in ("sharded", "hybrid", "auto")),
        (1, 2, "allreduce"),
        (2, 2, "hybrid"),
        (3, 1, "auto"),
    ],
)
def test_ranks_threads_and_strategy_do_not_change_the_training(run, alone, ranks, threads, sync):
    expected, expected_weights = alone
    name = f"{ranks}-ranks-{threads}-threads-{sync}"
    losses, weights = run(name, ranks, "--global-batch", BATCH, "--threads", threads, "--sync", sync)
    assert list(losses) == list(expected) == list(range(1, STEPS + 1))
    assert losses[1] == pytest.approx(expected[1], rel=1e-6)
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert len(set(expected.values())) == STEPS  # so that a loss which never changes can't pass
    one, other = load_file(expected_weights), load_file(weights)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-4 * np.abs(one[name]).max(), err_msg=name)


def test_auto_chooses_the_same_again_and_again(run):
    metrics = []
    for number in range(3):
        losses, weights = run(f"again-{number}", 2, "--global-batch", BATCH, "--sync", "auto")
        log = (weights.parent / f"again-{number}" / "train.log").read_text()
        assert "gradients: hybrid (on one node, ranks share memory)" in log
        arrays = {name: array.tobytes() for name, array in load_file(weights).items()}
        metrics.append((losses, arrays))
    assert metrics[0] == metrics[1] == metrics[2]


@pytest.mark.parametrize("ranks", [2, 4])
def test_batch_of_a_rank_is_the_global_batch_said_otherwise(run, ranks):
    of_a_rank, its_weights = run(f"{ranks}-of-a-rank", ranks, "--batch-size", 5)
    of_all, weights = run(f"{ranks}-of-all", ranks, "--global-batch", 5 * ranks)
    assert of_a_rank == of_all
    one, other = load_file(its_weights), load_file(weights)
    for name in one:
        np.testing.assert_array_equal(other[name], one[name], err_msg=name)


@pytest.fixture(scope="module")
def weights_of_nine_classes(run):
    # Hardly trained, and with more classes than five, so that top-1 and top-5 are neither none nor all.
    _, weights = run("nine-classes", 2, "--global-batch", BATCH, "--num-classes", 9, "--lr", "0.001", "--epochs", 1)
    return weights


@pytest.mark.parametrize("images", [41, 2])
def test_evaluation_is_exact_on_any_number_of_ranks(pictures, weights_of_nine_classes, tmp_path, images):
    pictures.write_list(tmp_path / "all.list", images)
    results = []
    for ranks in (1, 2, 3, 5):
        flags = ["--load", weights_of_nine_classes, "--data", "all.list", "--batch-size", 4, "--threads", 1, "--json"]
        job = on_ranks(ranks, ["-m", "alexnet_dist.evaluate", *flags], tmp_path).ok()
        results.append(json.loads(job.out))
    counts = [[result[key] for key in ("images", "top1", "top5")] for result in results]
    assert counts == [counts[0]] * 4
    assert all(isinstance(count, int) for count in counts[0])
    assert counts[0][0] == images
    assert [result["loss"] for result in results] == pytest.approx([results[0]["loss"]] * 4, rel=1e-5)
