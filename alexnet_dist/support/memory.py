"""How much memory this process may still take: what the machine has, and what its container (cgroup) allows."""

from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # where MPI libraries keep windows and messages on Linux
UNLIMITED = 1 << 60  # bytes: cgroup v1 says so much where there is no limit


def available_memory(root: Path = Path("/")) -> int:
    """Bytes: the least of the machine's available memory and of what is left under each limit above this process.

    Memory limits are those of cgroups, version 2 or 1. File caches that the kernel would give up count as available.
    Shared memory counts against the same limits. `root` is where proc/ and sys/ are found: another one for tests.
    """
    with open(root / "proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return min([available, *_left_under_limits(root)])


def _left_under_limits(root: Path) -> list[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            left += _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            left += _left(root / "sys/fs/cgroup/memory", path, *names)
    return left


def _left(mount: Path, path: str, limit: str, usage: str, cache: str) -> list[int]:
    """What is left in the group and in each above it; in a container, the mount may begin at the group itself."""
    group = mount / path.strip("/")
    left = []
    for folder in [group, *group.parents]:
        if folder.is_relative_to(mount):
            try:
                most = (folder / limit).read_text().strip()
                if most != "max" and int(most) < UNLIMITED:
                    stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                    left.append(max(0, int(most) - int((folder / usage).read_text()) + int(stat.get(cache, 0))))
            except (OSError, ValueError):  # the root has no limit, and other folders may not be there
                continue
    return left
