"""A run holds its folder: a second one that would write into it is refused, and a run that has died holds it no longer.

The lock is a file, so that it also holds between hosts that share a file system (locks of the kernel often don't). It says
who owns it. On the same host, one can look whether that process is still there. Of an owner elsewhere one sees only the
file's age: the owner touches it every BEAT seconds, and one that hasn't for PATIENCE seconds is taken for dead.
"""

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from alexnet_dist.errors import UserError
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
        self._held = False

    def acquire(self, take_over: bool = False) -> None:
        """Raises UserError if another run holds the folder, or if it can't be written. `take_over` says that the owner is
        known to be gone, if there is one."""
        me = json.dumps(_identity()).encode()
        with writing(self._path):
            if take_over:
                self._path.unlink(missing_ok=True)
            while not self._create(me):
                self._remove_if_dead()
        self._held = True
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def release(self) -> None:
        """Lets others have the folder."""
        self._done.set()
        if self._held:
            with suppress(OSError):
                self._path.unlink()
        self._held = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create(self, content: bytes) -> bool:
        """Whether the lock could be made. It is there at once as a whole, for a link can't be made where a file is."""
        temporary = self._path.with_name(f"{NAME}.{os.uname().nodename}.{os.getpid()}")
        temporary.write_bytes(content)
        try:
            os.link(temporary, self._path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with open(self._path, "xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        finally:
            temporary.unlink()
        return True

    def _remove_if_dead(self) -> None:
        """Removes the lock of an owner that isn't there any more; raises UserError if it is, or may be."""
        try:
            content, age = self._path.read_bytes(), self._age()
        except FileNotFoundError:
            return
        owner = _parsed(content)
        if not _is_dead(owner, age):
            raise UserError(
                f"{self._path.parent} is in use by {_described(owner)}: choose another --output-dir, or end that run. "
                f"(If it has died on another host, its lock is void {PATIENCE / 60:.0f} minutes later)"
            )
        # Who moves it away owns it. Another run may have replaced it since it was read: then it is put back.
        aside = self._path.with_name(f"{NAME}.dead.{os.uname().nodename}.{os.getpid()}")
        with suppress(FileNotFoundError):
            os.rename(self._path, aside)
            if aside.read_bytes() != content:
                with suppress(OSError):
                    os.link(aside, self._path)
            aside.unlink()

    def _age(self) -> float:
        """Seconds since the owner touched the lock, by the clock of the file system."""
        probe = self._path.with_name(f"{NAME}.{os.uname().nodename}.{os.getpid()}.now")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - self._path.stat().st_mtime

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            with suppress(OSError):  # storage that fails for a while; without the file, the run doesn't hold the folder
                os.utime(self._path)


def _identity() -> dict[str, Any]:
    job = next((f"{name}={os.environ[name]}" for name in JOBS if name in os.environ), "")
    return {**asdict(Process.this()), "job": job, "since": time.strftime("%Y-%m-%d %H:%M:%S")}


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
