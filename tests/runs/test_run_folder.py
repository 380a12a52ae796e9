"""A run's folder: what `latest` leads to, which states stay, and what is left behind by a killed run."""

import errno
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small import SMALL

from alexnet_dist.errors import STORAGE, StorageError, UserError
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder, followed
from alexnet_dist.support.files import write_text


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, keep=2)


def save(folder, step, time=None):
    """A state, here a text, written at some time; `latest` then leads to it."""
    state = folder.state(step)
    write_text(state, f"state {step}")
    os.utime(state, (time or step, time or step))
    folder.point_latest(state)
    return state


@pytest.fixture
def poor_file_system(monkeypatch):
    """One without links and permissions, whose folders can't be flushed, as FAT is. (A fake: kernels that can't mount FAT
    are common where these tests run.)"""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    flush = os.fsync

    def flush_files_only(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(number)

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", flush_files_only)


def test_latest_is_a_link_and_the_newest_stay(folder):
    states = [save(folder, step) for step in (1, 2, 3)]
    assert folder.latest.readlink() == Path(states[2].name)
    assert folder.latest_state().read_text() == "state 3"
    assert [state.exists() for state in states] == [False, True, True]


def test_the_last_written_stay_whatever_their_steps(folder):
    """After a resumption from an earlier state, states of higher steps are of a course that was given up."""
    for step in (10, 20, 30):
        save(folder, step)
    for time, step in enumerate((11, 12), start=100):
        save(folder, step, time)
        assert folder.states()[0] == folder.state(step)
    assert folder.latest_state() == folder.state(12)
    assert folder.states() == [folder.state(12), folder.state(11)]


@pytest.mark.usefixtures("poor_file_system")
def test_where_there_are_no_links_a_text_names_the_latest(folder):
    states = [save(folder, step) for step in (1, 2, 3)]
    assert (folder.path / "latest.txt").read_text() == f"{states[2].name}\n"
    assert folder.latest_state() == states[2]
    assert [state.exists() for state in states] == [False, True, True]
    assert sorted(path.name for path in folder.path.iterdir()) == [states[1].name, states[2].name, "latest.txt"]


def test_a_folder_that_was_copied_to_where_there_are_no_links(folder, request):
    """cp -L makes a file of `latest`: it must not lead back there for ever."""
    old = save(folder, 1)
    folder.latest.unlink()
    shutil.copyfile(old, folder.latest)
    request.getfixturevalue("poor_file_system")
    assert folder.latest_state() == folder.latest
    state = save(folder, 2)
    assert folder.latest_state() == state
    assert not folder.latest.exists()


def test_a_folder_that_came_from_where_there_are_no_links(folder):
    old = save(folder, 1)
    folder.latest_name.write_text(f"{old.name}\n")
    state = save(folder, 2)
    assert folder.latest_state() == state
    assert not folder.latest_name.exists()


@pytest.mark.parametrize(("copied", "named"), [(3, 12), (12, 3)])
def test_of_both_forms_of_latest_the_later_step_counts(folder, copied, named):
    os.rename(whole(folder, copied), folder.latest)
    folder.latest_name.write_text(f"{whole(folder, named).name}\n")
    assert folder.latest_state() == (folder.latest if copied > named else folder.state(named))
    os.truncate(folder.latest, 1000)
    assert folder.latest_state() == folder.state(named)


def test_latest_is_followed_once(folder):
    """Another run may write meanwhile: weights of a later state don't go with the progress of an earlier one."""
    (folder.path / "link").symlink_to(folder.latest.name)
    state = save(folder, 1)
    found = folder.latest_state(), followed(folder.latest), followed(folder.path / "link")
    save(folder, 2)
    assert found == (state,) * 3
    (folder.path / "loop").symlink_to("loop")
    assert followed(folder.path / "loop") == folder.path / "loop"


def test_a_disk_without_room_for_all_that_is_kept(folder, monkeypatch):
    """Two are kept, a third one is being written, and the best weights are there twice when they are replaced."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=38_000_000))
    assert folder.lacking(10_000_000, 4_000_000) == ""
    text = folder.lacking(10_000_000, 5_000_000)
    assert "room for 38 MB" in text
    assert "need 40 MB" in text
    save(folder, 1)
    folder.state(1).write_bytes(b"0" * 2_000_000)  # what is there will go
    assert folder.lacking(10_000_000, 5_000_000) == ""


def test_nothing_is_the_latest(folder):
    assert folder.latest_state() is None
    assert "no state is there" in str(folder.missing())
    (folder.path / "latest.txt").write_text("checkpoint-00000007.safetensors\n")
    assert folder.latest_state() is None
    state = save(folder, 5)
    folder.latest.unlink()
    assert folder.latest_state() is None
    assert f"has {state.name}: give one to --resume" in str(folder.missing())


def test_what_a_killed_run_has_left_goes(folder):
    save(folder, 1)
    left = [".checkpoint-00000002.safetensors.99.part", ".tmpA1b2C3", ".latest.99", ".x.99.probe"]
    for name in [*left, "complete", "notes.txt", ".hidden"]:
        (folder.path / name).touch()
    folder.begin()
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == [".hidden", "checkpoint-00000001.safetensors", "latest.safetensors", "notes.txt"]


def test_the_best_comes_along_into_a_new_folder_but_not_one_of_later(folder, tmp_path):
    before = RunFolder(tmp_path / "before", keep=2)
    state = save(before, 10)
    write_text(before.best, "best")
    os.utime(before.best, (11, 11))
    told = folder.path / "predictions.csv"
    folder.take_from(state, 10)
    assert not folder.best.exists()
    os.utime(before.best, (10, 10))
    folder.take_from(state, 10)
    assert folder.best.read_text() == "best"
    assert not told.exists()  # earlier versions wrote none
    folder.best.unlink()
    write_text(before.path / told.name, "told")
    folder.take_from(state, 10)
    assert told.read_text() == "told"


def test_the_rows_up_to_the_state_come_along_where_there_are_none(folder, tmp_path):
    before = RunFolder(tmp_path / "before", keep=2)
    state = save(before, 10)
    rows = [f'{{"step": {step}}}\n' for step in (1, 10, 11, 10, 12)]
    torn = ["no row\n", "[10]\n", '{"step": 10']
    write_text(before.path / "steps.jsonl", "".join(rows + torn))
    write_text(before.path / "epochs.jsonl", "".join(rows))
    write_text(folder.path / "epochs.jsonl", "its own\n")
    folder.take_from(state, 10)
    assert (folder.path / "steps.jsonl").read_text() == "".join([*rows[:2], rows[3]])
    assert (folder.path / "epochs.jsonl").read_text() == "its own\n"
    assert not (folder.path / "ranks.jsonl").exists()


def whole(folder, step):
    """A real state."""
    parameters = parameter_map(SMALL)
    values = np.zeros(parameters.size, np.float32)
    header = checkpoint.Header(SMALL, training={"progress": {"step": step}})
    checkpoint.save(folder.state(step), parameters, values, {}, header)
    os.utime(folder.state(step), (step, step))
    return folder.state(step)


@pytest.fixture
def no_more_descriptors():
    """A function after which this process can't open a file."""
    taken = []

    def take():
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, before[0]), before[1]))
    yield take
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_newest_state_that_is_whole(folder):
    states = [whole(folder, step) for step in (1, 2, 3)]
    os.truncate(states[2], 1000)
    state, problems = folder.newest_whole()
    assert state == states[1]
    assert len(problems) == 1
    states[1].unlink()
    os.truncate(states[0], 1000)
    assert folder.newest_whole()[0] is None


