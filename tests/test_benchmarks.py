"""The benchmarks run, and end with a line of JSON that has what they promise. No time is asserted."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.comm.room import shared_memory_room
from alexnet_dist.runs.metrics import read_rows

FOLDER = Path(__file__).parents[1] / "benchmarks"
LIMIT = 500  # seconds for a benchmark; each takes some
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def last_line(program, *arguments):
    command = [sys.executable, str(FOLDER / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"processor", "cores", "numpy"} <= set(result["machine"])
    return result


def test_step():
    (result,) = last_line("step.py", "--batch", "1", "--threads", "1", "--rounds", "1")["results"]
    assert result["images_per_second"] > 0
    assert result["peak_megabytes"] > 500  # parameters and momentum alone are 489 MB
    assert {"batch", "threads", "share_of_peak", "sgemm_peak_gflops", "others_share"} <= set(result)


LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3")
ITEMS = {
    "layers": {f"{layer} {way}" for layer in LAYERS for way in ("forward", "both")},
    "scenes": {"Conv2D 1", "Conv2D 2", "Linear 1", "Linear 2"},
    "inference": {"whole network"},
}


@pytest.mark.parametrize(("part", "batches"), [("layers", [1]), ("scenes", [4]), ("inference", [1, 32])])
def test_ops(part, batches):
    arguments = ("--parts", part, "--batch", "1", "--threads", "2", "--rounds", "1")
    results = last_line("ops.py", *arguments)["results"]
    assert [(result["part"], result["batch"]) for result in results] == [(part, batch) for batch in batches]
    for result in results:
        assert {"threads", "others_share"} <= set(result)
        assert set(result["items"]) == ITEMS[part]
        for item in result["items"].values():
            assert item["ms"] > 0
            assert ("times_c_program" in item) == (part == "scenes")


def test_observing():
    result = last_line("observing.py", "--batch", "1", "--threads", "1", "--steps", "1", "--rounds", "2")
    assert result["parts"][:3] == ["metrics", "log", "live view"]
    for clock in ("wall", "processor"):
        assert len(result[clock]["pairs"]) == 2
        assert min(result[clock]["pairs"]) <= result[clock]["cost"] <= max(result[clock]["pairs"])


def test_breakdown():
    for _ in range(3):
        result = last_line("breakdown.py", "--batch", "1", "--threads", "2", "--steps", "1")
        rows = {(entry["block"], entry["part"]): entry["ms"] for entry in result["parts"]}
        if 0.9 * result["step_ms"] <= sum(rows.values()):  # else the machine may have stalled between two kernels
            break
    assert {f"{layer} {way}" for layer in LAYERS for way in ("forward", "backward")} <= {block for block, _ in rows}
    # Products, pooling and transforms are seen in the layers that have them.
    for row in [("conv2 backward", "products"), ("conv1 forward", "pooling"), ("fc1 backward", "update")]:
        assert rows[row] > 0
    # Kernels' own times and the rest add up to the step, which has a loss besides.
    assert 0.9 * result["step_ms"] <= sum(rows.values()) <= 1.001 * result["step_ms"]


def test_sync_on_hosts():
    if shared_memory_room() < 1e9:
        pytest.skip(
            "the full network's ranks on one host share hundreds of MB, so 1 GB of /dev/shm is asked for, and it has less "
            "free: docker run --shm-size=2g, or as root mount -o remount,size=2g /dev/shm"
        )
    command = [
        sys.executable,
        str(FOLDER / "sync.py"),
        "--hosts",
        "2",
        "--rate",
        "10gbit",
        "--batch",
        "2",
        "--rounds",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if "are not possible" in done.stderr:
        pytest.skip(
            f"only hosts with a network send each other bytes, and no namespaces can stand for them: {done.stderr.strip()}"
        )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])["results"]
    sent = {name: result[name]["megabytes_sent"] for name in ("allreduce", "sharded", "hybrid", "hybrid, one host")}
    assert all(244 < host < 256 for name in ("allreduce", "sharded") for host in sent[name])
    assert all(9.8 < host < 11 for host in sent["hybrid"])  # of which the convolutions' gradients are 9.9
    assert sent["hybrid, one host"] == [0, 0]
    assert all(result[name]["images_per_second"] > 0 for name in sent)


def test_a_rate_needs_hosts():
    command = [sys.executable, str(FOLDER / "sync.py"), "--rate", "1gbit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--rate is of the network between --hosts" in done.stderr


def test_scaling():
    flags = ("--nodes", "4", "--bandwidth", "1", "100", "--global-batch", "2", "128", "--cores", "8")
    result = last_line("scaling.py", "--ranks", "1", "--batch", "1", "--rounds", "1", *flags)
    names = ("allreduce", "sharded", "hybrid")
    assert [
        tuple(step[key] for key in ("cores", "gigabits", "images", "nodes", "strategy"))
        for step in result["predictions"]
    ] == [
        (cores, gigabits, batch, nodes, name)
        for cores in (1, 8)
        for gigabits in (1, 100)
        for batch in (2, 128)
        for nodes in (1, 2, 4)[: min(batch, 3)]  # no more nodes than images
        for name in names
    ]
    for step in result["predictions"]:
        assert (step["wire"] > 0) == (step["sent"] > 0) == (step["messages"] > 0) == (step["nodes"] > 1)
        assert 0 < step["none_hidden"]["images_per_second"] <= step["all_hidden"]["images_per_second"]
        assert step["none_hidden"]["minutes"] >= step["all_hidden"]["minutes"] > 0
    assert [(entry["cores"], entry["gigabits"], entry["batch"]) for entry in result["fastest"]] == [
        (cores, gigabits, batch) for cores in (1, 8) for gigabits in (1, 100) for batch in (2, 128)
    ]
    for entry in result["fastest"]:
        for bound in ("none_hidden", "all_hidden"):
            assert entry[bound][0]["from_nodes"] == 2
            assert all(run["strategies"] and set(run["strategies"]) <= set(names) for run in entry[bound])
    assert result["node"]["summing"] > 0
    assert result["fit"] is None  # a single rank has nothing to sum


PARTS = ("weights", "order", "flips", "masks", "pixels")


@pytest.fixture(scope="module")
def two_lists(tmp_path_factory):
    """Training and validation images of three classes that differ in their colours."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, count in (("train", 25), ("val", 6)):
        lines = []
        for number in range(count):
            pixels = rng.integers(0, 128, (40, 36, 3), np.uint8)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
            lines.append(f"{number % 3} {name}{number}.png\n")
        (folder / f"{name}.list").write_text("".join(lines))
    return folder / "train.list", folder / "val.list"


