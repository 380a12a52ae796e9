"""alexnet-train learns, tells people and machines how it goes, saves its weights, and takes the C program's flags."""

import csv
import json
import math
import re
import shutil
import struct
import sys

import numpy as np
import pytest
from commands import EPOCHS, STEPS_AN_EPOCH, predictions
from launcher import BIN, alone, epoch_results, events, needs_mpirun, rows, steps, train
from toy_images import Pictures

from alexnet_dist.runs.metrics import read_run

PHASES = [f"seconds_{phase}" for phase in ("data", "forward", "backward", "wait", "update")]


def test_training_learns(site):
    epochs = epoch_results(site / "runs")
    assert len(epochs) == EPOCHS
    assert epochs[-1]["val_top1"] >= 0.8  # guessing: 0.33
    assert epochs[-1]["train_loss"] < 0.5 * math.log(3)


def test_log_is_for_people(site):
    out = (site / "stdout").read_text()
    progress = re.findall(r"^epoch \d+/12 step 3/3  loss [\d.]+ .* [\d.]+ images/s  ETA \S+$", out, re.MULTILINE)
    assert len(progress) == EPOCHS  # once, not once a rank
    for text in (
        "2 ranks of 1 thread;",
        "global batch 12 (--global-batch)",
        "learning rate 0.003",
        "finished after 12 epochs and 36 steps in ",
    ):
        assert out.count(text) == 1
    log = (site / "runs" / "train.log").read_text()
    for text in ("Conv2d-1 ", "convolution to "):  # the layers are in the file alone
        assert text in log
        assert text not in out
    for line in progress:
        assert line in log


def test_the_end_says_what_has_come_of_it_and_where_it_is(site):
    end = (site / "stdout").read_text().split("finished after")[1]
    (best,) = re.findall(r"^best: epoch (\d+), validation top-1 ([\d.]+)%, loss [\d.]+$", end, re.MULTILINE)
    top1 = {row["epoch"]: row["val_top1"] for row in epoch_results(site / "runs")}
    assert 100 * max(top1.values()) == pytest.approx(float(best[1]), abs=0.01)
    assert top1[int(best[0])] == max(top1.values())
    named = set(re.findall(r"^  (\S+)  +\S", end.split("to go on:")[0], re.MULTILINE))
    named |= set(re.findall(r"^report: (.*)$", end, re.MULTILINE))
    there = {f"runs/{path.name}" for path in (site / "runs").iterdir()}
    assert there - named == set()
    assert named - there == {"weights.safetensors"}
    assert "alexnet-evaluate --load runs/best.safetensors --data val.list" in end


def test_run_json_says_how_it_was_made(site):
    info = read_run(site / "runs").info
    assert info["flags"]["epochs"] == EPOCHS
    assert info["flags"]["lr"] == 0.003
    assert (info["ranks"], info["threads"], len(info["hosts"])) == (2, 1, 2)
    assert info["class_names"] == ["blue", "green", "red"]
    assert info["images"]["validation"] == {"count": 9, "source": "val.list"}
    assert info["global_batch"] == 12
    assert info["versions"]["numpy"] == np.__version__
    assert info["processor"]
    assert [(start["attempt"], start["step"]) for start in info["starts"]] == [(1, 0)]


def test_each_rank_has_a_row_an_epoch(site):
    told = rows(site / "runs", "ranks")
    assert [(row["epoch"], row["rank"]) for row in told] == [
        (epoch, rank) for epoch in range(1, EPOCHS + 1) for rank in (0, 1)
    ]
    assert all(row["host"] and all(row[phase] >= 0 for phase in PHASES) for row in told)
    # Rank 0's are the sums of its steps'.
    for phase in PHASES:
        of_steps = sum(row[phase] for row in rows(site / "runs", "steps"))
        assert sum(row[phase] for row in told if row["rank"] == 0) == pytest.approx(of_steps, abs=1e-3)


def test_predictions_are_those_of_the_best_weights(site):
    flags = ["--load", "runs/best.safetensors", "--data", "val.list", "--predictions", "told.csv", "--threads", 1]
    alone([sys.executable, "-m", "alexnet_dist.evaluate", *flags], site).ok()
    files = (site / "runs" / "predictions.csv", site / "told.csv")
    ours, theirs = (list(csv.DictReader(file.read_text().splitlines())) for file in files)
    assert len(ours) == 9
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert [one[name] for name in ("image", "class", "predicted_1")] == [
            other[name] for name in ("image", "class", "predicted_1")
        ]
        assert float(one["probability_1"]) == pytest.approx(float(other["probability_1"]), rel=1e-3)


def test_the_header_comes_first_and_layers_when_they_are_wanted(site):
    given = ["--data", "images.list", "--epochs", 1, "--global-batch", 5, "--output-dir", "header", "--summary"]
    out = train(2, [*given, "--sync", "measure", "--threads", 8], site).ok().out
    order = [
        "output: header",
        "2 ranks of 8 threads; global batch 5 (--global-batch), 2 or 3 images a rank",
        "they take turns",
        "measuring some steps of each strategy (--sync measure)",
        "gradients: ",
        "Conv2d-1 ",
        "epoch 1/1 step ",
    ]
    places = [out.index(text) for text in order]
    assert places == sorted(places)
    assert "share" in out.split("they take turns")[0].splitlines()[-1]
    assert "an epoch is one step" not in out


def test_a_batch_of_more_than_all_images_is_pointed_out(site):
    given = ["--data", "images.list", "--val", "val.list", "--epochs", 1, "--global-batch", 37, "--output-dir", "few"]
    out = train(1, given, site).ok().out
    assert "an epoch is one step, since the global batch (37) is larger than the training images (36)" in out


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
    # The phases are parts of the time that the speed is made from, and together most of it (a machine may stall between).
    phases = np.array([sum(row[phase] for phase in PHASES) for row in told])
    total = np.array([12 / row["images_per_second"] for row in told])
    assert phases.sum() < 1.01 * total.sum()
    assert np.median(phases / total) > 0.5
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
