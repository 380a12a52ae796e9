"""What an attempt that was killed leaves on this host: processes, and segments of shared memory that MPI could not remove."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from alexnet_dist.support.memory import SHARED_MEMORY
from alexnet_dist.support.processes import all_pids, read_proc

MARK = "ALEXNET_ATTEMPT"  # in the environment of all that an attempt starts
MPICH = "mpich_*"
SEGMENTS = (MPICH, "vader_segment.*", "sm_segment.*", "osc_*", "psm_shm.*")  # as MPICH and Open MPI name theirs
WAITING = ("mpirun", "mpiexec", "mpiexec.hydra", "prterun", "bash", "sh", "local.sh", "sleep", "setpriv")  # programs
FORGOTTEN = 60.0  # seconds; a start takes a few
PATIENCE = 10.0  # seconds until a killed process is gone


def processes_of(attempt: str) -> list[int]:
    """The processes of this person that an attempt has started, this one left out."""
    entry = f"{MARK}={attempt}".encode()
    return [pid for pid in all_pids() if pid != os.getpid() and entry in read_proc(pid, "environ").split(b"\0")]


def working_processes_of(attempt: str) -> list[int]:
    """Those of them that don't just wait for others on this host: ranks, and what reaches other hosts."""
    return [
        pid for pid in processes_of(attempt) if read_proc(pid, "comm").strip().decode(errors="replace") not in WAITING
    ]


def kill_processes_of(attempt: str) -> int:
    """Kills what is left of an attempt; returns how many processes that were."""
    end, killed = time.monotonic() + PATIENCE, set[int]()
    while (left := processes_of(attempt)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= set(left)
        time.sleep(0.01)
    return len(killed)


def segments() -> set[Path]:
    """MPI's segments of shared memory that belong to this person."""
    found = (path for pattern in SEGMENTS for path in SHARED_MEMORY.glob(pattern))
    return {path for path in found if _is_mine(path)}


def unused_segments(before: set[Path]) -> set[Path]:
    """The segments that no process uses, and that weren't there before or are long forgotten."""
    found = {path for path in segments() if path not in before or _is_forgotten(path)}
    return found - _used(found) if found else found


def remove_segments(before: set[Path]) -> int:
    """Removes the segments of `unused_segments`; returns how many bytes that were."""
    freed = 0
    for path in unused_segments(before):
        with suppress(OSError):
            freed += path.stat().st_size
            path.unlink()
    return freed


def _used(paths: set[Path]) -> set[Path]:
    """Those that a process has mapped or open."""
    maps = b"".join(read_proc(pid, "maps") for pid in all_pids())
    opened = {target for pid in all_pids() for target in _open_files(pid)}
    return {path for path in paths if os.fsencode(path) in maps or str(path) in opened}


def _open_files(pid: int) -> set[str]:
    folder = Path(f"/proc/{pid}/fd")
    found = set()
    with suppress(OSError):  # it is gone, or somebody else's
        for number in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                found.add(os.readlink(folder / number))
    return found


def _is_forgotten(path: Path) -> bool:
    """Whether a segment is one of MPICH's of which no start has need any more. A younger one may belong to a run that is
    just starting in another container with the same /dev/shm, whose processes can't be seen here; one that has started
    keeps the memory without the name."""
    with suppress(OSError):
        return path.match(MPICH) and time.time() - path.stat().st_mtime > FORGOTTEN
    return False


def _is_mine(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False
