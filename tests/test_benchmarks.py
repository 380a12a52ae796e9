"""The benchmarks run, and end with a line of JSON that has what they promise. No time is asserted."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def last_line(program, *arguments):
    command = [sys.executable, str(FOLDER / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
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


def test_breakdown():
    result = last_line("breakdown.py", "--batch", "1", "--threads", "2", "--steps", "1")
    rows = {(entry["block"], entry["part"]): entry["ms"] for entry in result["parts"]}
    assert {f"{layer} {way}" for layer in LAYERS for way in ("forward", "backward")} <= {block for block, _ in rows}
    # Products, pooling and transforms are seen in the layers that have them.
    for row in [("conv2 backward", "products"), ("conv1 forward", "pooling"), ("fc1 backward", "update")]:
        assert rows[row] > 0
    # Kernels' own times and the rest add up to the step, which has a loss besides.
    assert sum(rows.values()) <= 1.001 * result["step_ms"]


def test_sync_on_hosts():
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if "are not possible" in done.stderr:
        pytest.skip(done.stderr.strip())
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
