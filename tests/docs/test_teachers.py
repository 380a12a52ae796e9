"""The five exercises: their solutions run from the page's own blocks, and show what the page says one should see."""

import re
from pathlib import Path

import pytest
from end_to_end.launcher import needs_mpirun, open_mpi
from pages import SMALL, blocks, commands, follow, run, sections, small

PARTS = sections("teachers.md")
GRADIENT, DROPOUT, FILTERS, RANKS, BREAK = (name for name in PARTS if name.startswith("Exercise"))

pytestmark = needs_mpirun


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After "Before the first", with few pictures and a small network."""
    folder = tmp_path_factory.mktemp("exercises")
    for name, part in sections("tutorial.md").items():
        if name[:2] in ("1.", "2.", "3.", "5."):
            follow(part, folder, epochs={"3.": 1, "5.": 2}.get(name[:2]))
    follow(PARTS["Before the first"], folder)
    return folder


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", text)]


def test_every_part_is_tried() -> None:
    assert list(PARTS) == ["Before the first", GRADIENT, DROPOUT, FILTERS, RANKS, BREAK]
    for name in (GRADIENT, DROPOUT, FILTERS, RANKS, BREAK):
        assert re.search(r"^\*\d+ minutes.*Needs: .*Shows: ", PARTS[name], re.M | re.S), name
        for word in ("**Task.**", "**What one should see.**", "**Solution.**"):
            assert word in PARTS[name], name


def test_gradient(tmp_path: Path) -> None:
    *lines, mistake = follow(PARTS[GRADIENT], tmp_path)[0].splitlines()
    errors = {numbers(line)[0]: numbers(line)[1] for line in lines}
    assert errors[0.001] < 1e-4 < errors[0.1]
    assert errors[0.001] < errors[0.00001]  # rounding
    assert numbers(mistake)[-1] > 0.1


def test_dropout(home: Path) -> None:
    lines = follow(PARTS[DROPOUT], home, epochs=2)[-1].splitlines()
    assert [line.split(":")[0] for line in lines] == ["runs/with, epoch 2", "runs/without, epoch 2"]
    assert numbers(lines[0])[1:] != numbers(lines[1])[1:]


def test_filters(home: Path) -> None:
    printed = follow(PARTS[FILTERS], home, epochs=1)[-1]
    before, after, change = (numbers(line)[-1] for line in printed.splitlines()[1:])
    assert abs(before) < 0.2
    assert abs(after) < 0.2
    assert change > before + 0.3
    assert (home / "filters-change.png").stat().st_size


def test_ranks(home: Path) -> None:
    *_, same, losses = follow(PARTS[RANKS], home, epochs=1)
    assert float(same) == 0
    differences = {
        kind: [numbers(line.split(":")[1]) for line in losses.splitlines() if line.startswith(f"{kind}, step")]
        for kind in ("plain", "exact")
    }
    assert len(differences["plain"]) == 12  # 45 pictures, 4 a step
    assert max(differences["plain"][1]) < 1e-4
    assert differences["exact"] == [[0, 0]] * 12
    assert len(re.findall(r"images/s: [\d.]+, [\d.]+, [\d.]+$", losses, re.M)) == 2


def test_break(home: Path) -> None:
    part = PARTS[BREAK]
    follow("".join(f'```{b.language} title="{b.title}"\n{b.text}```\n' for b in blocks(part) if b.title), home)
    scripts = [command for block in blocks(part) if block.language == "bash" for command in commands(block.text)]
    # The run that is killed has steps enough not to end before, and a disk may be slow where the stop is not the point.
    slow = {1: "--stall-timeout 60", 4: "--stall-timeout 15"}
    printed = []
    for number, command in enumerate(scripts):
        command = small(re.sub(r"(break\.py .*)", rf"\1 {SMALL} {slow.get(number, '')}", command))
        printed.append(run(command.replace("--global-batch 4", "--global-batch 1") if number < 4 else command, home))
    assert "rank 1 got SIGKILL" in printed[1]
    assert float(printed[3].split()[-1]) == 0
    stopped = re.search(r"^rank 1 got SIGSTOP; .* with exit code (\d+)$", printed[4], re.M)
    assert stopped
    assert stopped[1] != "0" if open_mpi() else stopped[1] == "69"
    assert "is stopped" in printed[4]
