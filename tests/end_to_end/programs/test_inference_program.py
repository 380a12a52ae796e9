"""alexnet-inference tells classes as text and as JSON, of files, folders and globs, and says what it can't read."""

import os
import re
import shutil
import sys

import pytest
from commands import inference, predictions
from launcher import alone
from toy_images import PER_CLASS


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


def test_names_that_are_not_utf_8(site, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(site / "red" / "image 1.png", name)
    for flags, words in (([], "caf\\xe9.png"), (["--json"], "caf\\\\xe9.png")):
        assert words in inference(site, "--input", tmp_path, *flags).ok().out
    with open(name, "wb") as file:
        file.write(b"no image")
    job = inference(site, "--input", tmp_path)
    assert job.code == 2
    assert "caf\\xe9.png: is not a JPEG or PNG image" in job.err
    assert "Traceback" not in job.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input", "nothing/*.png"], ("--input", "nothing/*.png")),
        (["--input", "runs"], ("--input", "runs")),
        (["--input", "red", "--topk", "0"], ("--topk", "0")),
        (["--input", "red", "--load", "recipe.toml"], ("recipe.toml", "safetensors")),
        (["--input", "red", "--class-names", "val.list"], ("weights.safetensors", "only there: 'blue'", "--ignore-")),
        ([], ("--input",)),
    ],
)
def test_inference_with_a_mistake(site, flags, words):
    job = inference(site, *flags)
    assert job.code == 2
    assert job.err.count("alexnet-inference: error: ") == len(job.err.splitlines()) == 1
    for word in words:
        assert word in job.err


def test_an_output_whose_name_is_not_utf_8(site, tmp_path):
    """On a terminal of most people: only in the locale C does Python print such a name by itself."""
    output = os.fsencode(tmp_path) + b"/caf\xe9.npy"
    flags = ["--input", "red", "--features", "fc7", "--output", os.fsdecode(output)]
    job = inference(site, *flags, env={"PYTHONIOENCODING": "utf-8:strict"}).ok()
    assert f"caf\\udce9.npy: fc7 of {PER_CLASS} images" in job.out
    assert os.path.exists(output)


def test_a_folder_of_class_folders(site, tmp_path):
    """All below it, but what is hidden, as prepare takes it."""
    for color in ("red", "blue"):
        shutil.copytree(site / color, tmp_path / "album" / "deeper" / color)
    shutil.copy(site / "red" / "image 1.png", tmp_path / "album" / "deeper" / "._image 1.png")
    (tmp_path / "album" / ".thumbs").mkdir()
    (tmp_path / "album" / ".thumbs" / "x.png").write_text("no image")
    job = inference(site, "--input", tmp_path / "album", "--json").ok()
    assert len(predictions(job)) == 2 * PER_CLASS
    assert job.err == ""


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("inference", ("--input", "red", "--load", "theirs.pth")),
        ("evaluate", ("--data", "val.list", "--load", "theirs.pth")),
        ("train", ("--config", "recipe.toml", "--output-dir", "from-theirs", "--load-pretrained", "theirs.pth")),
    ],
)
def test_weights_of_pytorch_are_answered_with_the_line_that_converts_them(site, program, flags):
    (site / "theirs.pth").write_bytes(b"PK\x03\x04")
    job = alone([sys.executable, "-m", f"alexnet_dist.{program}", *flags], site)
    assert (job.code, len(job.err.splitlines())) == (2, 1), str(job)
    assert "must be converted first: alexnet-convert theirs.pth theirs.safetensors" in job.err
