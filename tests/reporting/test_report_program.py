"""alexnet-report as a person runs it, on folders that training might have left."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from PIL import Image
from run_folder import CLASSES, make_run

from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.reporting.classes import BARS, MATRIX
from alexnet_dist.reporting.making import write_report
from alexnet_dist.reporting.page import names
from alexnet_dist.reporting.pictures import GAP, SCALE, filters_png
from alexnet_dist.runs import checkpoint

FIGURES = {"loss", "top1", "learning-rate", "throughput", "ranks", "confusion", "classes"}


def report(*words: str | Path, cwd: Path | None = None, without: str = "") -> subprocess.CompletedProcess:
    """`without` is a package that seems not to be installed."""
    program = (
        f"import sys; sys.modules[{without!r}] = None; from alexnet_dist.report import main; raise SystemExit(main())"
    )
    command = ["-c", program] if without else ["-m", "alexnet_dist.report"]
    return subprocess.run(
        [sys.executable, *command, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=90
    )


def page_of(result: subprocess.CompletedProcess, path: Path) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.splitlines()[0] == f"report: {path}"
    return path.read_text(encoding="utf-8")


def specs(page: str) -> dict[str, dict]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "the run")


def test_one_page_and_the_figures_as_files(folder: Path, tmp_path: Path) -> None:
    page = page_of(report(folder, "--figures", tmp_path / "figures"), folder / "report.html")
    assert set(specs(page)) == FIGURES
    assert "<script src" not in page
    assert '<link rel="stylesheet"' not in page
    assert len(page) < 2_000_000
    assert "<b>rose</b> & thorn" not in page.split("<script>")[0]  # names of classes are text
    assert "&lt;b&gt;rose&lt;/b&gt; &amp; thorn" in page
    assert "Löwenzahn" in page
    assert page.count("data:image/jpeg") == 5 + 12
    for name in FIGURES:
        with Image.open(tmp_path / "figures" / f"{name}.png") as picture:
            assert picture.width > 1000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
        with open(tmp_path / "figures" / f"{name}.csv", encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) >= 4
    with open(tmp_path / "figures" / "classes.csv", encoding="utf-8", newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(CLASSES)


def test_runs_are_compared(runs: list[Path], tmp_path: Path) -> None:
    result = report(*runs, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "report: report.html\n", "")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    loss = json.dumps(specs(page)["loss"])
    assert '"run": "first"' in loss
    assert '"run": "second"' in loss
    assert {"confusion-1", "confusion-2", "ranks-1", "classes-2"} < set(specs(page))
    assert re.search(r"<td>--lr</td><td>0.01</td><td>0.05</td>", page)


def rates(page: str) -> tuple[str, list[float]]:
    """What the page says of the learning rate, and the labels of its axis."""
    text = re.search(r'aria-label="Learning rate: (.*?)"', page)
    axis = next(
        layer["encoding"]["y"]["axis"] for layer in specs(page)["learning-rate"]["layer"] if "y" in layer["encoding"]
    )
    assert text
    return text[1], axis.get("values", [])


def test_the_falls_of_a_learning_rate_are_named_and_labelled(folder: Path, tmp_path: Path) -> None:
    text, labels = rates(written(folder))
    assert text.endswith("the rate of each step. It falls once, at a dotted line.")
    assert labels == pytest.approx([0.01, 0.001])
    other = make_run(tmp_path / "other", lr=0.05, scheduler="cosine")
    text, _ = rates(write_report([folder, other], tmp_path / "both.html")[0].read_text(encoding="utf-8"))
    assert text.endswith("That of the run falls once, at a dotted line.")
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    falling = [{**row, "lr": 0.97 ** row["step"]} for row in rows]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in falling))
    text, labels = rates(written(folder))
    assert text.endswith(f"It falls {len(rows) - 1} times, at dotted lines.")
    assert 4 <= len(labels) <= 8
    assert labels[0] == falling[0]["lr"]


def test_each_figure_has_a_unit_at_its_axes_and_a_sentence(folder: Path) -> None:
    page = written(folder)
    for name, title in (("loss", "loss"), ("top1", "share of images"), ("learning-rate", "learning rate")):
        assert {"title": title}.items() <= specs(page)[name]["layer"][-1]["encoding"]["y"].items()
    assert specs(page)["throughput"]["encoding"]["y"]["title"] == "images a second"
    assert "Cross-entropy, the mean over images" in page
    assert "<dt>Time in steps and validation</dt><dd>46s</dd>" in page  # the log says what the run took, in all
    assert (
        "The share of images whose class is the network&#39;s first guess. Best in validation 85.00%, after epoch 4"
        in page
    )


@pytest.mark.parametrize(("most", "label"), [(10.5, "10"), (165.0, "160")])
def test_losses_are_labelled_as_people_write_them(folder: Path, most: float, label: str) -> None:
    """Vega's own choice of a precision made 1e+1 of 10, and 1.6e+2 of 160."""
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    high = [{**row, "loss": most} if row["step"] == 1 else row for row in rows]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in high))
    drawn = vl_convert.vegalite_to_svg(specs(written(folder))["loss"] | {"width": 600})
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert label in labels, labels
    assert not [label for label in labels if re.search(r"\de", label)]


