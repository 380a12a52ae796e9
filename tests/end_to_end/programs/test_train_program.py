"""The way of a user through all programs: prepare, train, evaluate, infer, by their commands and by their modules."""

import json
import math
import re
import shutil
import struct
import sys

import pytest
from launcher import BIN, MPIRUN, Job, alone, events, needs_mpirun, on_ranks, steps, train
from toy_images import CLASSES, PER_CLASS, Pictures

VALIDATION = 0.2  # of each class
RECIPE = f"""
data = "images.list"
val = "val.list"
output-dir = "runs"
save = "weights.safetensors"
sample = ["red/image 1.png", "blue/image 2.jpg"]
width = {1 / 8}
image_size = 67
crop = "none"
flip = false
dropout = 0.2
global-batch = 12
lr = 0.003
lr-patience = 20
threads = 1
workers = 1
epochs = 90  # overruled on the command line
"""
EPOCHS, STEPS_AN_EPOCH = 12, 3  # 36 images


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with images of three classes, lists of them as alexnet-prepare writes them, and a trained network."""
    if MPIRUN is None:
        pytest.skip("there is no mpirun, neither beside Python nor on PATH")
    folder = tmp_path_factory.mktemp("programs")
    Pictures(folder)
    alone([BIN / "alexnet-prepare", "folder", folder, "--output", folder, "--val-fraction", VALIDATION], folder).ok()
    (folder / "recipe.toml").write_text(RECIPE)
    command = [MPIRUN, "-n", "2", str(BIN / "alexnet-train"), "--config", "recipe.toml", "--epochs", str(EPOCHS)]
    with Job(command, folder) as job:
        job.wait().ok()
    (folder / "stdout").write_text(job.out)
    return folder


def evaluation(site, *flags):
    job = on_ranks(2, ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--threads", 1, *flags], site)
    return job.ok().out


def inference(site, *flags, env=None):
    return alone([sys.executable, "-m", "alexnet_dist.inference", "--load", "weights.safetensors", *flags], site, env)


def predictions(job):
    return {line["image"]: line["predictions"] for line in map(json.loads, job.out.splitlines())}


@pytest.fixture
def without_mpi(tmp_path):
    """An environment in which mpi4py can't be imported."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no MPI on this machine')\n")
    return {"PYTHONPATH": str(tmp_path)}


# prepare


def test_prepare_writes_lists(site):
    train_lines, val_lines = ((site / name).read_text().splitlines() for name in ("images.list", "val.list"))
    assert len(val_lines) == len(CLASSES) * PER_CLASS * VALIDATION
    assert len(set(train_lines + val_lines)) == len(CLASSES) * PER_CLASS
    assert (site / "classes.txt").read_text().splitlines() == list(CLASSES)
    for line in train_lines + val_lines:
        label, path = line.split(" ", 1)
        assert path.startswith(CLASSES[int(label)] + "/")
        assert (site / path).is_file()


# train


def test_training_learns(site):
    epochs = events(site / "runs", "epoch")
    assert len(epochs) == EPOCHS
    assert epochs[-1]["validation"]["top1"] >= 0.8  # guessing: 0.33
    assert epochs[-1]["train"]["loss"] < 0.5 * math.log(3)


def test_log_is_for_people(site):
    out = (site / "stdout").read_text()
    progress = re.findall(r"^epoch \d+/12  step 3/3  loss [\d.]+ .* [\d.]+ images/s  ETA \S+$", out, re.MULTILINE)
    assert len(progress) == EPOCHS  # once, not once a rank
    for text in (
        "2 ranks of 1 threads",
        "global batch 12 (--global-batch)",
        "learning rate 0.003",
        "finished after 12",
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
    rows = events(site / "runs", "step")
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * STEPS_AN_EPOCH + 1))
    for row in rows:
        assert row["loss"] > 0
        assert 0 <= row["top1"] <= row["top5"] == 1
        assert row["lr"] == 0.003
        assert row["images_per_second"] > 0
        assert row["seconds"].keys() == {"data", "forward", "backward", "wait", "update"}
        assert all(value >= 0 for value in row["seconds"].values())
    # The phases are parts of the time that the speed is made from, and together most of it.
    phases, total = (
        sum(sum(row["seconds"].values()) for row in rows),
        sum(12 / row["images_per_second"] for row in rows),
    )
    assert 0.5 * total < phases < 1.01 * total
    assert events(site / "runs", "complete") == [
        {"event": "complete", "epoch": EPOCHS, "step": EPOCHS * STEPS_AN_EPOCH, "skipped": 0}
    ]
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
    assert events(folder, "epoch")[0]["train"]["top1"] >= 0.8  # the weights have been loaded
    flags = ["-input", tmp_path / "red" / "image 1.png", "-load", "after.st", "--json"]
    job = alone([BIN / "alexnet-inference", *flags], tmp_path).ok()
    assert len(predictions(job)) == 1


# evaluate


