"""The folder of a run: which checkpoints it holds, which one is the latest, and which are removed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from alexnet_dist.errors import StorageError, UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.metrics import PREDICTIONS, TABLES
from alexnet_dist.runs.rows import copy_rows
from alexnet_dist.support.files import CAN_NOT, check_writable, reading, replacing, sync_folder, write_text, writing
from alexnet_dist.support.plural import plural

# Of files.py, of `point_latest`, and of safetensors, which writes under a name of its own first.
LEFT_BEHIND = (".*.part", ".*.probe", ".latest.*", ".tmp??????")


class RunFolder:
    """`checkpoint-<step>.safetensors` are training states, `latest.safetensors` links to the newest of them
    (where there are no links, `latest.txt` has its name),
    `best.safetensors` holds the weights with the lowest validation error, `complete` marks a run that has finished."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.latest = path / "latest.safetensors"
        self.latest_name = path / "latest.txt"  # instead, on a file system without links
        self.best = path / "best.safetensors"
        self.complete = path / "complete"

    def check(self, resuming: bool) -> None:
        """Raises UserError if nothing can be written here, or if there is already a run here and this is a new one."""
        check_writable(self.latest)
        if not resuming and (self.states() or self.best.exists()):
            raise UserError(
                f"{self.path} already holds a run. Continue it with --resume {self.path}, or begin another with --output-dir"
            )

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """The newest training state whose checksum holds, and what is wrong with newer ones.

        Raises StorageError where one can't be read: it may be whole.
        """
        problems = []
        for state in self.states():
            if problem := _damage(state):
                problems.append(problem)
            else:
                return state, problems
        return None, problems

    def latest_state(self) -> Path | None:
        """The state that `latest` leads to, if it is there. Where both of its forms are, which may be so in a copy of the
        folder, it is that of the later step."""
        found = [followed(self.latest)]
        with reading(self.path):
            with suppress(FileNotFoundError, ValueError):
                found.append(self.path / self.latest_name.read_text(encoding="utf-8").strip())
            found = [state for state in found if state.is_file()]
        return max(found, key=_step) if len(found) > 1 else next(iter(found), None)

    def missing(self) -> UserError:
        """That `latest` can't be followed, and which states are there."""
        names = ", ".join(state.name for state in self.states()[:3])
        there = f"{self.path} has {names}: give one to --resume, or say --resume auto" if names else "no state is there"
        return UserError(f"the checkpoint {self.latest} does not exist; {there}")

    def lacking(self, state: int, weights: int) -> str:
        """What people should know if the disk has no room for the files of a run, of so many bytes each; else "".

        While a file is replaced, the old one is there as well.
        """
        needed = (self.keep + 1) * state + 2 * weights
        there = sum(file.stat().st_size for file in (*self.states(), self.best) if file.is_file())
        room = shutil.disk_usage(self.path).free + there
        if room >= needed:
            return ""
        return (
            f"{self.path} has room for {room / 1e6:.0f} MB, but {plural(self.keep, 'checkpoint')} (--keep), the next one and "
            f"the best weights need {needed / 1e6:.0f} MB"
        )

    def begin(self) -> None:
        """Removes the mark of a finished run that now continues, and the temporary files of one that was killed. The folder
        must be held (lock.py): these might be another run's.

        Raises UserError.
        """
        with writing(self.path):
            for file in (self.complete, *(one for pattern in LEFT_BEHIND for one in self.path.glob(pattern))):
                file.unlink(missing_ok=True)

    def take_from(self, state: Path, step: int) -> None:
        """Copies what is beside the state that is continued, after this step, if it is in another folder: the rows up to this
        step, and the best weights with what they say, if they aren't of a later epoch. Raises UserError."""
        for table in TABLES:
            copy_rows(state.with_name(f"{table}.jsonl"), self.path / f"{table}.jsonl", step)
        best = state.with_name(self.best.name)
        with reading(best):
            if self.best.exists() or not best.is_file() or best.stat().st_mtime_ns > state.stat().st_mtime_ns:
                return
            names = [name for name in (PREDICTIONS, best.name) if state.with_name(name).is_file()]
        for name in names:
            with replacing(self.path / name) as temporary:
                shutil.copyfile(state.with_name(name), temporary)

    def states(self) -> list[Path]:
        """The training states, the last written first; after a resumption from an earlier one, the highest step may be old."""
        written = {}
        with reading(self.path):
            for name in self._names():
                if fnmatch(name, "checkpoint-*.safetensors"):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        written[self.path / name] = (self.path / name).stat().st_mtime_ns
        return sorted(written, key=lambda path: written[path], reverse=True)

    def _names(self) -> list[str]:
        """What the folder holds. Raises OSError, other than Path.glob of Python 3.12 and 3.13, which takes a folder that can't
        be read now for an empty one: a run would begin anew."""
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            return os.listdir(self.path)
        return []

    def state(self, step: int) -> Path:
        """The path of the training state after `step` steps."""
        return self.path / f"checkpoint-{step:08d}.safetensors"

    def point_latest(self, state: Path) -> None:
        """Links `latest` to this state, and removes all but the newest `keep` states. Raises UserError."""
        with writing(self.latest):
            link = self.path / f".latest.{os.getpid()}"
            link.unlink(missing_ok=True)
            try:
                link.symlink_to(state.name)
                os.replace(link, self.latest)
                self.latest_name.unlink(missing_ok=True)
                sync_folder(self.path)
            except OSError as error:
                if error.errno not in CAN_NOT:
                    raise
                write_text(self.latest_name, f"{state.name}\n")
                self.latest.unlink(missing_ok=True)  # a copy, in a folder that was copied to here
            for old in [path for path in self.states() if path != state][self.keep - 1 :]:
                old.unlink(missing_ok=True)


def weights_in(path: Path) -> Path:
    """The file of weights that a path means: itself, or of a run's folder its best weights, or else its latest state.

    Raises UserError for a folder that holds neither.
    """
    if not path.is_dir():
        return path
    folder = RunFolder(path, keep=1)
    found = folder.best if folder.best.exists() else folder.latest_state()
    if found is None:
        raise UserError(
            f"{path} is a folder without {folder.best.name} or {folder.latest.name}: give a file, or a run's folder"
        )
    return found


@contextmanager
def naming_whole_states(path: Path) -> Iterator[None]:
    """Adds to what is said of a damaged file which of the newest states beside it are whole."""
    try:
        yield
    except checkpoint.Damaged as error:
        others = [state for state in RunFolder(path.parent, keep=1).states() if state != path][:3]
        whole = [state.name for state in others if not _damage(state)]
        raise UserError(f"{error}: {', '.join(whole)} beside it" if whole else str(error)) from error


def _damage(state: Path) -> str:
    """What is wrong with a training state; "" if it is whole. Raises StorageError where it can't be read."""
    try:
        checkpoint.verify(state)
    except StorageError:
        raise
    except UserError as error:
        return str(error)
    return ""


def followed(path: Path) -> Path:
    """Where a link leads now: it is read but once, for another state may be the latest when it is followed again."""
    with reading(path):
        return followed(path.parent / path.readlink()) if path.is_symlink() and path.exists() else path


def _step(state: Path) -> int:
    """How many steps a state is of; -1 if it is damaged. Raises StorageError."""
    if number := re.fullmatch(r"checkpoint-(\d+)", state.stem):
        return int(number[1])
    try:
        return int((checkpoint.read_header(state).training or {})["progress"]["step"])
    except StorageError:
        raise
    except (UserError, KeyError, TypeError, ValueError):
        return -1
