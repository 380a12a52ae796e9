"""A real limit of memory, as a container has it: `auto` takes a strategy that fits, where another one would not."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import MPIRUN, Job, needs_mpirun, rows

from alexnet_dist.comm.room import shared_memory_room

pytestmark = needs_mpirun

LIMIT = 520_000_000  # bytes; allreduce would take 4 x 3 x 60 MB for parameters, gradients and momentum alone
GROUPS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
ENTER = "echo $$ >{}/cgroup.procs"  # refused by some containers, where a group can be made


@pytest.fixture
def limited():
    """A group of processes that may take no more; skips where none can be made."""
    if shared_memory_room() < 250e6:
        pytest.skip(
            "all that fits into the limit shares memory between ranks, which takes 250 MB of /dev/shm, and it has less free: "
            "docker run --shm-size=1g, or as root mount -o remount,size=1g /dev/shm"
        )
    problems = []
    for root, name in GROUPS:
        group = root / f"alexnet-test-{os.getpid()}"
        try:
            group.mkdir()
            try:
                (group / name).write_text(str(LIMIT))
                tried = subprocess.run(["sh", "-c", ENTER.format(group)], capture_output=True, text=True)
                if tried.returncode:
                    raise OSError(tried.stderr.strip())
                yield group
            finally:
                with contextlib.suppress(OSError):  # processes that are just ending
                    group.rmdir()
            return
        except OSError as error:
            problems.append(str(error))
    pytest.skip(
        f"only the kernel ends who takes too much, by a memory cgroup, which root may make: {'; '.join(problems)}"
    )


def test_auto_takes_what_fits(pictures, tmp_path, limited):
    pictures.write_lists(tmp_path, 24, 4)
    network = ["--width", "0.5", "--image-size", "96", "--threads", "1", "--workers", "1"]
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", "8", "--epochs", "1", "--output-dir", "run"]
    training = [MPIRUN, "-n", "4", sys.executable, "-m", "alexnet_dist.train", *network, *data]
    enter = ["sh", "-c", f'{ENTER.format(limited)} && exec "$@"', "sh"]
    with Job([*enter, *training], tmp_path) as job:
        job.wait().ok()
    assert "gradients: hybrid" in job.out
    assert len(rows(tmp_path / "run", "steps")) == 3
