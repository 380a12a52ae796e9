"""alexnet-evaluate counts what training and inference count, and the images that it could not read."""

import csv
import json
import os
import shutil
import signal
import time

import pytest
from commands import EPOCHS, inference, predictions
from launcher import BIN, MPIRUN, Job, alone, assert_refused, on_ranks, validations
from toy_images import CLASSES

from alexnet_dist.evaluate import show
from alexnet_dist.preparation.pack import pack
from alexnet_dist.training.evaluation import Evaluation
from alexnet_dist.training.progress import Sums


def evaluation(site, *flags):
    job = on_ranks(2, ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--threads", 1, *flags], site)
    return job.ok().out


def test_evaluation_is_that_of_training_and_of_inference(site):
    result = json.loads(evaluation(site, "--data", "val.list", "--json"))
    trained = validations(site / "runs")[EPOCHS]
    assert result["images"] == trained["val_images"] == 9
    assert result["top1"] == trained["val_top1"] * 9
    assert result["loss"] == pytest.approx(trained["val_loss"], rel=1e-5)
    truth = [line.split(" ", 1) for line in (site / "val.list").read_text().splitlines()]
    told = predictions(inference(site, "--input", *(path for _, path in truth), "--topk", 1, "--json").ok())
    assert sum(told[path][0]["class_id"] == int(label) for label, path in truth) == result["top1"]
    text = evaluation(site, "--data", "val.list")
    assert text.startswith(f"top-1 {result['top1'] / 9:.2%} ({result['top1']} of 9)  loss ")
    assert "top5" not in result  # of three classes, it would always be all


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


def test_not_every_broken_image_of_many_is_named(capsys):
    broken = tuple(f"images.list:{number}: {number}.jpg is missing" for number in range(250))
    show(Evaluation(Sums(0.5, 1, 1, 2), broken, classes=10), as_json=False)
    *skipped, result = capsys.readouterr().out.splitlines()
    assert skipped[:100] == [f"skipped: {message}" for message in broken[:100]]
    assert skipped[100:] == ["skipped: 150 further images that can't be read (--json names all)"]
    assert result.startswith("top-1 50.00%")
    show(Evaluation(Sums(0.5, 1, 1, 2), broken[:100], classes=10), as_json=False)
    assert len(capsys.readouterr().out.splitlines()) == 101


@pytest.mark.parametrize("flags", [(), ("--ten-crop",)])
def test_files_are_the_same_on_any_number_of_ranks(site, tmp_path, flags):
    files = ("predictions", "per-class", "confusion")
    contents = []
    for ranks in (1, 2, 4):
        named = [word for name in files for word in (f"--{name}", tmp_path / f"{name}-{ranks}.csv")]
        command = ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--threads", 1, "--batch-size", 4]
        out = on_ranks(ranks, [*command, *named, *flags], site).ok().out
        contents.append([out, *((tmp_path / f"{name}-{ranks}.csv").read_text() for name in files)])
    assert contents[0] == contents[1] == contents[2]
    table, per_class, matrix = ([*csv.DictReader(text.splitlines())] for text in contents[0][1:])
    listed = [line.split(" ", 1) for line in (site / "images.list").read_text().splitlines()]
    assert [(row["class"], row["image"]) for row in table] == [(CLASSES[int(label)], path) for label, path in listed]
    right = sum(row["class"] == row["predicted_1"] for row in table)
    assert contents[0][0].startswith(f"top-1 {right / 36:.2%} ({right} of 36)")
    assert sum(int(row["correct"]) for row in per_class) == right
    assert sum(int(row[row["class"]]) for row in matrix) == right
    assert sum(int(row[name]) for row in matrix for name in CLASSES) == 36


def test_predictions_are_the_same_from_shards_and_have_a_line_an_image(site, tmp_path):
    pack(site / "val.list", tmp_path / "shards")
    for data, name in ((site / "val.list", "files"), (tmp_path / "shards", "shards")):
        evaluation(site, "--data", data, "--predictions", tmp_path / f"{name}.csv")
    lines = (tmp_path / "shards.csv").read_text().splitlines()
    assert lines == (tmp_path / "files.csv").read_text().splitlines()
    assert len(lines) == 1 + 9


@pytest.fixture
def renamed(site, tmp_path):
    """A function that gives images.list other class names; it returns the list's path."""

    def rename(*names):
        lines = (site / "images.list").read_text().splitlines()
        (tmp_path / "images.list").write_text("".join(f"{line[0]} {site / line[2:]}\n" for line in lines))
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in names))
        return tmp_path / "images.list"

    return rename


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("Horse", "V\u00f6gel", "airplane"),
            ("weights.safetensors", "only there: 'blue', 'green', 'red'", "only here: 'Horse', 'V\u00f6gel'"),
        ),
        (("blue", "green"), ("class id 2", "names 2 classes")),
    ],
)
def test_other_classes_are_refused(site, renamed, names, words):
    flags = ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--data", renamed(*names)]
    assert_refused(on_ranks(2, flags, site), *words, program="alexnet-evaluate")
    assert on_ranks(1, [*flags, "--ignore-class-names"], site).ok().out.startswith("top-1")


