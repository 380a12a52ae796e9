"""alexnet-prepare imagenet as a person starts it: on one rank and on four, killed and started again, without MPI."""

import os
import sys

import pytest
from hashing import hashes
from ilsvrc import Ilsvrc
from launcher import alone, assert_refused, needs_mpirun, on_ranks

# Ends this process by kill -9 at its fifth image, of which half is written then.
KILLED = """
import os, signal, sys
from alexnet_dist import prepare
from alexnet_dist.preparation import lists
replace, count = os.replace, 0
def strike(source, target):
    global count
    count += str(target).endswith(".JPEG")
    if count == 5:
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = strike
sys.exit(prepare.main(sys.argv[1:]))
"""
PROGRAM = ["-m", "alexnet_dist.prepare"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return Ilsvrc().write_archives(tmp_path_factory.mktemp("ilsvrc") / "archives")


@pytest.fixture(scope="module")
def expected(archives, tmp_path_factory):
    """What one rank makes of the archives."""
    folder = tmp_path_factory.mktemp("expected")
    alone([sys.executable, *PROGRAM, *arguments(archives)], folder).ok()
    found = hashes(folder / "out")
    assert len([name for name in found if name.endswith(".JPEG")]) == 18
    return found


def arguments(archives):
    return ["imagenet", archives, "--size", "48", "--output", "out"]


@needs_mpirun
def test_four_ranks_give_what_one_gives(archives, expected, tmp_path):
    on_ranks(4, [*PROGRAM, *arguments(archives)], tmp_path).ok()
    assert hashes(tmp_path / "out") == expected


@needs_mpirun
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 2)])
def test_killed_and_started_again(archives, expected, tmp_path, before, after):
    job = on_ranks(before, ["-c", KILLED, *arguments(archives)], tmp_path)
    assert job.code != 0, str(job)
    files = hashes(tmp_path / "out")
    whole = {name for name in files if name.endswith(".JPEG")}
    assert 0 < len(whole) < 18, str(job)
    assert all(files[name] == expected[name] for name in whole)
    assert any(name.endswith(".part") for name in files)
    inodes = {name: (tmp_path / "out" / name).stat().st_ino for name in whole}
    on_ranks(after, [*PROGRAM, *arguments(archives)], tmp_path).ok()
    assert hashes(tmp_path / "out") == expected
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in whole} == inodes


def test_without_mpi(archives, expected, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no MPI on this machine')\n")
    command = [sys.executable, *PROGRAM, *arguments(archives)]
    without = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    alone(command, tmp_path, without).ok()
    assert hashes(tmp_path / "out") == expected
    # Beside others, it must not take itself for the only rank.
    job = alone(command, tmp_path, {**without, "PMI_SIZE": "4"})
    assert_refused(job, "no MPI library", program="alexnet-prepare")


@needs_mpirun
def test_a_mistake_is_told_once(tmp_path):
    job = on_ranks(4, [*PROGRAM, "imagenet", tmp_path, "--output", "out"], tmp_path)
    assert_refused(job, "known layout", program="alexnet-prepare")
    assert not (tmp_path / "out").exists()
