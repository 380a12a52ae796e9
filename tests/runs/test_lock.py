"""A run's folder has one owner; one that has died doesn't hold it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.runs import lock as module
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.lock import NAME, PATIENCE, RunLock

HOLDER = """
import sys
from pathlib import Path
from alexnet_dist.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holds(folder, **options):
    """A process that holds a folder, if it gets it, until its stdin ends."""
    command = [sys.executable, "-c", HOLDER, folder]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path."""
    process = holds(tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(folder, age):
    """A lock whose owner can't be seen from here, and who touched it so many seconds ago."""
    path, whole = folder / NAME, folder / "whole"
    whole.write_text(
        json.dumps({"host": "node7", "place": "another", "pid": 1, "job": "SLURM_JOB_ID=12", "since": "noon"})
    )
    os.utime(whole, (time.time() - age,) * 2)
    return whole.replace(path)  # at once: an owner whose lock this was may read it at any time


def test_a_second_run_is_refused_and_told_by_whom(holder, tmp_path):
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on {os.uname().nodename}, since 20"):
        RunLock(tmp_path).acquire()
    assert os.listdir(tmp_path) == [NAME]


def test_who_was_killed_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path):
        assert os.listdir(tmp_path) == [NAME]
    assert os.listdir(tmp_path) == []


def test_neither_does_a_zombie_nor_one_whose_number_was_given_again(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)  # nobody has waited for it yet
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with RunLock(tmp_path):
        owner = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**owner, "started": "1"}))
    with RunLock(tmp_path):
        pass


def test_an_owner_on_another_host_is_believed_while_it_touches_the_lock(tmp_path):
    elsewhere(tmp_path, PATIENCE - 30)
    with pytest.raises(UserError, match=r"process 1 on node7, SLURM_JOB_ID=12, since noon: .* void 5 minutes later"):
        RunLock(tmp_path).acquire()
    elsewhere(tmp_path, PATIENCE + 30)
    with RunLock(tmp_path):
        assert "node7" not in (tmp_path / NAME).read_text()


def test_the_owner_touches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    with RunLock(tmp_path):
        os.utime(tmp_path / NAME, (0, 0))
        end = time.monotonic() + 20
        while (tmp_path / NAME).stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def taken_over(tmp_path):
    """A lock whose owner was away for so long that another run holds the folder now."""
    lock = RunLock(tmp_path)
    lock.acquire()
    (tmp_path / NAME).unlink()
    yield lock, elsewhere(tmp_path, 0)
    lock.release()


def test_an_owner_that_was_taken_for_dead_leaves_the_next_one_s_lock_alone(taken_over):
    lock, path = taken_over
    lock.release()
    assert "node7" in path.read_text()
    with pytest.raises(UserError, match="in use by process 1 on node7"):
        RunLock(path.parent).acquire()


def test_an_owner_that_was_taken_for_dead_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "BEAT", 0.01)
    with RunLock(tmp_path):
        (tmp_path / NAME).unlink()
        path = elsewhere(tmp_path, 60)
        before = path.stat().st_mtime
        end = time.monotonic() + 20
        while not caplog.records:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.1)
        assert path.stat().st_mtime == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "has been taken over by process 1 on node7, SLURM_JOB_ID=12, since noon" in caplog.text
    assert "end one of them" in caplog.text


def test_a_torn_lock_of_long_ago_is_no_lock(tmp_path):
    (tmp_path / NAME).write_bytes(b'{"host": "no')
    with pytest.raises(UserError, match="in use by process"):
        RunLock(tmp_path).acquire()
    os.utime(tmp_path / NAME, (0, 0))
    with RunLock(tmp_path):
        pass


def test_of_many_who_start_at_once_one_gets_it(tmp_path):
    """Also where all find a dead one's lock."""
    elsewhere(tmp_path, PATIENCE + 30)
    processes = [holds(tmp_path, stderr=subprocess.PIPE) for _ in range(6)]
    end = time.monotonic() + 60
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < end:
        time.sleep(0.01)  # the one that has it keeps it until the last of the others has asked
    outputs = [process.communicate(timeout=60) for process in processes]
    assert sorted(out for out, _ in outputs) == [""] * 5 + ["held\n"], outputs
    assert sum("UserError" in err for _, err in outputs) == 5


class Contender:
    """A run that wants the folder; before it does line `number` of the lock's code, `meanwhile` happens."""

    def __init__(self, folder, number=0, meanwhile=None):
        self.lock, self.number, self.meanwhile, self.refused = RunLock(folder), number, meanwhile, ""

    def __call__(self):
        """Its own thread: what happens meanwhile may be traced, too."""
        thread = threading.Thread(target=self._acquire)
        thread.start()
        thread.join()

    @property
    def paused(self):
        """Whether it has had so many lines."""
        return self.number <= 0

    def _acquire(self):
        if self.meanwhile:
            sys.settrace(self._trace)
        try:
            self.lock.acquire()
        except UserError as error:
            self.refused = str(error)
        finally:
            sys.settrace(None)

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename != module.__file__ or frame.f_code.co_name in ("_identity", "_described"):
            return None
        if event == "line":
            self.number -= 1
            if self.number == 0:
                self.meanwhile()
        return self._trace


def without_links(*_):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_one_gets_a_dead_one_s_lock_whenever_the_others_come(tmp_path, monkeypatch, links):
    """A second one comes before any line that the first one does, a third one before every fourth line of the second."""
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    for number in itertools.count(1):
        for later in itertools.count(1 + number % 4, step=4):
            elsewhere(tmp_path, PATIENCE + 30)
            third = Contender(tmp_path)
            second = Contender(tmp_path, later, third)
            first = Contender(tmp_path, number, second)
            first()
            all_of_them = [first, *([second] if first.paused else []), *([third] if second.paused else [])]
            assert sum(not one.refused for one in all_of_them) == 1, (number, later)
            for one in all_of_them:
                one.lock.release()
            assert os.listdir(tmp_path) == []
            if not second.paused:
                break
        if not first.paused:
            break


def test_one_that_is_refused_needs_no_file_of_its_own(holder, tmp_path):
    """The owner, which begins, removes what a killed run has left: not what somebody needs who is about to be refused."""
    for number in itertools.count(1):
        contender = Contender(tmp_path, number, RunFolder(tmp_path, keep=1).begin)
        contender()
        assert "in use by process" in contender.refused
        if not contender.paused:
            break


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", without_links)
    with RunLock(tmp_path), pytest.raises(UserError, match="in use"):
        RunLock(tmp_path).acquire()
    assert os.listdir(tmp_path) == []
