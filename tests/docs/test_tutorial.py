"""The tutorial does what it says: its own blocks, in their order, with few pictures and a small network."""

import csv
import re
from pathlib import Path

import pytest
from end_to_end.launcher import needs_mpirun
from pages import DOCS, blocks, follow

from alexnet_dist.runs.metrics import read_run

PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
CLASSES = ["checks", "dots", "rings", "stripes", "waves"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, follow(PAGE, folder)


@needs_mpirun
def test_every_command_works(done: tuple[Path, list[str]]) -> None:
    folder, printed = done
    assert len(printed) > 8
    assert (folder / "runs/patterns/complete").exists()
    assert (folder / "patterns/classes.txt").read_text().split() == CLASSES
    epochs = read_run(folder / "runs/patterns").epochs
    assert [row["epoch"] for row in epochs] == list(range(1, 21))
    # What ends the tenth epoch may be done again by the second command, which goes on from its checkpoint; no step is.
    assert [row["attempt"] for row in epochs if row["epoch"] != 10] == [1] * 9 + [2] * 10


@needs_mpirun
def test_what_it_reads_out_is_there(done: tuple[Path, list[str]]) -> None:
    folder, printed = done
    with (folder / "confusion.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(CLASSES)
    assert [row[0] for row in rows[1:]] == CLASSES
    assert sum(name in printed[-3] for name in CLASSES) == 3  # inference, --topk 3
    assert printed[-1].count("[(") == 2  # the program, k=2 of two pictures
    assert printed[-1].count("('") == 4


def test_no_block_is_passed_over() -> None:
    assert PAGE.count("```") == 2 * len(blocks(PAGE))
    assert {block.language for block in blocks(PAGE)} == {"text", "python", "bash", "toml"}


def test_the_start_pages_commands_are_the_readmes() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    lines = "".join(block.text for block in blocks((DOCS / "index.md").read_text(encoding="utf-8"))).splitlines()
    told = [line.split("  #")[0].strip() for line in lines]
    assert len(told) == 4
    for command in told:
        assert re.search(rf"^{re.escape(command)}( |$)", readme, re.M), command
