"""A rank that is stopped or a cable that is cut: a short while is borne, a long one ends all ranks and says who it was."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from launcher import MPIRUN, SMALL, Job, needs_mpirun, rows, steps

pytestmark = needs_mpirun

PROMPT = 60  # seconds in which a run must end after the timeout: a cut network needs some for each attempt
TIMEOUT = 10

# A busy disk may take longer than the timeout to sync even a small file, as that which says what run this is.
TRAIN = """import os
os.fsync = lambda file: None
from alexnet_dist.train import main
raise SystemExit(main())"""


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    # An epoch longer than any test: no state is written, for which the ranks might wait as well.
    return pictures.write_lists(tmp_path_factory.mktemp("stalls"), 100_000, 6)


def flags(name, timeout=TIMEOUT):
    """A run that would take hours."""
    data = ["--data", "train.list", "--val", "val.list", "--num-classes", "10", "--global-batch", "4", "--lr", "0.0001"]
    timeouts = ["--io-patience", "2", "--stall-timeout", str(timeout)]
    return ["-c", TRAIN, *SMALL, *data, *timeouts, "--epochs", "100000", "--output-dir", name]


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named(site, stopped):
    name = f"stopped-{stopped}"
    with Job([MPIRUN, "-n", "2", sys.executable, *flags(name)], site) as job:
        job.until(lambda: len(rows(site / name, "steps")) > 3, "some steps")
        pid = job.ranks()[stopped]
        os.kill(pid, signal.SIGSTOP)
        job.wait(TIMEOUT + PROMPT)
    assert job.code == 69, str(job)
    text = job.out + job.err
    assert f"rank {1 - stopped}: waited for other ranks for {TIMEOUT} s, in phase" in text, str(job)
    assert f"Rank {stopped} (process {pid} on {os.uname().nodename}) is stopped" in text, str(job)
    assert "watchdog.py" in (site / name / f"stacks-rank-{1 - stopped}.txt").read_text()


def test_a_rank_that_is_stopped_before_they_know_each_other(site):
    program = [str(Path(__file__).with_name("faults.py")), "stop@1"]
    with Job([MPIRUN, "-n", "2", sys.executable, *program, *flags("early")[2:]], site) as job:
        job.wait(TIMEOUT + PROMPT)
    assert job.code == 69, str(job)
    assert f"rank 0: waited for other ranks for {TIMEOUT} s, in phase start" in job.out + job.err, str(job)
    assert not (site / "early").exists()


# For rank 0, MPI's start may take seconds instead of minutes; the others stop before theirs.
HASTY = f"""import faulthandler, os, signal
if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) != "0":
    os.kill(os.getpid(), signal.SIGSTOP)
later = faulthandler.dump_traceback_later
faulthandler.dump_traceback_later = lambda seconds, exit: later(min(seconds, {TIMEOUT}), exit=exit)
from alexnet_dist.train import main
raise SystemExit(main())"""


def test_a_rank_that_is_stopped_before_mpi_has_started(site):
    with Job([MPIRUN, "-n", "2", sys.executable, "-c", HASTY, *flags("before")[2:]], site) as job:
        job.wait(TIMEOUT + PROMPT)
    assert job.code not in (0, 75), str(job)
    assert "world.py" in job.err, str(job)  # the stack of rank 0
    assert not (site / "before").exists()


def test_reading_may_take_long_and_a_rank_that_is_stopped_meanwhile_is_named(site):
    """The list is a pipe, which never ends."""
    timeout, grace = 3, 6
    os.mkfifo(site / "pipe.list")
    words = ["-n", "2", sys.executable, *flags("reading"), "--data", "pipe.list"]
    words += ["--io-patience", "0.5", "--stall-timeout", str(timeout)]
    with Job([MPIRUN, *words], site) as job, job.feed(site / "pipe.list"):
        time.sleep(timeout + grace + 2)
        ranks = job.ranks()
        assert len(ranks) == 2, str(job)
        os.kill(ranks[1], signal.SIGSTOP)
        job.wait(timeout + PROMPT)
    assert job.code == 69, str(job)
    assert f"Rank 1 (process {ranks[1]} on {os.uname().nodename}) is stopped" in job.out + job.err, str(job)


def test_a_rank_that_is_stopped_for_a_moment_goes_on(site):
    with Job([MPIRUN, "-n", "2", sys.executable, *flags("moment")], site) as job:
        job.until(lambda: len(rows(site / "moment", "steps")) > 3, "some steps")
        for pid in job.ranks():  # all of them for longer than the timeout, as when a machine sleeps
            os.kill(pid, signal.SIGSTOP)
        time.sleep(TIMEOUT + 3)
        before = max(steps(site / "moment"))
        for pid in job.ranks():
            os.kill(pid, signal.SIGCONT)
        job.until(lambda: max(steps(site / "moment")) > before + 3, "they go on")
        job.kill()
    assert "waited for other ranks" not in job.out + job.err


@contextlib.contextmanager
def running_on(hosts, site, name, timeout=TIMEOUT):
    """A run of one rank on each host, in its steps."""
    with Job(hosts.mpirun(MPIRUN, (1, 1), flags(name, timeout), site), site) as job:
        job.until(lambda: len(rows(site / name, "steps")) > 3, "some steps")
        yield job


def test_a_cable_that_is_cut_for_a_moment(hosts, site):
    # TCP sends again after pauses that grow: it takes some seconds more until the ranks notice.
    with running_on(hosts, site, "cut-moment", timeout=PROMPT) as job:
        hosts.all[1].run("ip", "link", "set", "eth0", "down")
        time.sleep(5)
        before = max(steps(site / "cut-moment"))
        hosts.all[1].run("ip", "link", "set", "eth0", "up")
        job.until(lambda: max(steps(site / "cut-moment")) > before + 3, "it goes on")
        job.kill()


def test_a_cable_that_is_cut_for_ever(hosts, site):
    name = "cut-for-ever"
    with running_on(hosts, site, name) as job:
        hosts.all[1].run("ip", "link", "set", "eth0", "down")
        job.process.wait(TIMEOUT + PROMPT)
        job.until(lambda: job.ranks() == [], "the rank on the other host has ended, too", PROMPT)
        job.kill()  # the ssh between them, which waits for the network
    assert job.code != 0, str(job)
    log = (site / name / "train.log").read_text()
    assert "The host two (1 rank from 1 on) can't be reached from one." in log, str(job)
