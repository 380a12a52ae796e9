"""The terminal in front of which somebody started this process, also through mpirun, which gives it pipes."""

import locale
import os
from pathlib import Path
from typing import TextIO

LAUNCHERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "orterun", "prterun", "prun", "prte"})
STDOUT, STDERR = 1, 2
TERMINALS = ("/dev/pts/", "/dev/tty", "/dev/console")


def find_terminal(number: int = STDOUT) -> TextIO | None:
    """A stream to the terminal on which stdout, or stderr, appears: that of mpirun where it has started this process on its
    own host. None where it goes elsewhere (a file, a pipe, another host) or the terminal can't move its cursor."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    path = f"/proc/{_launcher() or 'self'}/fd/{number}"
    try:
        if not os.readlink(path).startswith(TERMINALS):
            return None
        handle = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    except OSError:  # of another person, or gone
        return None
    if not os.isatty(handle):
        os.close(handle)
        return None
    return open(handle, "w", encoding=locale.getpreferredencoding(False), errors="replace")


def columns_of(terminal: TextIO) -> int:
    """How wide the terminal is now."""
    return os.get_terminal_size(terminal.fileno()).columns or 80


def _launcher() -> int | None:
    """The process id of the mpirun, farthest up, that this process descends from."""
    found, pid = None, os.getppid()
    while pid > 1:
        if LAUNCHERS & _names(pid):
            found = pid
        pid = _parent(pid)
    return found


def _names(pid: int) -> set[str]:
    """What a process is called; a script is its interpreter's first argument."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
    except OSError:
        return set()
    return {os.path.basename(os.fsdecode(word)) for word in words}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
