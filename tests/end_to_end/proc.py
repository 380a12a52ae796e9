"""What the kernel says of a process (proc(5)); of one that is gone, nothing."""

import signal

from alexnet_dist.support.processes import read_proc


def environ(pid: int) -> list[bytes]:
    return read_proc(pid, "environ").split(b"\0")


def parent(pid: int) -> int:
    return int(_status(pid).get("PPid", "0"))


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether it has a handler for this signal."""
    return bool(int(_status(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)


def has_mapped(pid: int, library: str) -> bool:
    return library.encode() in read_proc(pid, "maps")


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in read_proc(pid, "status").decode().splitlines())
