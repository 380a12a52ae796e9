"""What can be read off a machine: its cores, memory, BLAS and limits. Nothing is started."""

import os
import resource
from importlib import import_module

from alexnet_dist.machine.finding import Finding
from alexnet_dist.support.memory import SHARED_MEMORY, available_memory
from alexnet_dist.support.plural import plural
from alexnet_dist.support.processor import processor
from alexnet_dist.support.threads import available_cores

FEW_FILES = 256  # open at once: lists, shards and their readers, checkpoints, and what MPI keeps
GB = 1e9


def cores() -> Finding:
    """How many there are, and how many this process may use."""
    usable, allowed, there = available_cores(), len(os.sched_getaffinity(0)), os.cpu_count() or 1
    limits = []
    if allowed < there:
        limits.append(f"its affinity allows {allowed}")
    if usable < allowed:
        limits.append(f"its container's quota {usable}")
    why = f" ({', '.join(limits)})" if limits else ""
    text = f"{usable} of {plural(there, 'core')} may be used{why}, {processor()}"
    return Finding("cores", text, {"usable": usable, "there": there, "processor": processor()})


def memory() -> Finding:
    """What the machine has, and what is left of it under all limits."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory()
    text = f"{available / GB:.1f} GB available, containers' limits included, of {there / GB:.1f} GB"
    return Finding("memory", text, {"available": available, "there": there})


def blas() -> Finding:
    """The library of NumPy's matrix products, and which of its kernels it has chosen for this processor."""
    from threadpoolctl import threadpool_info

    import_module("numpy")  # which loads it
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name, kernel = library["internal_api"], library.get("architecture", "not told")
            data = {"library": name, "version": library["version"], "kernel": kernel}
            return Finding("BLAS", f"{name} {library['version']}, kernel {kernel}", data)
    remedy = (
        "its threads can't be limited to one, so that they compete with ours; NumPy's wheels from PyPI have OpenBLAS"
    )
    return Finding("BLAS", "NumPy has none that is known", {}, notes=(f"NumPy's BLAS is unknown: {remedy}",))


def shared_memory() -> Finding:
    """The room in /dev/shm, in which the ranks of a node share memory."""
    if not SHARED_MEMORY.is_dir():
        remedy = f"mount -t tmpfs tmpfs {SHARED_MEMORY}; in a container: docker run --shm-size 4g"
        note = f"there is no {SHARED_MEMORY}: ranks can't share memory, and MPICH can't start several ({remedy})"
        return Finding(str(SHARED_MEMORY), "isn't there", {"free": 0, "there": 0}, notes=(note,))
    room = os.statvfs(SHARED_MEMORY)
    free, there = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    return Finding(
        str(SHARED_MEMORY), f"{free / GB:.2f} GB free of {there / GB:.2f} GB", {"free": free, "there": there}
    )


def limits() -> Finding:
    """How many files a process may have open, and how many processes and threads a person."""
    files, processes = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    shown = ["any number of" if limit == resource.RLIM_INFINITY else str(limit) for limit in (files, processes)]
    few = files != resource.RLIM_INFINITY and files < FEW_FILES
    notes = (f"only {files} files may be open at once: ulimit -n {FEW_FILES} or more",) if few else ()
    text = f"{shown[0]} open files, {shown[1]} processes and threads"
    return Finding("limits", text, {"files": files, "processes": processes}, notes=notes)
