"""Wheel and sdist from a clean copy, used from a fresh environment. Both need the package index, and are skipped without."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import alexnet_dist

ROOT = Path(__file__).parent.parent
IN_SDIST = ("alexnet_dist", "launch", "tests", "benchmarks", "docs", ".ci", "hostfile.example", "README.md", "LICENSE")
TIMEOUT = 400  # seconds; a busy machine with a cold cache needs some of them

pytest.importorskip("build", reason="there is no package `build`, which makes the wheel and the sdist")


def index_answers():
    """Whether a package can be had at all; else a failure says nothing of this project."""
    asked = [sys.executable, "-m", "pip", "index", "versions", "hatchling"]
    return subprocess.run(asked, capture_output=True, timeout=TIMEOUT).returncode == 0


def run(command, cwd, **more):
    # Neither this project's code nor the ranks' variables of an mpirun that runs the tests.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    env |= more
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode and not index_answers():
        pytest.skip(
            "a clean environment is filled from the package index, which doesn't answer pip: "
            "it needs pypi.org, or another one that PIP_INDEX_URL names"
        )
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of a copy that holds nothing but the sources."""
    folder = tmp_path_factory.mktemp("packaging")
    clean = folder / "clean"
    clean.mkdir()
    for name in (*IN_SDIST, "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clean / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clean / name)
    done = run([sys.executable, "-m", "build", "--outdir", folder / "dist"], clean)
    assert done.returncode == 0, done.stdout + done.stderr
    version = alexnet_dist.__version__
    return (
        folder / "dist" / f"alexnet_dist-{version}-py3-none-any.whl",
        folder / "dist" / f"alexnet_dist-{version}.tar.gz",
    )


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The programs of a fresh environment that has the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("fresh")
    assert run([sys.executable, "-m", "venv", folder / "venv"], folder).returncode == 0
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    done = run([*pip, built[0]], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "venv" / "bin"


def files(folder):
    """What the project has there, but for what running it leaves."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name and not name.endswith(".pyc")}


def test_the_wheel_has_the_package_alone_and_all_of_it(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files("alexnet_dist")
    assert {"alexnet_dist/py.typed", "alexnet_dist/recipes/paper.toml"} <= names


def test_the_sdist_has_what_its_tests_need(built, tmp_path):
    # Not tarfile, whose way of unpacking without a warning came with Python 3.11.4.
    subprocess.run(["tar", "-xzf", built[1], "-C", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    expected = set().union(*(files(name) for name in IN_SDIST if (ROOT / name).is_dir()))
    assert expected <= {path.relative_to(source).as_posix() for path in source.rglob("*")}
    # A part that reads all kinds of files: sources, scripts, .ci/run, documents, benchmarks.
    tests = [
        "tests/test_sizes.py",
        "tests/test_imports.py",
        "tests/test_ci.py",
        "tests/test_launch.py",
        "tests/test_readme.py",
    ]
    chosen = "not walk and not local and not unfit and not until"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *tests]
    done = run(command, source, PYTHONPATH=str(source))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_programs_run_from_a_fresh_environment(installed, tmp_path):
    path = f"{installed}:/usr/bin:/bin"
    done = run([installed / "alexnet", "--version"], tmp_path, PATH=path)
    assert done.stdout.startswith(f"alexnet_dist {alexnet_dist.__version__} (Python ")
    assert (
        "paper"
        in run([installed / "alexnet-train", "--help"], tmp_path, PATH=path).stdout.split("recipes (files in")[1]
    )
    flags = ["--width", "0.0625", "--image-size", "64", "--global-batch", "8"]
    done = run([installed / "alexnet", "doctor", "--json", *flags], tmp_path, PATH=path)
    told = json.loads(done.stdout)
    assert told["works"], told
    assert told["found"]["step"]["data"]["images_per_second"] > 0
