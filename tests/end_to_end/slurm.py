"""A Slurm cluster of hosts.py's hosts: Debian's slurmctld and slurmd, and munge, with a configuration of their own.

Whatever Slurm leaves lies on the hosts' own /run or in the folder that the tests give; the daemons end with their hosts.
"""

import secrets
import subprocess
import time
from pathlib import Path

from hosts import START, Host, Hosts, Impossible, tool

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
PACKAGES = "slurmctld slurmd slurm-client munge"

CHECKED = (
    30.0  # seconds from one look at the jobs' time limits to the next, of which the first is when slurmctld starts
)

# cred_expire is how long a job waits that has been requeued: two minutes, if nothing is said, and no less than this. Nodes
# may say that they have four processors, whatever this machine has.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={names[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
NodeName={nodes} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster. Jobs are handed in on the first host."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        """Starts its daemons; the folder is for what they keep and say. Raises Impossible."""
        for name in TOOLS:
            tool(name, PACKAGES)
        self._hosts, self._folder = hosts, folder
        names = [host.name for host in hosts.all]
        self._configuration = folder / "slurm.conf"
        self._configuration.write_text(CONFIGURATION.format(names=names, nodes=",".join(names), folder=folder))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        for host in hosts.all:
            host.run("mkdir", "-m", "755", "/run/munge")
            own = [f"--{what}-file=/run/munge/{what}" for what in ("pid", "seed", "log")]
            host.run(tool("munged", PACKAGES), "--force", f"--key-file={key}", *own)
        self._daemon(hosts.all[0], "slurmctld")
        self._began = time.monotonic()
        for host in hosts.all:
            self._daemon(host, "slurmd")
        self._wait_for_nodes(len(names))

    def _daemon(self, host: Host, name: str) -> None:
        log = self._folder / f"{name}-{host.name}.log"
        host.run(tool(name, PACKAGES), "-f", str(self._configuration), "-L", str(log))

    def _wait_for_nodes(self, count: int) -> None:
        end = time.monotonic() + START
        while self.ask("sinfo", "--noheader", "--format=%t %D").split() != ["idle", str(count)]:
            if time.monotonic() > end:
                logs = "".join(path.read_text() for path in self._folder.glob("slurm*.log"))
                raise Impossible(f"Slurm's nodes don't become idle: {logs[-2000:]}")
            time.sleep(0.1)

    def command(self, words: list[str], cwd: Path) -> list[str]:
        """The command that runs one of Slurm's programs, or another one, where Slurm is found."""
        return self._hosts.all[0].command([f"SLURM_CONF={self._configuration}", *words], cwd)

    def seconds_to_the_next_check(self) -> float:
        """Until Slurm looks at time limits again, and signals jobs that are near theirs."""
        return CHECKED - (time.monotonic() - self._began) % CHECKED

    def ask(self, *words: str) -> str:
        """What one of Slurm's programs prints; "" if it fails."""
        command = self.command(list(words), Path("/"))
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=START).stdout
        except subprocess.TimeoutExpired:
            return ""

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.ask("scontrol", "show", "--oneliner", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)