def learning(two_lists, *arguments):
    data, val = map(str, two_lists)
    small = ("--images", "20", "--width", "0.0625", "--global-batch", "8", "--lr", "0.02")
    return last_line("learning.py", "--data", data, "--val", val, *small, *arguments)


@needs_torch
def test_learning(two_lists):
    result = learning(two_lists, "--seeds", "2", "--epochs", "2")
    finals = {side: [run["curve"][-1] for run in result[side]["runs"]] for side in ("alexnet_dist", "PyTorch")}
    means = {side: sum(values) / 2 for side, values in finals.items()}
    assert all(0 <= value <= 1 for values in finals.values() for value in values)
    assert result["difference"] == pytest.approx(means["alexnet_dist"] - means["PyTorch"])
    # Of two values, the standard error of the mean is half their distance.
    halves = [abs(values[0] - values[1]) / 2 for values in finals.values()]
    assert result["standard_error"] == pytest.approx(math.hypot(*halves))
    assert all(len(run["curve"]) == 2 for side in finals for run in result[side]["runs"])


@needs_torch
@pytest.mark.parametrize("optimizer", ["--lr 0.02", "--opt adamw --lr 0.002 --eps 1e-3 --weight-decay 5"])
def test_learning_with_all_parts_exchanged(two_lists, tmp_path, optimizer):
    """Both sides train in the same way: with the same random numbers, their losses differ by rounding alone."""
    data, val = map(str, two_lists)
    recipe = ["--image-size", "64", "--width", "0.0625", "--global-batch", "8", "--crop", "none", "--epochs", "3"]
    recipe += [*optimizer.split(), "--lr-scheduler", "cosine", "--lr-warmup-epochs", "1", "--label-smoothing", "0.1"]
    losses = {}
    for program in ("-m alexnet_dist.train", f"{FOLDER / 'torch_training.py'} --exchange {' '.join(PARTS)}"):
        flags = [
            "--data",
            data,
            "--val",
            val,
            *recipe,
            "--threads",
            "1",
            "--output-dir",
            str(tmp_path / str(len(losses))),
        ]
        done = subprocess.run([sys.executable, *program.split(), *flags], capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr
        run = tmp_path / str(len(losses))
        of_steps, of_epochs = read_rows(run, "steps"), read_rows(run, "epochs")
        losses[program] = [row["loss"] for row in of_steps] + [row["val_loss"] for row in of_epochs]
    ours, theirs = losses.values()
    assert len(ours) == 12 + 3
    assert max(ours) - min(ours) > 0.01
    assert theirs == pytest.approx(ours, abs=1e-4)


@needs_torch
def test_a_recipe_that_pytorch_does_not_follow_is_refused(two_lists, tmp_path):
    data, val = map(str, two_lists)
    flags = ["--data", data, "--val", val, "--opt", "lars", "--crop", "none", "--output-dir", str(tmp_path / "run")]
    command = [sys.executable, str(FOLDER / "torch_training.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "PyTorch's side knows --opt sgd and adamw only, not lars" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_a_plot_needs_matplotlib():
    command = [sys.executable, str(FOLDER / "scaling.py"), "--plot", "scaling.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'alexnet_dist[plot]'" in done.stderr


def test_data():
    flags = ("--images", "6", "--batch", "2", "--steps", "4", "--rounds", "1", "--workers", "1", "--threads", "1")
    loading, training = last_line("data.py", *flags)["results"]
    for name, others in (("files", {"shards"}), ("shards", {"files"})):
        assert loading[name]["images_per_second_and_worker"] > 0
        assert set(loading[name]["times_as_fast_as"]) == others
    for name in ("files", "shards", "synthetic"):
        assert training[name]["images_per_second"] > 0
        assert set(training[name]["times_as_fast_as"]) == {"synthetic"}
    assert training["synthetic"]["times_as_fast_as"] == {"synthetic": 1}


def serving_rows(*flags):
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    few = ("--clients", "2", "--requests", "2", "--rounds", "1", "--threads", "1", "--batch", "2")
    result = last_line("serving.py", *few, *flags)
    assert {"clients", "threads", "batch", "others_share"} <= set(result)
    for row in result["results"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["images_per_second"] > 0
    return result["results"]


def test_serving():
    rows = serving_rows()
    assert [(row["server"], row["item"]) for row in rows] == [
        ("alexnet_dist", "classes"),
        ("alexnet_dist", "classes and map"),
    ]


@needs_torch
def test_serving_beside_pytorch():
    others = [row for row in serving_rows("--against", "torch") if row["server"] != "alexnet_dist"]
    assert [row["server"] for row in others] == ["torch float32 nchw", "torch float32 channels_last"]
    assert all(row["item"] == "classes" and row["p50_ratio"] > 0 for row in others)
