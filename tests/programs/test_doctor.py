"""What alexnet-doctor says of this machine, and of machines that lack something; fakes stand in for mpirun."""

import json
import os
import re
import shutil
import sys

import pytest
from end_to_end.launcher import BIN, alone, needs_mpirun, open_mpi

from alexnet_dist.machine import facts
from alexnet_dist.support import memory

DOCTOR = [
    sys.executable,
    "-m",
    "alexnet_dist",
    "doctor",
    "--width",
    "0.0625",
    "--image-size",
    "64",
    "--global-batch",
    "8",
]
NAMES = ["versions", "cores", "memory", "BLAS", "MPI", "mpirun", "/dev/shm", "limits", "layout", "step"]
SAYS = {"Open MPI": "mpirun (Open MPI) 5.0.11", "MPICH": "HYDRA build details:"}


@pytest.fixture
def fake_mpirun(tmp_path):
    """fake_mpirun("MPICH", script): an environment in which an mpirun of this kind comes first."""

    def make(flavour, script):
        program = tmp_path / "fakes" / "mpirun"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n[ "$1" != --version ] || {{ echo "{SAYS[flavour]}"; exit; }}\n{script}\n')
        program.chmod(0o755)
        return program

    return make


def examined(cwd, mpirun=None, env=None):
    """What --json tells, and the exit code."""
    # `alone` puts this Python's own folder first on PATH.
    words = DOCTOR if mpirun is None else ["env", f"PATH={mpirun.parent}:{BIN}:{os.environ['PATH']}", *DOCTOR]
    job = alone([*words, "--json"], cwd, env)
    told = json.loads(job.out)
    assert list(told["found"]) == NAMES
    assert job.code == (0 if told["works"] else 1), str(job)
    problems = [text for one in told["found"].values() for text in one["problems"]]
    assert told["works"] == (not problems)
    return told["found"], problems


@needs_mpirun
def test_ten_lines_of_a_machine_that_lacks_nothing(tmp_path):
    job = alone(DOCTOR, tmp_path).ok()
    assert [line.split()[0] for line in job.out.splitlines() if not line.startswith("note")] == NAMES
    assert "whose ranks find each other" in job.out
    assert re.search(r"^layout +\d+ x \d+ \(ranks x threads\), [a-z]+: [\d.]+ images/s", job.out, re.M)
    assert "PROBLEM" not in job.out


@needs_mpirun
def test_the_figures_are_measured(tmp_path):
    found, problems = examined(tmp_path)
    assert problems == []
    layout, step = found["layout"]["data"], found["step"]["data"]
    assert layout["ranks"] * layout["threads"] <= found["cores"]["data"]["usable"]
    assert step["images_per_second"] == pytest.approx(8 / step["seconds"])
    assert step["images_per_second"] in layout["images_per_second"].values()
    assert len(layout["images_per_second"]) == (1 if found["cores"]["data"]["usable"] == 1 else 2)


def test_a_machine_without_mpi_trains_on_one_rank(tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no MPI on this machine')\n")
    found, problems = examined(tmp_path, env={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert problems == []
    assert found["MPI"]["text"] == "no library (ImportError: no MPI on this machine)"
    assert "pip install 'alexnet_dist[mpi]'" in found["MPI"]["notes"][0]
    assert found["layout"]["data"]["ranks"] == 1
    assert found["step"]["data"]["seconds"] > 0


@pytest.mark.skipif(shutil.which("mpirun", path=str(BIN)) is None, reason="there is no MPI beside this Python")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'mpirun has detected an attempt to run as root. Use --allow-run-as-root' >&2; exit 1",
            "refuses root: export",
        ),
        (
            "echo 'There are not enough slots available in the system' >&2; exit 1",
            "refuses more ranks than cores: export",
        ),
        ("echo 'no such host' >&2; exit 1", "ranks don't start: no such host"),
        ('shift 2; exec "$@"', "ranks don't start"),  # each would be alone
    ],
)
def test_an_mpirun_that_does_not_start_ranks_is_a_problem(tmp_path, fake_mpirun, script, said):
    found, problems = examined(tmp_path, fake_mpirun("Open MPI", script))
    assert len(problems) == 1
    assert said in problems[0]
    assert found["layout"]["data"]["ranks"] == 1


@pytest.mark.skipif(
    open_mpi() or shutil.which("mpirun", path=str(BIN)) is None, reason="there is no MPICH beside this Python"
)
def test_an_mpirun_of_another_mpi_is_a_problem(tmp_path, fake_mpirun):
    _, problems = examined(tmp_path, fake_mpirun("Open MPI", 'export OMPI_COMM_WORLD_SIZE=2; shift 2; exec "$@"'))
    assert len(problems) == 1
    assert "don't belong together" in problems[0]


@pytest.mark.parametrize("flags", [["--width", "-1"], ["--global-batch", "0"]])
def test_what_no_network_has_is_refused(tmp_path, flags):
    job = alone([*DOCTOR, *flags], tmp_path)
    assert (job.code, job.out, len(job.err.splitlines())) == (2, "", 1)
    assert flags[0] in job.err


def test_a_machine_without_shared_memory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "SHARED_MEMORY", tmp_path / "nowhere")
    assert "docker run --shm-size" in facts.shared_memory().notes[0]
    monkeypatch.setattr(facts, "SHARED_MEMORY", tmp_path)
    assert facts.shared_memory().notes == ()


def test_few_open_files_are_noted(monkeypatch):
    monkeypatch.setattr(facts.resource, "getrlimit", lambda which: (64, 64))
    assert facts.limits().notes == ("only 64 files may be open at once: ulimit -n 256 or more",)


def test_what_limits_cores_is_named(monkeypatch):
    monkeypatch.setattr(facts.os, "cpu_count", lambda: 1000)
    monkeypatch.setattr(facts, "available_cores", lambda: 0)
    text = facts.cores().text
    assert "of 1000 cores" in text
    assert "affinity allows" in text
    assert "quota 0" in text


def test_memory_is_what_is_left(monkeypatch):
    monkeypatch.setattr(facts, "available_memory", lambda: int(1.5e9))
    assert facts.memory().text.startswith("1.5 GB available")
    assert facts.memory().data["there"] >= memory.available_memory() > 0
