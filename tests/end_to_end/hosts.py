"""Several hosts on one machine, for tests and benchmarks: namespaces, an sshd in each, and a switch that joins them.

Each has its own name, network, process numbers and /dev/shm, so that MPI takes them for different nodes and nothing but
the cables to the switch connects them; they share the disk. No namespace has a name: all of them, the cables and whatever
runs on a host are gone when its first process is. Needs neither pytest nor MPI.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START = 60  # seconds within which a host lets one log in, and a command on it ends
# There, but not on the PATH of every account.
SYSTEM = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "setpriv", "unshare", "nsenter", "mount", "hostname")
NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")

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

    def __init__(self, name: str, address: str, pid: int) -> None:
        self.name, self.address = name, address
        self._pid = pid  # of its first process

    def command(self, words: Sequence[str], cwd: Path) -> list[str]:
        """The command that runs another one on this host."""
        # A process that enters a mount namespace is thrown back to its root.
        chdir = ["env", f"--chdir={cwd}"]
        return [tool("nsenter"), f"--target={self._pid}", *_NAMESPACES, *chdir, *words]

    def run(self, *words: str) -> None:
        """Runs a command on this host; raises Impossible if it fails."""
        _run(self.command(list(words), Path("/")), f"on host {self.name}: {' '.join(words)}")

    def plug(self, switch: "Switch", port: str) -> None:
        """A cable to the switch: eth0 here."""
        peer = ["peer", "name", port, "netns", str(switch.pid)]
        # In this one's network alone: among its process numbers, that of the switch would mean nothing.
        enter = [tool("nsenter"), f"--target={self._pid}", "--net"]
        _run([*enter, tool("ip"), "link", "add", "eth0", "type", "veth", *peer], "a cable to the switch")
        switch.run("link", "set", port, "master", "bridge")
        switch.run("link", "set", port, "up")
        self.run(tool("ip"), "address", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            self.run(tool("ip"), "link", "set", link, "up")

    def limit(self, rate: str) -> None:
        """What leaves this host leaves it at this rate (tc's: 1gbit). Raises Impossible where tc or the kernel can't."""
        # A burst of what a timer of 250 Hz lets through in a tick at 10 Gbit/s would be 5 MB; half of it is enough here.
        bucket = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
        self.run(tool("tc"), "qdisc", "replace", "dev", "eth0", "root", *bucket)

    def sent(self) -> int:
        """The bytes that have left this host so far."""
        lines = Path(f"/proc/{self._pid}/net/dev").read_text().splitlines()
        return next(int(line.split()[9]) for line in lines if line.split()[0] == "eth0:")


class Switch:
    """A bridge in a network of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, *words: str) -> None:
        """ip, there."""
        command = [tool("nsenter"), f"--target={self.pid}", "--net", tool("ip"), *words]
        _run(command, f"at the switch: {' '.join(words)}")


class Hosts:
    """Running hosts. Jobs start on the first."""

    def __init__(self, hosts: list[Host]) -> None:
        self.all = hosts

    def mpirun(self, mpirun: str, ranks: Sequence[int], words: Sequence[str], cwd: Path) -> list[str]:
        """The command for a Python command on so many ranks of each host, as README.md starts one.

        The later hosts have as many ranks as the first or, the last, fewer.
        """
        version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
        most, total = str(ranks[0]), str(sum(ranks))
        slots = " slots=" if "Open MPI" in version else ":"
        hostfile = cwd / "hostfile"
        hostfile.write_text("".join(f"{host.name}{slots}{most}\n" for host, _ in zip(self.all, ranks, strict=False)))
        if "Open MPI" in version:
            start = ["--hostfile", str(hostfile), "-n", total, "--map-by", f"ppr:{most}:node", "--bind-to", "none"]
            # Each host believes that the machine's cores are its own; so that ranks that wait give theirs up:
            start += ["-x", "PATH", "--mca", "mpi_yield_when_idle", "1"]
            start += ["-x", "PYTHONPATH"] if "PYTHONPATH" in os.environ else []
        else:
            start = ["-f", str(hostfile), "-n", total, "-ppn", most]
        return self.all[0].command([mpirun, *start, sys.executable, *words], cwd)

    def sent(self) -> list[int]:
        """The bytes that have left each host so far."""
        return [host.sent() for host in self.all]


