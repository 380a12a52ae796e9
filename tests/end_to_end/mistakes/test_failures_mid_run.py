"""A full disk, a failing rank or a diverging loss in mid-run ends all ranks, and earlier checkpoints stay unharmed."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hashing import hashes
from launcher import BIN, FAULTS, PROMPT, SMALL, alone, assert_refused, needs_mpirun, start_training, train
from refusals import BASE, GOOD
from safetensors.numpy import load_file

pytestmark = needs_mpirun
needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode != 0,
    reason="this person may not make namespaces with mounts of their own",
)


def test_disk_that_fills_up(site):
    flags = [*BASE, "--output-dir", "run", "--resume", "--epochs", 3, "--io-patience", 0]
    before = hashes(site / "run")
    job = train(2, flags, site, fault="disk@2")  # after the best weights, since the last epoch is validated again
    assert_refused(job, "checkpoint-00000006", "No space left", "--resume", code=74)
    after = hashes(site / "run")
    kept = [name for name in before if name.endswith(".safetensors")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after.keys() - before.keys() == set()  # nothing half-written is left


def test_disk_that_is_full_for_a_moment(site):
    job = train(2, [*BASE, "--output-dir", "run", "--resume", "--epochs", 3], site, fault="disk@1").ok()
    assert job.out.count("No space left on device. Trying again for 300 s (--io-patience)") == 1
    assert job.out.count("the files can be written again") == 1


@needs_mounts
def test_disk_that_is_full_and_stays_so(site):
    """A real one, of 7 MB, with room for three states and not for the fourth. With more room the run goes on."""
    (site / "disk").mkdir()
    mpirun = f"{shutil.which('mpirun', path=str(BIN)) or 'mpirun'} -n 2 {sys.executable} -m alexnet_dist.train"
    flags = " ".join(
        map(str, [*SMALL, *BASE, "--epochs", 3, "--save-every", 1, "--keep", 4, "--output-dir", "disk/run"])
    )
    script = f"""
        mount -t tmpfs -o size=7m tmpfs disk
        {mpirun} {flags} --io-patience 1
        code=$?
        ls -A disk/run
        tail -n 1 disk/run/train.log
        mount -o remount,size=30m disk
        {mpirun} {flags} --resume && test -e disk/run/complete && exit $code
    """
    job = alone(["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script], site)
    assert job.code == 74, str(job)
    assert job.err.count("alexnet-train: error: cannot write") == 1
    assert "No space left on device" in job.err
    assert "WARNING: disk/run has room for 7 MB, but 4 checkpoints (--keep)" in job.out
    # On stderr, and in the log.
    assert (job.out + job.err).count("Free 3 MB, for a state and the best weights, then go on with --resume") == 2
    assert ".part" not in job.out
    assert "latest.safetensors" in job.out


@needs_mounts
def test_training_goes_on_while_the_disk_is_full(site):
    """A real one. It gets more room only when the epoch's last step is done; the state before that is written then."""
    (site / "disk").mkdir()
    (site / "long.list").write_text(20 * (site / "train.list").read_text())
    mpirun = f"{shutil.which('mpirun', path=str(BIN)) or 'mpirun'} -n 2 {sys.executable} -m alexnet_dist.train"
    long = ["--data", "long.list", "--save-every", 1, "--keep", 9, "--output-dir", "disk/run", "--print-freq", 60]
    flags = " ".join(map(str, [*SMALL, *BASE, *long]))
    script = f"""
        mount -t tmpfs -o size=7m tmpfs disk
        {mpirun} {flags} --io-patience 60 | tee out &
        until grep -q "step 60/60" out; do sleep 0.1; done
        mount -o remount,size=30m disk
        wait
        test -e disk/run/complete && cat disk/run/events.jsonl
    """
    job = alone(["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script], site).ok()
    assert job.out.count("Trying again for 60 s") == 1
    assert job.out.count("the files can be written again") == 1
    states = [json.loads(line)["step"] for line in job.out.splitlines() if '"event": "checkpoint"' in line]
    assert states[-1] == 60
    assert len(set(states)) < 20


def until_read_only(site, patience, then):
    """A run in a folder that becomes read-only after four steps and the first state. `then` is a script for what follows.

    The kernel doesn't make a file system read-only in which files are open for writing, as the log is (only a failing disk
    does): here a read-only view of the folder is mounted over it, and the log's files stay as they were.
    """
    (site / "disk").mkdir()
    (site / "long.list").write_text(20 * (site / "train.list").read_text())
    mpirun = f"{shutil.which('mpirun', path=str(BIN)) or 'mpirun'} -n 2 {sys.executable}"
    long = ["--data", "long.list", "--save-every", 2, "--output-dir", "disk/run", "--print-freq", 60]
    flags = " ".join(map(str, [*SMALL, *BASE, *long]))
    script = f"""
        mount -t tmpfs tmpfs disk
        {mpirun} '{FAULTS}' pause@5 {flags} --io-patience {patience} > out 2> err & job=$!
        until test -e struck; do sleep 0.02; done
        mount -o bind,ro disk/run disk/run
        touch "go on"
        {then.format(resumed=f"{mpirun} -m alexnet_dist.train {flags} --resume")}
    """
    job = alone(["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script], site).ok()
    return job, (site / "out").read_text(), (site / "err").read_text()


@needs_mounts
def test_training_goes_on_while_the_file_system_is_read_only(site):
    job, out, err = until_read_only(
        site,
        60,
        """
        until grep -q "step 60/60" out; do sleep 0.1; done
        until umount disk/run; do sleep 0.1; done  # not at the moment of an attempt to write
        wait $job || exit
        test -e disk/run/complete && cat disk/run/events.jsonl
        """,
    )
    assert out.count("Read-only file system. Trying again for 60 s (--io-patience)") == 1, out + err
    assert out.count("the files can be written again") == 1
    states = [json.loads(line)["step"] for line in job.out.splitlines() if '"event": "checkpoint"' in line]
    assert states[-1] == 60
    assert len(set(states)) < 20


@needs_mounts
def test_a_file_system_that_stays_read_only_ends_the_run(site):
    job, out, err = until_read_only(
        site,
        1,
        """
        wait $job
        echo exit $?
        umount disk/run
        tail -n 1 disk/run/train.log
        {resumed} || exit
        ls -A disk/run
        test -e disk/run/complete && cat disk/run/events.jsonl
        """,
    )
    assert "exit 74\n" in job.out, str(job)
    assert err.count("alexnet-train: error: cannot write disk/run/") == 1, err
    # On stderr, and in the log.
    assert (job.out + err).count("Read-only file system. See to the storage, then go on with --resume") == 2
    assert "Traceback" not in out + err
    # A file that was being written then could not even be removed: the next run does it.
    assert ".part" not in job.out
    assert "latest.safetensors" in job.out
    # The state before is whole: the run goes on from there.
    steps = [json.loads(line)["step"] for line in job.out.splitlines() if '"event": "resume"' in line]
    assert 0 < steps[0] < 60


@pytest.mark.parametrize("fault", ["exception@2", "thread@2", "decoder@5", "exit@2", "kill@2"])
def test_failure_of_one_rank_ends_all(site, fault):
    before = hashes(site / "run")
    flags = [*BASE, "--output-dir", "run", "--resume", "--epochs", 100, "--keep", 100]
    with start_training(2, flags, site, fault) as job:
        job.until((site / "struck").exists, "the fault has struck")
        job.wait(PROMPT)
    assert job.code != 0
    if fault.split("@")[0] in ("exception", "thread", "decoder"):
        assert job.err.count("alexnet-train: rank ") == 1, str(job)
        assert "alexnet-train: rank 1 of 2 failed" in job.err
        assert job.err.count("RuntimeError: planted") == 1, str(job)
    after = hashes(site / "run")
    # While another thread's exception ends the ranks, their main threads may finish an epoch and find a better best.
    kept = ("checkpoint-",) if fault.startswith("thread") else ("checkpoint-", "best.", "latest.")
    for name in before:
        if name.startswith(kept):
            assert after[name] == before[name]


def test_divergence_is_an_error_and_no_checkpoint_of_it_is_kept(site):
    """One step an epoch: the first loss is still a number, but no weight after it."""
    flags = ["--global-batch", GOOD, "--lr", "1e30", "--epochs", 5, "--output-dir", "new", "--threads", 1]
    job = train(2, [*BASE, *flags], site)
    assert_refused(job, "loss", "--lr", "1e+30", code=65)
    for state in (site / "new").glob("*.safetensors"):
        for name, tensor in load_file(state).items():
            assert np.isfinite(tensor).all(), (state.name, name)