def test_the_same_classes_in_another_order_are_matched(site, renamed):
    expected = json.loads(evaluation(site, "--json"))
    path = renamed("red", "blue", "green")
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{(int(line[0]) + 1) % 3}{line[1:]}\n" for line in lines))
    result = json.loads(evaluation(site, "--data", path, "--json"))
    assert result["top1"] == expected["top1"] > 20
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert json.loads(evaluation(site, "--data", path, "--json", "--ignore-class-names"))["top1"] < 10


def test_images_that_lack_a_class_are_matched_by_name(site, tmp_path):
    """As a folder, and packed: each numbers its two classes 0 and 1, which are the network's 1 and 2."""
    lines = [line for line in (site / "images.list").read_text().splitlines() if line[0] != "0"]
    (tmp_path / "two.list").write_text("".join(f"{line[0]} {site / line[2:]}\n" for line in lines))
    for number, line in enumerate(lines):
        source = site / line[2:]
        target = tmp_path / "val" / CLASSES[int(line[0])] / f"{number:03}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    pack(tmp_path / "val", tmp_path / "shards")
    expected = json.loads(evaluation(site, "--data", tmp_path / "two.list", "--json"))
    assert expected["top1"] > 12  # of 24
    for data in ("val", "shards"):
        result = json.loads(evaluation(site, "--data", tmp_path / data, "--json"))
        assert result["top1"] == expected["top1"], data
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_one_rank_needs_no_mpi(site, without_mpi, tmp_path):
    command = [BIN / "alexnet-evaluate", "--load", "weights.safetensors", "--data", "val.list", "--json"]
    with_it, without = (json.loads(alone(command, site, env).ok().out) for env in (None, without_mpi))
    assert without == with_it
    job = alone(command, site, {**without_mpi, "PMI_SIZE": "2"})  # one of two ranks must not take itself for all
    assert job.code == 2
    assert "pip install" in job.err


def test_files_that_cannot_be_written_are_refused_before_the_work(site, tmp_path):
    flags = ["-m", "alexnet_dist.evaluate", "--load", "weights.safetensors", "--confusion", tmp_path]
    assert_refused(on_ranks(2, flags, site), str(tmp_path), program="alexnet-evaluate")


def test_ctrl_c_is_one_line(site):
    (site / "long.list").write_text((site / "val.list").read_text() * 5000)
    command = [BIN / "alexnet-evaluate", "--load", "weights.safetensors", "--data", "long.list", "--threads", 1]
    with Job(list(map(str, command)), site) as job:
        # It decodes: the network's threads and those of the loader are there.
        job.until(lambda: len(os.listdir(f"/proc/{job.process.pid}/task")) > 1, "it works")
        time.sleep(1)
        job.signal(signal.SIGINT)
        job.wait()
    assert job.code == 130, str(job)
    ours, *mpis = job.err.splitlines()  # MPI may say that it was told to end
    assert ours == "alexnet-evaluate: interrupted"
    assert len(mpis) <= 1, str(job)