def test_evaluation_is_that_of_training_and_of_inference(site):
    result = json.loads(evaluation(site, "--data", "val.list", "--json"))
    trained = events(site / "runs", "epoch")[-1]["validation"]
    assert result["images"] == trained["images"] == 9
    assert result["top1"] == trained["top1"] * 9
    assert result["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    truth = [line.split(" ", 1) for line in (site / "val.list").read_text().splitlines()]
    told = predictions(inference(site, "--input", *(path for _, path in truth), "--topk", 1, "--json").ok())
    assert sum(told[path][0]["class_id"] == int(label) for label, path in truth) == result["top1"]
    text = evaluation(site, "--data", "val.list")
    assert text.startswith(f"top-1 {result['top1'] / 9:.2%} ({result['top1']} of 9)")


def test_evaluation_by_its_command_and_from_the_c_flags(site):
    with Job(
        [MPIRUN, "-n", "2", str(BIN / "alexnet-evaluate"), "-load", "runs/best.safetensors", "--json"], site
    ) as job:
        job.wait().ok()
    assert json.loads(job.out)["images"] == 36  # images.list, the default


def test_evaluation_names_and_counts_broken_images(site):
    (site / "broken.list").write_text((site / "val.list").read_text() + "1 gone.png\n")
    text = evaluation(site, "--data", "broken.list")
    assert "skipped: broken.list:10: gone.png is missing" in text
    result = json.loads(evaluation(site, "--data", "broken.list", "--json"))
    assert (result["images"], len(result["broken"])) == (9, 1)


# inference


def test_inference_as_text(site):
    lines = inference(site, "--input", "red/image 1.png", "--topk", 2).ok().out.splitlines()
    assert lines[0] == "red/image 1.png"
    assert re.fullmatch(r" +\d+\.\d+%  red", lines[1])
    assert len(lines) == 3


def test_inference_as_json(site):
    told = predictions(inference(site, "--input", "green/image 3.png", "--json").ok())
    (classes,) = told.values()
    assert classes[0]["class"] == "green"
    assert classes[0]["class_id"] == 1
    assert [entry["probability"] for entry in classes] == sorted(
        (entry["probability"] for entry in classes), reverse=True
    )
    assert sum(entry["probability"] for entry in classes) == pytest.approx(1, abs=1e-5)


def test_inference_of_files_folders_and_globs(site):
    flags = ["--input", "red", "green/*.jpg", "blue/image 0.jpg", "--topk", 1, "--json"]
    told = predictions(inference(site, *flags, "--batch-size", 4).ok())
    assert len(told) == PER_CLASS + (PER_CLASS + 1) // 2 + 1
    assert {name.split("/")[0] for name in told} == {"red", "green", "blue"}
    at_once = predictions(inference(site, *flags, "--batch-size", 100).ok())
    for name, (best,) in told.items():
        assert at_once[name][0]["class_id"] == best["class_id"]
        assert at_once[name][0]["probability"] == pytest.approx(best["probability"], abs=1e-5)


def test_inference_goes_on_after_an_unreadable_image(site, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    job = inference(site, "--input", "red/image 1.png", tmp_path / "bad.png", "blue/image 1.png", "--json")
    assert job.code == 2
    assert list(predictions(job)) == ["red/image 1.png", "blue/image 1.png"]
    assert job.err.count("bad.png") == len(job.err.splitlines()) == 1
    assert "is not a JPEG or PNG image" in job.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input", "nothing/*.png"], ("--input", "nothing/*.png")),
        (["--input", "runs"], ("--input", "runs")),
        (["--input", "red", "--topk", "0"], ("--topk", "0")),
        (["--input", "red", "--load", "recipe.toml"], ("recipe.toml", "safetensors")),
        (["--input", "red", "--class-names", "val.list"], ("val.list", "9", "3")),
        ([], ("--input",)),
    ],
)
def test_inference_with_a_mistake(site, flags, words):
    job = inference(site, *flags)
    assert job.code == 2
    assert job.err.count("alexnet-inference: error: ") == len(job.err.splitlines()) == 1
    for word in words:
        assert word in job.err


def test_inference_needs_no_mpi(site, without_mpi):
    job = inference(site, "--input", "red/image 1.png", env=without_mpi).ok()
    assert "red" in job.out


def test_training_without_mpi_says_what_to_install(site, without_mpi):
    job = alone([BIN / "alexnet-train", "--data", "images.list"], site, without_mpi)
    assert job.code == 2
    assert job.err.count("alexnet-train: error: ") == len(job.err.splitlines()) == 1, str(job)
    assert "MPI" in job.err
    assert "pip install" in job.err


def test_model_and_inference_import_no_mpi(tmp_path):
    code = "import sys, alexnet_dist.model, alexnet_dist.inference; print('mpi4py' in sys.modules)"
    assert alone([sys.executable, "-c", code], tmp_path).ok().out.strip() == "False"


# All


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("train", ("--data", "--resume", "--global-batch", "-batchsize", "images.list", "exit codes")),
        ("evaluate", ("--load", "--data", "--json")),
        ("inference", ("--input", "--load", "--topk", "--json")),
        ("prepare", ("folder", "digits", "images.list")),
    ],
)
def test_help(name, flags, tmp_path, without_mpi):
    by_command = alone([BIN / f"alexnet-{name}", "--help"], tmp_path, without_mpi).ok()
    by_module = alone([sys.executable, "-m", f"alexnet_dist.{name}", "--help"], tmp_path, without_mpi).ok()
    assert by_command.out == by_module.out
    assert by_command.err == by_module.err == ""
    for flag in flags:
        assert flag in by_command.out
