"""Other processes of this host, by their numbers (proc(5))."""

import os
from contextlib import suppress
from pathlib import Path


def number_space() -> str:
    """Where process numbers mean the same: this boot of this host, and its namespace (of a container) of processes."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def start_of(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" if it isn't there. A number may have been given again since."""
    state, *rest = _stat(pid) or ["X"]
    return "" if state in "ZX" else rest[18]


def is_stopped(pid: int) -> bool:
    """Whether a signal (SIGSTOP, Ctrl-Z) or a debugger has stopped it."""
    return (_stat(pid) or ["X"])[0] in "Tt"


def _stat(pid: int) -> list[str]:
    """The fields of its status from the state on; none if it isn't there."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