def test_a_state_that_can_t_be_read_now_is_not_a_damaged_one(folder, no_more_descriptors):
    """To begin anew, or with an older one, would lose what is whole when the storage is there again."""
    state = whole(folder, 1)
    no_more_descriptors()
    with pytest.raises(StorageError, match=f"cannot read {folder.path}: Too many open files"):
        folder.newest_whole()
    with pytest.raises(StorageError, match=f"cannot read {state}: Too many open files"):
        checkpoint.verify(state)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_nor_is_one_whose_storage_is_away(folder, monkeypatch, number):
    state, original = whole(folder, 1), os.stat

    def fail(path, *args, **options):
        if Path(path) == state:
            raise OSError(number, os.strerror(number))
        return original(path, *args, **options)

    monkeypatch.setattr(os, "stat", fail)
    for look in (folder.newest_whole, lambda: checkpoint.verify(state), lambda: checkpoint.read_header(state)):
        with pytest.raises(StorageError, match=rf"cannot read .*: {os.strerror(number)}") as error:
            look()
        assert error.value.exit_code == STORAGE


def test_a_run_is_not_begun_over_another(folder):
    save(folder, 1)
    folder.check(resuming=True)
    with pytest.raises(UserError, match="already holds a run"):
        folder.check(resuming=False)