@contextlib.contextmanager
def connected_hosts(folder: Path, count: int, rate: str | None = None) -> Iterator[Hosts]:
    """So many hosts, as long as the context is open; the folder is for what they need. Raises Impossible."""
    if os.geteuid() != 0:
        raise Impossible("only root may make network namespaces: run it as root")
    for name in (*TOOLS, *(("tc",) if rate else ())):
        tool(name)
    if any(folder.resolve().is_relative_to(own) for own in ("/dev/shm", "/run")):
        raise Impossible(f"{folder} is where each host has a folder of its own")
    _run([tool("unshare"), *_NAMESPACES, "--fork", "true"], "namespaces of their own")
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES[:count], 1)}
    etc = folder / "etc-ssh"
    etc.mkdir(mode=0o755)
    (etc / "sshd_config").write_text(SSHD_CONFIG)
    (etc / "ssh_config").write_text(SSH_CONFIG)
    known = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
    _run([tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "key")], "a key to log in with")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_switch(folder / "switch.log"))
        hosts = []
        for name, address in addresses.items():
            pid = stack.enter_context(_host(name, etc, folder / f"{name}.log"))
            hosts.append(Host(name, address, pid))
            hosts[-1].plug(switch, f"port-{name}")
        for host in hosts[1:]:
            _log_in(hosts[0], host.name, folder)
            _log_in(host, hosts[0].name, folder)
        for host in hosts if rate else []:
            host.limit(str(rate))
        yield Hosts(hosts)


_NAMESPACES = ["--net", "--uts", "--ipc", "--pid", "--mount"]


def _host(name: str, etc: Path, log: Path) -> contextlib.AbstractContextManager[int]:
    return _first_process([*_NAMESPACES], ["sh", "-c", BOOT, "boot", name, str(etc), tool("sshd")], f"host {name}", log)


@contextlib.contextmanager
def _switch(log: Path) -> Iterator[Switch]:
    boot = 'read -r pid _ </proc/self/stat; echo "$pid"; exec sleep infinity'
    with _first_process(["--net"], ["sh", "-c", boot], "the switch", log) as pid:
        switch = Switch(pid)
        switch.run("link", "add", "bridge", "type", "bridge")
        switch.run("link", "set", "bridge", "up")
        yield switch


@contextlib.contextmanager
def _first_process(namespaces: list[str], words: list[str], what: str, log: Path) -> Iterator[int]:
    """The process that holds new namespaces; it writes its number, as seen from outside, into its first line."""
    # The first process of a namespace of process numbers takes all others with it, whatever they have become. It ends
    # with unshare, and unshare with this process, should that be killed.
    command = [tool("setpriv"), "--pdeathsig", "KILL"]
    command += [tool("unshare"), *namespaces, "--fork", "--kill-child=KILL", *words]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    try:
        if not first:
            raise Impossible(f"{what} doesn't start: {_last_line(log)}")
        yield int(first)
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
            return host.run(tool("ssh"), other, "true")
        except Impossible as error:
            if time.monotonic() > end:
                raise Impossible(f"{error}; its sshd says: {_last_line(folder / f'{other}.log')}") from error
        time.sleep(0.1)


def tool(name: str, packages: str = "iproute2 openssh-server openssh-client") -> str:
    """Its path: sshd wants to be started by one. Raises Impossible, which names the packages that have it."""
    path = shutil.which(name, path=SYSTEM)
    if path is None:
        raise Impossible(f"there is no {name} (Debian: apt-get install {packages})")
    return path


def _run(command: list[str], what: str) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=START, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise Impossible(f"{what}: not ended after {START} s") from error
    if result.returncode != 0:
        raise Impossible(f"{what}: {result.stderr.strip() or f'exit {result.returncode}'}")


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