def test_of_equal_epochs_the_one_whose_weights_were_kept_is_named(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    equal = [{**row, "val_top1": 0.85, "best": row["epoch"] in (1, 3)} for row in rows]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in equal))
    page = written(folder)
    assert "Best in validation 85.00%, after epoch 3; 85.00% at the end." in page
    assert "<dt>Best epoch</dt><dd>3 of" in page


def written(folder: Path) -> str:
    """The page, made in this process."""
    return write_report([folder], folder / "report.html")[0].read_text(encoding="utf-8")


def test_what_is_missing_is_left_out_and_named(folder: Path) -> None:
    images = folder.parent / "images"
    (images / "20 & more.jpg").write_bytes(b"no image")
    (images / "15 & more.jpg").unlink()
    (folder / "best.safetensors").unlink()
    page = written(folder)
    assert page.count("data:image/jpeg") == 3 + 12
    assert page.count("Image left out") == 2
    assert "20 &amp; more.jpg is not a JPEG or PNG image" in page
    assert "15 &amp; more.jpg" in page
    assert "No filters" in page
    shutil.rmtree(images)
    page = written(folder)
    assert "data:image/jpeg" not in page
    assert "images.list" in page


def test_a_run_that_has_just_begun(folder: Path) -> None:
    for name in ("epochs.jsonl", "ranks.jsonl", "events.jsonl", "predictions.csv", "best.safetensors"):
        (folder / name).unlink()
    page = written(folder)
    assert set(specs(page)) == {"loss", "learning-rate", "throughput", "ranks"}
    assert "not finished, 40 steps made" in page
    rows = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "steps.jsonl").write_text(rows[0])
    assert "not finished, 1 step made" in written(folder)
    (folder / "steps.jsonl").unlink()
    assert "no step made" in written(folder)


def test_a_folder_s_name_may_be_anything(runs: list[Path], tmp_path: Path) -> None:
    odd = shutil.copytree(runs[0], tmp_path / os.fsdecode(b"a <run> \xff"))
    (odd / "best.safetensors").unlink()
    page = written(odd)
    assert r"<h1>Training of a &lt;run&gt; \xff</h1>" in page
    assert r"\udcff/best.safetensors" in page
    assert specs(page)["loss"]


def test_runs_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    assert names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert names([tmp_path / "a" / "run", tmp_path / "run"]) == ["a/run", f"{tmp_path.name}/run"]
    assert names([tmp_path / "one", tmp_path / "other"]) == ["one", "other"]


def test_many_classes_are_reduced_to_what_can_be_read(tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "run", classes=[f"class {number}" for number in range(100)], images=300))
    matrix = json.dumps(specs(page)["confusion"])
    assert len(set(re.findall(r'"taken for": "(class \d+)"', matrix))) == MATRIX
    assert f"in all 100 classes; the matrix has the {MATRIX} classes with the most mistakes" in page
    assert f"{BARS} of 100 classes" in page


def test_mistakes_get_one_line(folder: Path, tmp_path: Path) -> None:
    for words, message in (
        ([tmp_path / "nothing"], "nothing is no run's folder"),
        ([folder, folder], "a run is given twice"),
        ([], "required"),
    ):
        result = report(*words)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr


@pytest.mark.parametrize("package", ["altair", "vl_convert", "jinja2"])
def test_a_missing_package_is_named_with_the_command(folder: Path, package: str) -> None:
    result = report(folder, without=package)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"needs the package {package}" in result.stderr
    assert "pip install 'alexnet_dist[report]'" in result.stderr


def test_filters_are_what_the_weights_hold(tmp_path: Path) -> None:
    network = Network(num_classes=2, image_size=64, width=1 / 16)  # four filters
    parameters = parameter_map(network)
    flat = np.zeros(parameters.size, np.float32)
    first = parameters.specs[0]
    stored = np.zeros((4, 3, 11, 11), np.float32)
    stored[1, 0, 2, 5] = 3  # red, in the third row and sixth column of the second filter
    stored[3, 2] = -1  # blue is the least everywhere in the fourth
    first.from_file(stored, parameters.views(flat)[first.name])
    checkpoint.save(tmp_path / "best.safetensors", parameters, flat, {}, checkpoint.Header(network))
    content, count = filters_png(tmp_path / "best.safetensors")
    assert count == 4
    with Image.open(BytesIO(content)) as picture:
        pixels = np.asarray(picture)[::SCALE, ::SCALE]
    step = 11 + GAP
    assert pixels.shape == (2 * step - GAP, 3 * step - GAP, 4)
    assert pixels[2, step + 5].tolist() == [255, 0, 0, 255]
    assert pixels[3, step + 5].tolist() == [0, 0, 0, 255]
    assert pixels[step, 0].tolist() == [255, 255, 0, 255]
    assert pixels[11, 0, 3] == 0  # a gap
