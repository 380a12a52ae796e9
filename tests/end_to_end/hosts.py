"""Two hosts on one machine, for tests of several: namespaces with a network cable between them, and an sshd in each.

Each has its own name, network, process numbers and /dev/shm, so that MPI takes them for two nodes and nothing but the
cable connects them; they share the disk. No namespace has a name: all of them, the cable and whatever runs on a host
are gone when its first process is.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launcher import MPIRUN, Job, open_mpi

NAMES = ("one", "two")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
START = 20  # seconds within which a host lets one log in
# There, but not on the PATH of every account.
SYSTEM = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "setpriv", "unshare", "nsenter", "mount", "hostname")

# The first process of a host. Its number as seen from outside has to be read before it gets a /proc of its own. The
# mounts are the host's own too: sshd and ssh find what they need where they look for it, and need no option.
BOOT = """
set -e
hostname "$1"
read -r pid _ </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2" /etc/ssh
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
echo "$pid"
exec "$3" -D -e
"""

# AuthorizedKeysFile, and not ~/.ssh: the account's own keys stay out of it.
SSHD_CONFIG = """
ListenAddress 0.0.0.0
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
"""
SSH_CONFIG = """
IdentityFile /etc/ssh/key
IdentitiesOnly yes
BatchMode yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


class Impossible(Exception):
    """Why there can't be two hosts on this machine."""


class Host:
    """A running host."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self._pid = pid  # of its first process

    def command(self, words: list[str], cwd: Path) -> list[str]:
        """The command that runs another one on this host."""
        # A process that enters a mount namespace is thrown back to its root.
        chdir = ["env", f"--chdir={cwd}"]
        return [_tool("nsenter"), f"--target={self._pid}", *_NAMESPACES, *chdir, *words]

    def run(self, *words: str) -> None:
        """Runs a command on this host; raises Impossible if it fails."""
        _run(self.command(list(words), Path("/")), f"on host {self.name}: {' '.join(words)}")

    def plug(self, other: "Host") -> None:
        """A cable between the two: eth0 on both."""
        peer = ["peer", "name", "eth0", "netns", str(other._pid)]
        # In this one's network alone: among its process numbers, that of the other's process would mean nothing.
        enter = [_tool("nsenter"), f"--target={self._pid}", "--net"]
        _run([*enter, _tool("ip"), "link", "add", "eth0", "type", "veth", *peer], "a cable between two hosts")

    def sent(self) -> int:
        """The bytes that have left this host so far."""
        lines = Path(f"/proc/{self._pid}/net/dev").read_text().splitlines()
        return next(int(line.split()[9]) for line in lines if line.split()[0] == "eth0:")


class TwoHosts:
    """A pair of running hosts. Jobs start on the first."""

    def __init__(self, one: Host, two: Host) -> None:
        self.one, self.two = one, two

    def run(self, ranks: tuple[int, int], command: list[str | Path], cwd: Path) -> Job:
        """A Python command on so many ranks of either host, not more on the second; as README.md does it, to its end."""
        most, total = str(ranks[0]), str(sum(ranks))
        hostfile = cwd / "hostfile"
        slots = " slots=" if open_mpi() else ":"
        hostfile.write_text("".join(f"{name}{slots}{most}\n" for name in NAMES))
        assert MPIRUN is not None
        if open_mpi():
            start = ["--hostfile", str(hostfile), "-n", total, "--map-by", f"ppr:{most}:node", "--bind-to", "none"]
            # Each host believes that the machine's cores are its own; so that ranks that wait give theirs up:
            start += ["-x", "PATH", "--mca", "mpi_yield_when_idle", "1"]
            start += ["-x", "PYTHONPATH"] if "PYTHONPATH" in os.environ else []
        else:
            start = ["-f", str(hostfile), "-n", total, "-ppn", most]
        words = [MPIRUN, *start, sys.executable, *map(str, command)]
        with Job(self.one.command(words, cwd), cwd) as job:
            return job.wait()


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two hosts, as long as the context is open; the folder is for what they need. Raises Impossible."""
    if os.geteuid() != 0:
        raise Impossible("only root may make network namespaces")
    for tool in TOOLS:
        _tool(tool)
    if any(folder.resolve().is_relative_to(own) for own in ("/dev/shm", "/run")):
        raise Impossible(f"{folder} is where each host has a folder of its own")
    _run([_tool("unshare"), *_NAMESPACES, "--fork", "true"], "namespaces of their own")
    etc = folder / "etc-ssh"
    etc.mkdir(mode=0o755)
    (etc / "sshd_config").write_text(SSHD_CONFIG)
    (etc / "ssh_config").write_text(SSH_CONFIG)
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(map("{} {}\n".format, ADDRESSES, NAMES)))
    _run([_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "key")], "a key to log in with")
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(_host(name, etc, folder / f"{name}.log")) for name in NAMES)
        one.plug(two)
        for host, address in zip((one, two), ADDRESSES, strict=True):
            host.run(_tool("ip"), "address", "add", f"{address}/24", "dev", "eth0")
            host.run(_tool("ip"), "link", "set", "eth0", "up")
            host.run(_tool("ip"), "link", "set", "lo", "up")
        _log_in(one, "two", folder)
        _log_in(two, "one", folder)
        yield TwoHosts(one, two)


_NAMESPACES = ["--net", "--uts", "--ipc", "--pid", "--mount"]


@contextlib.contextmanager
def _host(name: str, etc: Path, log: Path) -> Iterator[Host]:
    # The first process of a namespace of process numbers takes all others with it, whatever they have become. It ends
    # with unshare, and unshare with this process, should that be killed.
    command = [_tool("setpriv"), "--pdeathsig", "KILL"]
    command += [_tool("unshare"), *_NAMESPACES, "--fork", "--kill-child=KILL"]
    command += ["sh", "-c", BOOT, "boot", name, str(etc), _tool("sshd")]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    try:
        if not first:
            raise Impossible(f"host {name} doesn't start: {_last_line(log)}")
        yield Host(name, int(first))
    finally:
        # unshare then ends by itself; were it killed, nobody here could wait for its child.
        os.kill(int(first) if first else process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _log_in(host: Host, other: str, folder: Path) -> None:
    """Until ssh from one host to the other works."""
    end = time.monotonic() + START
    while True:
        try:
            return host.run(_tool("ssh"), other, "true")
        except Impossible as error:
            if time.monotonic() > end:
                raise Impossible(f"{error}; its sshd says: {_last_line(folder / f'{other}.log')}") from error
        time.sleep(0.1)


def _tool(name: str) -> str:
    """Its path: sshd wants to be started by one."""
    path = shutil.which(name, path=SYSTEM)
    if path is None:
        raise Impossible(f"there is no {name} (Debian: apt-get install iproute2 openssh-server openssh-client)")
    return path


def _run(command: list[str], what: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=START, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise Impossible(f"{what}: {result.stderr.strip() or f'exit {result.returncode}'}")


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
