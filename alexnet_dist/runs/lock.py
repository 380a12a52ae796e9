"""A run holds its folder: a second one that would write into it is refused, and a run that has died holds it no longer.

The lock is a file, so that it also holds between hosts that share a file system (locks of the kernel often don't). It says
who owns it. On the same host, one can look whether that process is still there. Of an owner elsewhere one sees only the
file's age: the owner touches it every BEAT seconds, and one that hasn't for PATIENCE seconds is taken for dead.
"""

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from alexnet_dist.errors import UserError
from alexnet_dist.runs.log import warn
from alexnet_dist.support.files import writing
from alexnet_dist.support.processes import Process, number_space, start_of

NAME = ".lock"
BEAT = 20.0  # seconds
PATIENCE = 300.0
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "LSB_JOBID")  # where batch systems say which job this is


class RunLock:
    """The lock of a run's folder, from `acquire` to `release`, or in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._done = threading.Event()
        self._content = b""  # of the lock that this run holds

    def acquire(self, take_over: bool = False) -> None:
        """Raises UserError if another run holds the folder, or if it can't be written. `take_over` says that the owner is
        known to be gone, if there is one."""
        content = json.dumps(_identity()).encode()
        with writing(self._path):
            if take_over:
                self._path.unlink(missing_ok=True)
            _take(self._path, content)
        self._content = content
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def release(self) -> None:
        """Lets others have the folder, unless one of them has it already."""
        self._done.set()
        if self._content:
            with suppress(OSError, UserError):  # what stays is void when this process has ended
                _remove(self._path, self._content, self._content)
        self._content = b""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _beat(self) -> None:
        """Touches the lock until `release`, or until it is another's, which people are told."""
        content = self._content
        while not self._done.wait(BEAT):
            with suppress(OSError):  # storage that fails for a while; without the file, the run doesn't hold the folder
                with open(self._path, "rb") as file:
                    there = file.read()
                    if there == content:
                        os.utime(file.fileno())
                if there != content and not self._done.is_set():
                    taken = f"{self._path.parent} has been taken over by {_described(_parsed(there))}"
                    warn(0, 1, f"{taken}, as if this run had died, and both write into it: end one of them")
                    return


def _take(path: Path, content: bytes) -> None:
    """Creates a lock, when that of a dead owner is removed. Raises UserError if its owner is there, or may be."""
    while not _created(path, content):
        with suppress(FileNotFoundError):  # released meanwhile
            there, age = path.read_bytes(), _age(path)
            owner = _parsed(there)
            if not _is_dead(owner, age):
                raise UserError(
                    f"{path.parent} is in use by {_described(owner)}: choose another --output-dir, or end that run. "
                    f"(If it has died on another host, its lock is void {PATIENCE / 60:.0f} minutes later)"
                )
            _remove(path, there, content)


def _remove(path: Path, there: bytes, me: bytes) -> None:
    """Removes a lock if it still has the content that was found there.

    Who removes one holds a lock for that, of the same kind: what is looked at can't be replaced before it is removed.
    """
    removal = path.with_name(f"{path.name}.removal")
    _take(removal, me)
    try:
        if path.read_bytes() == there:
            path.unlink()
    finally:
        removal.unlink(missing_ok=True)


def _created(path: Path, content: bytes) -> bool:
    """Whether the lock could be made: not where there is one."""
    try:
        with open(path, "xb", buffering=0) as file:
            try:
                file.write(content)
            except OSError:  # the disk is full
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _age(path: Path) -> float:
    """Seconds since the owner touched the lock, by the clock of the file system."""
    with TemporaryFile(dir=path.parent) as probe:
        return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime


def _identity() -> dict[str, Any]:
    job = next((f"{name}={os.environ[name]}" for name in JOBS if name in os.environ), "")
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {**asdict(Process.this()), "job": job, "since": since, "id": uuid.uuid4().hex}


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(content)
        if isinstance(value, dict):
            return value
    return {}


def _is_dead(owner: dict[str, Any], age: float) -> bool:
    if owner.get("place") and owner["place"] == number_space():
        return not isinstance(owner.get("pid"), int) or start_of(owner["pid"]) != owner.get("started")
    return age > PATIENCE


def _described(owner: dict[str, Any]) -> str:
    job = f", {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}{job}, since {owner.get('since', '?')}"
