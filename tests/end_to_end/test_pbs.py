"""launch/pbs.sh with PBS's variables and stand-ins for its programs: what is handed in again, and how, and what isn't."""

import contextlib
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from launcher import DATA, SMALL, Job, latest_step, needs_mpirun, open_mpi, rows, steps

pytestmark = needs_mpirun

ROOT = Path(__file__).parents[2]
HOURS = 1_000_000  # epochs
# As qstat -f prints it: a value that is too long goes on in the next line.
QSTAT = r"""printf '    Job_Name = photos\n    Account_Name = biology\n'
printf '    Resource_List.select = 2:ncpus=4:mpiprocs=1\n\t:mem=8gb\n    Resource_List.walltime = %s\n' "$WALLTIME"
"""
QSUB = """printf '%s\n' "$@" "flags $ALEXNET_FLAGS" >again
echo 13.server
"""


@pytest.fixture
def pbs(pictures, tmp_path):
    """pbs(flags, WALLTIME=...): the job, running."""
    pictures.write_lists(tmp_path, 40, 6)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("qstat", QSTAT), ("qsub", QSUB)):
        (tools / name).write_text(f"#!/bin/sh\n{script}")
        (tools / name).chmod(0o755)
    (tmp_path / "nodes").write_text("localhost\nlocalhost\n")

    def start(*flags, **variables):
        env = {
            "PATH": f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PBS_JOBID": "12.server",
            "PBS_JOBNAME": "photos",
            "PBS_QUEUE": "workq",
            "PBS_NODEFILE": str(tmp_path / "nodes"),
            "PBS_O_WORKDIR": str(tmp_path),
            "NCPUS": "4",
            "ALEXNET_HOME": str(ROOT),
            "ALEXNET_VENV": sys.prefix,
            "ALEXNET_FLAGS": shlex.join([*SMALL, *DATA, "--output-dir", "a run", *map(str, flags)]),
            "WALLTIME": "24:00:00",
        }
        return Job([str(ROOT / "launch" / "pbs.sh")], Path("/"), {**env, **variables})

    return start


def test_a_run_that_ends_is_not_handed_in_again(pbs, tmp_path):
    with pbs("--epochs", 1) as job:
        job.wait().ok()
    assert (tmp_path / "a run" / "complete").exists()
    assert not (tmp_path / "again").exists()
    assert f"mpirun {'--hostfile' if '--hostfile' in job.out else '-f'} {tmp_path}/nodes -n 2 " in job.out


def test_a_run_whose_time_is_up_is_handed_in_again_and_goes_on(pbs, tmp_path):
    run = tmp_path / "a run"
    # All but three minutes of it: time for a start on a busy machine, and a step; more, should it be a very busy one.
    for walltime in ("00:03:25", "00:05:00"):
        shutil.rmtree(run, ignore_errors=True)
        with pbs("--epochs", HOURS, WALLTIME=walltime) as job:
            job.wait()
        if steps(run):
            break
    assert job.code == 75, str(job)
    assert job.out.endswith("handed in again as\n13.server\n")
    stopped_at = latest_step(run)
    assert stopped_at == max(steps(run))
    said = (tmp_path / "again").read_text().splitlines()
    options = dict(zip(said[:-2:2], said[1:-2:2], strict=True))
    assert options.pop("-W") == "depend=afterany:12.server"
    assert set(options.pop("-v").split(",")) >= {"ALEXNET_FLAGS", "ALEXNET_HOME", "ALEXNET_VENV", "ALEXNET_REQUEUED"}
    assert options == {"-N": "photos", "-q": "workq", "-A": "biology", "-l": "select=2:ncpus=4:mpiprocs=1:mem=8gb"}
    assert f"walltime={walltime}" in said
    assert said[-2:] == [
        f"{ROOT}/launch/pbs.sh",
        f"flags {shlex.join([*SMALL, *DATA])} --output-dir 'a run' --epochs {HOURS}",
    ]
    with pbs("--epochs", stopped_at // 10 + 2) as job:
        job.wait().ok()
    assert (run / "complete").exists()
    assert list(steps(run)) == list(range(1, 10 * (stopped_at // 10 + 2) + 1))


def test_a_job_that_was_handed_in_too_often_is_not_again(pbs, tmp_path):
    with pbs("--epochs", HOURS, WALLTIME="00:03:03", ALEXNET_REQUEUED="2", ALEXNET_REQUEUES="2") as job:
        job.wait()
    assert job.code == 1, str(job)
    assert "pbs.sh: handed in again 2 times" in job.err
    assert not (tmp_path / "again").exists()


def test_who_deletes_a_job_does_not_get_it_back(pbs, tmp_path):
    with pbs("--epochs", HOURS) as job:
        job.until(lambda: rows(tmp_path / "a run", "steps"), "a step")
        for pid in job.alive():  # PBS tells all of them
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        job.wait()
    assert job.code == 75, str(job)
    # Open MPI's mpirun kills its ranks.
    assert open_mpi() or latest_step(tmp_path / "a run") == max(steps(tmp_path / "a run"))
    assert not (tmp_path / "again").exists()


def test_bad_input_is_not_handed_in_again(pbs, tmp_path):
    with pbs("--epochs", "none") as job:
        job.wait()
    assert job.code == 2, str(job)
    assert not (tmp_path / "again").exists()


def test_without_a_walltime_it_says_so(pbs):
    with pbs("--epochs", 1, WALLTIME="") as job:
        job.wait().ok()
    assert "qstat doesn't say how long this job may take" in job.err
