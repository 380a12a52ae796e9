"""Ctrl-C while the programs start: a line, not the tracebacks of all ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import BIN, MPIRUN, SMALL, Job, needs_mpirun, open_mpi, train
from proc import has_mapped, heeds

# What a rank has mapped: it imports NumPy, or what comes after it; it has the MPI library.
# (Open MPI's mpirun heeds Ctrl-C itself, and ends the ranks: launch/local.sh is for that.)
heeded_by_ranks = pytest.mark.skipif(open_mpi(), reason="Open MPI's mpirun doesn't leave Ctrl-C to its ranks")
MOMENTS = {"importing": "_multiarray_umath", "later": "_imaging", "mpi": "libmpi"}


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    """A folder with lists, weights, and a FIFO in the place of a list, so that no program goes further than to it."""
    folder = pictures.write_lists(tmp_path_factory.mktemp("interrupted"), 8, 4)
    train(1, ["--data", "train.list", "--val", "val.list", "--epochs", 1, "--save", "weights.safetensors"], folder).ok()
    os.mkfifo(folder / "pipe.list")
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("program", "code"), [("train", 75), ("evaluate", 130)])
@needs_mpirun
@heeded_by_ranks
def test_ranks_end_quietly(site, program, code, moment):
    ends_quietly(site, [sys.executable, "-m", f"alexnet_dist.{program}"], (program, code), moment)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "way", [[str(BIN / "alexnet")], [sys.executable, "-m", "alexnet_dist"]], ids=["script", "module"]
)
@needs_mpirun
@heeded_by_ranks
def test_ranks_of_the_one_command_end_as_quietly(site, way, moment):
    ends_quietly(site, [*way, "train"], ("train", 75), moment)


def ends_quietly(site, command, what, moment):
    program, code = what
    flags = {
        "train": [
            *SMALL,
            "--data",
            "pipe.list",
            "--val",
            "val.list",
            "--epochs",
            "100000",
            "--output-dir",
            f"{Path(command[0]).name}-{len(command)}-{moment}",
        ],
        "evaluate": ["--load", "weights.safetensors", "--data", "pipe.list"],
    }[program]
    with Job([MPIRUN, "-n", "2", *command, *flags], site) as job:
        job.until(lambda: sum(has_mapped(pid, MOMENTS[moment]) for pid in job.ranks()) == 2, moment)
        os.killpg(job.process.pid, signal.SIGINT)
        if program == "train":
            with job.feed(site / "pipe.list") as pipe:
                job.until(
                    lambda: not heeds(job.ranks()[0], signal.SIGINT), "rank 0 leaves the next Ctrl-C to the system"
                )
                pipe.write((site / "train.list").read_bytes())
        job.wait()
    assert "Traceback" not in job.err, str(job)
    if program == "train":  # as any later signal
        assert "stopped by a signal after step 0" in job.out, str(job)
    else:
        assert job.err.count("alexnet-evaluate: interrupted\n") == 1, str(job)
    if not open_mpi():
        assert job.code == code, str(job)


def test_it_is_left_alone_as_a_library():
    code = "import signal, alexnet_dist.train; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "True\n", result.stderr
