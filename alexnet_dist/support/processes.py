"""Processes of this host, by their numbers (proc(5)), and who a process is for others on other hosts."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of some host."""

    host: str
    place: str  # where its number means something: number_space()
    pid: int
    started: str  # start_of(pid): a number may be given again

    @classmethod
    def this(cls) -> "Process":
        """The one that calls this."""
        return cls(os.uname().nodename, number_space(), os.getpid(), start_of(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether its number means something here: only then can the others be asked."""
        return self.place != "" and self.place == number_space()

    @property
    def is_alive(self) -> bool:
        return start_of(self.pid) == self.started

    @property
    def is_stopped(self) -> bool:
        """Whether a signal (SIGSTOP, Ctrl-Z) or a debugger has stopped it."""
        return (_stat(self.pid) or ["X"])[0] in "Tt"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def number_space() -> str:
    """Where process numbers mean the same: this boot of this host, and its namespace (of a container) of processes."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def start_of(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" if it isn't there."""
    state, *rest = _stat(pid) or ["X"]
    return "" if state in "ZX" else rest[18]


def all_pids() -> list[int]:
    """The numbers of all processes here."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def read_proc(pid: int, name: str) -> bytes:
    """A process's file in proc(5); nothing of one that is gone, or of somebody else's."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _stat(pid: int) -> list[str]:
    """The fields of its status from the state on; none if it isn't there."""
    return read_proc(pid, "stat").rpartition(b")")[2].decode().split()
