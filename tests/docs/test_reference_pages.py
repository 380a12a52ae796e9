"""The pages of reference say what is so: files, columns and exit codes as in a run, and their programs run."""

import json
import re
from pathlib import Path

import pytest
from end_to_end.launcher import needs_mpirun
from pages import DOCS, SMALL, follow, run, sections

from alexnet_dist import cli, errors

PARTS = sections("run-files.md")
DRAW = """
import numpy as np
from PIL import Image
from pathlib import Path

for number in range(12):
    path = Path("patterns", "dots" if number % 2 else "rings", f"{number // 2}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (70, 80, 3), np.uint8)).save(path)
Image.open("patterns/dots/0.jpg").save("mine.jpg")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, runs/patterns."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "draw.py").write_text(DRAW)
    train = f"mpirun -n 2 python -m alexnet_dist.train --data patterns --epochs 2 {SMALL}"
    run(f"python draw.py && {train} --output-dir runs/patterns", folder)
    return folder


@needs_mpirun
def test_files_of_a_run(home: Path) -> None:
    told = {re.sub("<.*?>", "*", name) for name in re.findall(r"^\| `([^`]+)` \|", PARTS["A run's folder"], re.M)}
    there = {path.name for path in (home / "runs/patterns").iterdir() if not path.name.startswith(".")}
    assert {re.sub(r"\d{8}", "*", name) for name in there} == told


@needs_mpirun
@pytest.mark.parametrize("table", ["steps", "epochs", "ranks", "events"])
def test_columns(home: Path, table: str) -> None:
    rows = [json.loads(line) for line in (home / f"runs/patterns/{table}.jsonl").read_text().splitlines()]
    shared = set(re.findall(r"^\| `(\w+)` \|", PARTS["Rows"], re.M))
    own: set[str] = set()
    for files, columns in re.findall(r"^\| ((?:steps|epochs|ranks|events)[\w, ]*) \| (`.*?`) \|", PARTS["Rows"], re.M):
        if table in files.split(", "):
            own |= set(re.findall(r"`(\w+)`", columns))
    assert own
    for row in rows:
        assert shared <= row.keys()
        assert not any(isinstance(value, (dict, list)) for value in row.values())
        if table == "events":
            assert f"`{row['event']}`" in PARTS["Rows"]
        else:  # two classes: no top-5
            assert {name for name in own if not name.endswith("top5")} == row.keys() - shared


@needs_mpirun
@pytest.mark.parametrize("page", ["run-files.md", "python.md"])
def test_programs_run(home: Path, page: str) -> None:
    assert follow((DOCS / page).read_text(encoding="utf-8"), home)


def test_every_exit_code_is_there() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PARTS["Exit codes"], re.M)}
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    assert told == {0, cli.INTERRUPTED} | codes
