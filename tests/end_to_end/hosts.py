"""Two hosts on one machine: network namespaces with a cable between them, a name and an ssh server each.

MPI takes them for two hosts: it starts ranks by ssh, and what crosses between them goes through TCP. They share the file
system, as a cluster's hosts do. All of it needs root, and is gone when the context ends.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NET = "10.77.0"
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "unshare")
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def find(tool: str) -> str | None:
    return shutil.which(tool, path=PATHS)


def why_not() -> str:
    """What this machine lacks for two hosts; empty if nothing."""
    missing = [tool for tool in TOOLS if find(tool) is None]
    if missing:
        return f"two hosts need {', '.join(missing)} (apt-get install iproute2 openssh-server openssh-client)"
    if os.geteuid() != 0:
        return "two hosts need root, for network namespaces"
    probe = f"alexnet-probe-{os.getpid()}"
    for command in ([find("ip"), "netns", "add", probe], [find("unshare"), "--uts", "true"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return f"this machine forbids `{' '.join(map(str, command[1:]))}`, which two hosts need"
    subprocess.run([find("ip"), "netns", "del", probe], check=False)
    return ""


class TwoHosts:
    """The first one starts programs; `mpirun` is what they are started with."""

    def __init__(self, folder: Path, mpirun: str) -> None:
        self.folder, self.mpirun = folder, mpirun
        self.names = [f"alexnet-{os.getpid()}-{letter}" for letter in "ab"]
        self.addresses = [f"{NET}.{number}" for number in (1, 2)]
        self._servers: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        """Lays the cable and starts the servers. /run/sshd is where sshd wants an empty folder."""
        cables = [f"alx{os.getpid() % 100000}{letter}" for letter in "ab"]
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(self.names, cables, self.addresses, strict=True):
            self._ip("link", "set", cable, "netns", name)
            self._ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            for device in (cable, "lo"):
                self._ip("-n", name, "link", "set", device, "up")
        self.cable = cables[0]
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for key in ("user", "host"):
            subprocess.run([find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        (self.folder / "authorized").write_text((self.folder / "user.pub").read_text())
        self._write_ssh()
        for name, address in zip(self.names, self.addresses, strict=True):
            self._serve(name, address)

    def _ip(self, *words: str) -> None:
        subprocess.run([find("ip"), *words], check=True, capture_output=True, text=True)

    def _write_ssh(self) -> None:
        """A program `ssh` that knows the key and asks nothing."""
        options = {
            "IdentityFile": self.folder / "user",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        options |= {"LogLevel": "ERROR", "BatchMode": "yes", "IdentitiesOnly": "yes"}
        flags = " ".join(f"-o '{name}={value}'" for name, value in options.items())
        self.ssh = self.folder / "ssh"
        self.ssh.write_text(f'#!/bin/sh\nexec {find("ssh")} -F /dev/null {flags} "$@"\n')
        self.ssh.chmod(0o755)

    def _serve(self, name: str, address: str) -> None:
        config = self.folder / f"sshd-{address}"
        lines = [
            f"ListenAddress {address}:22",
            f"HostKey {self.folder / 'host'}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}",
            f"PidFile {self.folder / address}.pid",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "StrictModes no",
            "UsePAM no",
        ]
        config.write_text("\n".join(lines) + "\n")
        log = self.folder / f"sshd-{address}.log"
        command = self._inside(name, [str(find("sshd")), "-D", "-E", str(log), "-f", str(config)])
        self._servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        end = time.monotonic() + 10
        while subprocess.run([*self._on_first([str(self.ssh), address, "true"])], capture_output=True).returncode:
            if time.monotonic() > end:
                raise RuntimeError(f"sshd of {address} does not answer: {log.read_text() if log.exists() else ''}")
            time.sleep(0.05)

    def _inside(self, name: str, command: list[str]) -> list[str]:
        """A command in a host's network and under its name."""
        renamed = ["sh", "-c", 'hostname "$0" && exec "$@"', name, *command]
        return [str(find("ip")), "netns", "exec", name, str(find("unshare")), "--uts", *renamed]

    def _on_first(self, command: list[str]) -> list[str]:
        return self._inside(self.names[0], command)

    def run(self, ranks: tuple[int, int], command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A Python command on so many ranks of either host."""
        total = str(sum(ranks))
        places = [f"{address}:{count}" for address, count in zip(self.addresses, ranks, strict=True)]
        environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        version = subprocess.run([self.mpirun, "--version"], capture_output=True, text=True, check=True).stdout
        if "Open MPI" in version:
            net = f"{NET}.0/24"
            # Ranks wait politely; without this, Open MPI's own waits take the cores from those that compute.
            mca = {"btl_tcp_if_include": net, "btl": "self,sm,tcp", "pml": "ob1", "mpi_yield_when_idle": "1"}
            start = ["--host", ",".join(places), "--bind-to", "none", "--map-by", "slot"]
            start += [word for name, value in mca.items() for word in ("--mca", name, value)]
            start += [
                "--prtemca",
                "plm_ssh_agent",
                str(self.ssh),
                "--prtemca",
                "prte_if_include",
                net,
                "-x",
                "PYTHONPATH",
            ]
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        else:
            hostfile = self.folder / "hostfile"
            hostfile.write_text("\n".join(places) + "\n")
            start = ["-f", str(hostfile), "-launcher", "ssh", "-launcher-exec", str(self.ssh), "-iface", self.cable]
        whole = self._on_first([self.mpirun, *start, "-n", total, sys.executable, *command])
        return subprocess.run(
            whole, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def close(self) -> None:
        """Ends every process in the two namespaces, and removes them; the cable goes with them."""
        for name in self.names:
            pids = subprocess.run(
                [find("ip"), "netns", "pids", name], capture_output=True, text=True, check=False
            ).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            subprocess.run([find("ip"), "netns", "del", name], capture_output=True, check=False)
        for server in self._servers:
            server.wait()


@contextlib.contextmanager
def two_hosts(folder: Path, mpirun: str) -> Iterator[TwoHosts]:
    """Two hosts for the time of the context; `folder` keeps their keys and is where programs run."""
    hosts = TwoHosts(folder, mpirun)
    try:
        hosts.open()
        yield hosts
    finally:
        hosts.close()
