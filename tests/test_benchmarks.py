"""The benchmarks run, and end with a line of JSON that has what they promise. No time is asserted."""

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


@pytest.mark.parametrize(("part", "items"), [("scenes", 4), ("layers", 16)])
def test_ops(part, items):
    arguments = ("--parts", part, "--batch", "1", "--threads", "2", "--rounds", "1")
    (result,) = last_line("ops.py", *arguments)["results"]
    assert len(result["items"]) == items
    assert all(item["ms"] > 0 for item in result["items"].values())


def test_breakdown():
    result = last_line("breakdown.py", "--batch", "1", "--threads", "2", "--steps", "1")
    rows = {(entry["block"], entry["part"]): entry["ms"] for entry in result["parts"]}
    assert {f"{layer} {way}" for layer in ("conv1", "conv5", "fc1", "fc3") for way in ("forward", "backward")} <= {
        block for block, _ in rows
    }
    # Products, pooling and transforms are seen in the layers that have them.
    for row in [("conv2 backward", "products"), ("conv1 forward", "pooling"), ("fc1 backward", "update")]:
        assert rows[row] > 0
    # Kernels' own times and the rest add up to the step, which has a loss besides.
    assert sum(rows.values()) <= 1.001 * result["step_ms"]
