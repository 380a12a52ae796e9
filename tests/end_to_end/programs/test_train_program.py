"""alexnet-train learns, tells people and machines how it goes, saves its weights, and takes the C program's flags."""

import json
import math
import re
import shutil
import struct

from commands import EPOCHS, STEPS_AN_EPOCH, predictions
from launcher import BIN, alone, epoch_results, events, needs_mpirun, rows, steps, train
from toy_images import Pictures

PHASES = [f"seconds_{phase}" for phase in ("data", "forward", "backward", "wait", "update")]


def test_training_learns(site):
    epochs = epoch_results(site / "runs")
    assert len(epochs) == EPOCHS
    assert epochs[-1]["val_top1"] >= 0.8  # guessing: 0.33
    assert epochs[-1]["train_loss"] < 0.5 * math.log(3)


def test_log_is_for_people(site):
    out = (site / "stdout").read_text()
    progress = re.findall(r"^epoch \d+/12  step 3/3  loss [\d.]+ .* [\d.]+ images/s  ETA \S+$", out, re.MULTILINE)
    assert len(progress) == EPOCHS  # once, not once a rank
    for text in (
        "2 ranks of 1 thread;",
        "global batch 12 (--global-batch)",
        "learning rate 0.003",
        "finished after 12 epochs and 36 steps",
    ):
        assert out.count(text) == 1
    log = (site / "runs" / "train.log").read_text()
    for line in progress:
        assert line in log


def test_samples_are_watched(site):
    out = (site / "stdout").read_text()
    told = re.findall(r"^  red/image 1.png: (\w+ [\d.]+%)(?: \(before: (.*)\))?$", out, re.MULTILINE)
    assert len(told) == EPOCHS
    assert told[0][1] == ""
    assert [before for _, before in told[1:]] == [now for now, _ in told[:-1]]
    assert told[-1][0].startswith("red ")
    assert "  blue/image 2.jpg: blue " in out


def test_metrics_are_complete(site):
    told = rows(site / "runs", "steps")
    assert [row["step"] for row in told] == list(range(1, EPOCHS * STEPS_AN_EPOCH + 1))
    for row in told:
        assert row["loss"] > 0
        assert 0 <= row["top1"] <= 1
        assert "top5" not in row  # of three classes, it would always be all
        assert row["lr"] == 0.003
        assert row["images_per_second"] > 0
        assert all(row[phase] >= 0 for phase in PHASES)
        assert row["attempt"] == 1
        assert row["epoch"] == (row["step"] + STEPS_AN_EPOCH - 1) // STEPS_AN_EPOCH
        assert row["images"] == 12
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"])
    # The phases are parts of the time that the speed is made from, and together most of it.
    phases, total = (
        sum(row[phase] for row in told for phase in PHASES),
        sum(12 / row["images_per_second"] for row in told),
    )
    assert 0.5 * total < phases < 1.01 * total
    (end,) = events(site / "runs", "complete")
    assert (end["epoch"], end["step"], end["skipped"]) == (EPOCHS, EPOCHS * STEPS_AN_EPOCH, 0)
    assert (site / "runs" / "complete").exists()


def test_saved_weights_are_as_torchvision_reads_them(site):
    data = (site / "weights.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert {name: entry["shape"] for name, entry in header.items()} == {
        "features.0.weight": [8, 3, 11, 11],
        "features.0.bias": [8],
        "features.3.weight": [24, 8, 5, 5],
        "features.3.bias": [24],
        "features.6.weight": [48, 24, 3, 3],
        "features.6.bias": [48],
        "features.8.weight": [32, 48, 3, 3],
        "features.8.bias": [32],
        "features.10.weight": [32, 32, 3, 3],
        "features.10.bias": [32],
        "classifier.1.weight": [512, 32 * 6 * 6],
        "classifier.1.bias": [512],
        "classifier.4.weight": [512, 512],
        "classifier.4.bias": [512],
        "classifier.6.weight": [3, 512],
        "classifier.6.bias": [3],
    }


@needs_mpirun
def test_spellings_of_the_c_program(site, tmp_path):
    """Its flags, and its images.list in the current folder, of which a share is held out."""
    Pictures(tmp_path)
    shutil.copy(site / "images.list", tmp_path)
    flags = ["-batchsize", 8, "-epochs", 1, "-load_pretrained", site / "weights.safetensors", "-save", "after.st"]
    job = train(2, [*flags, "--width", 1 / 8, "--lr", "1e-9", "--crop", "none", "--dropout", 0], tmp_path).ok()
    assert "32 training and 4 validation images" in job.out
    assert "global batch 16 (--batch-size)" in job.out
    folder = tmp_path / "runs" / "alexnet"
    assert len(steps(folder)) == 2
    assert epoch_results(folder)[0]["train_top1"] >= 0.8  # the weights have been loaded
    flags = ["-input", tmp_path / "red" / "image 1.png", "-load", "after.st", "--json"]
    job = alone([BIN / "alexnet-inference", *flags], tmp_path).ok()
    assert len(predictions(job)) == 1
