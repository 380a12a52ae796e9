"""--deterministic: the same losses and weights, to the bit, on 1, 2, 4 and 8 ranks of any number of threads."""

import functools

import pytest
from launcher import assert_refused, epoch_results, needs_mpirun, rows, train
from safetensors.numpy import load_file

pytestmark = needs_mpirun

# Steps of 20, 20 and 3 images: pieces of 2 and 3, and in the last step some without an image. 9 validation images: on one rank
# in one block, on 8 in blocks of 3.
IMAGES, BATCH, EPOCHS = 43, 20, 3
BASE = ("--data", "train.list", "--val", "val.list", "--epochs", EPOCHS, "--global-batch", BATCH, "--lr", "0.003")


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """A function that trains on some ranks: (what was measured, the bytes of the final weights)."""
    folder = pictures.write_lists(tmp_path_factory.mktemp("deterministic"), IMAGES, 9)
    train(1, [*BASE, "--epochs", 1, "--output-dir", "pretrained"], folder).ok()

    @functools.cache
    def run(ranks, *flags):
        name = "-".join(map(str, (ranks, *flags))).replace("/", "_")
        output = ["--output-dir", name, "--save", f"{name}.safetensors"]
        train(ranks, [*BASE, *output, *flags], folder).ok()
        of_steps = [[row["loss"], row["top1"]] for row in rows(folder / name, "steps")]
        measured = [*of_steps, *epoch_results(folder / name)]
        arrays = load_file(folder / f"{name}.safetensors")
        return measured, {key: array.tobytes() for key, array in arrays.items()}

    return run


SETTINGS = {
    "": (),
    "with everything": ("--flip", "--color-noise", "--mixup-alpha", "0.2", "--random-erasing", "0.5", "--ema-decay", "0.9",
                        "--opt", "adamw", "--label-smoothing", "0.1", "--on-nan", "skip"),
    "direct": ("--conv", "direct"),
    "frozen": ("--freeze", "2", "--load-pretrained", "pretrained/best.safetensors"),
    "frozen, features kept": ("--freeze", "2", "--load-pretrained", "pretrained/best.safetensors",
                              "--crop", "none", "--no-flip", "--conv", "direct"),
    "large": ("--image-size", "131"),
    "larger": ("--image-size", "224", "--width", "0.03125"),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_ranks_and_threads_change_no_bit(run, setting):
    flags = ("--sync", "auto", "--deterministic", *SETTINGS[setting])
    expected = run(1, *flags)
    assert len({str(one) for one in expected[0]}) > EPOCHS
    for ranks, threads in ((1, 3), (2, 1), (2, 2), (4, 1), (8, 1)) if not setting else ((1, 3), (4, 2)):
        assert run(ranks, *flags, "--threads", threads) == expected, f"{ranks} ranks of {threads} threads"
    assert run(1, *flags, "--sync", "hybrid") == expected


def test_without_it_bits_differ(run):
    assert run(1, "--sync", "auto")[1] != run(4, "--sync", "auto")[1]


def test_a_run_goes_on_with_other_ranks(run, pictures, tmp_path):
    folder = pictures.write_lists(tmp_path, IMAGES, 9)
    flags = ["--sync", "auto", "--deterministic"]
    train(4, [*BASE, "--epochs", 1, "--output-dir", "run", *flags], folder).ok()
    train(1, [*BASE, "--output-dir", "run", "--resume", "--save", "w.safetensors", *flags], folder).ok()
    arrays = {key: array.tobytes() for key, array in load_file(folder / "w.safetensors").items()}
    assert arrays == run(1, *flags)[1]


def test_other_numbers_of_ranks_are_refused(pictures, tmp_path):
    folder = pictures.write_lists(tmp_path, IMAGES, 9)
    job = train(3, [*BASE, "--output-dir", "run", "--sync", "auto", "--deterministic"], folder)
    assert_refused(job, "--deterministic needs 1, 2, 4 or 8 ranks, not 3")
