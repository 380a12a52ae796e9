"""The command that an attempt runs: that of the person, without the hosts that are gone, and with --resume auto."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.errors import UserError
from alexnet_dist.training.config import AUTO
from alexnet_dist.training.flags import parse_config

HOSTFILE = ("-f", "-hostfile", "--hostfile", "-machinefile", "--machinefile")
HOSTS = ("-hosts", "--hosts", "-host", "--host", "-H")  # a,b:2 on the command line itself
RANKS = ("-n", "-np", "--np")
HOST = re.compile(r"^\s*([^\s:#]+)(?:\s*:\s*(\d+)|.*?\bslots\s*=\s*(\d+))?")  # MPICH's and Open MPI's lines


@dataclass(frozen=True)
class Host:
    """A line of a hostfile."""

    line: str
    match: re.Match[str]

    @property
    def name(self) -> str:
        return self.match[1]

    @property
    def slots(self) -> int | None:
        """How many ranks it may have, where the line says it."""
        number = self.match[2] or self.match[3]
        return int(number) if number else None


class Attempt(NamedTuple):
    """What is run: its words, how many ranks it has (None: not known), and the hosts that are left out."""

    words: list[str]
    ranks: int | None
    gone: list[str]


@dataclass(frozen=True)
class Command:
    """A command that trains: `launcher` starts the ranks, `flags` are alexnet-train's; the run writes to `folder`."""

    launcher: list[str]
    flags: list[str]
    folder: Path

    @classmethod
    def of(cls, words: list[str]) -> "Command":
        """Raises UserError for a command that doesn't train, or that says itself where to go on."""
        end = _end_of_launcher(words)
        if end is None:
            raise UserError(
                "the command to supervise must be one of alexnet_dist.train, such as: "
                "alexnet-supervise -- mpirun -n 8 python -m alexnet_dist.train"
            )
        launcher, flags = words[:end], words[end:]
        config = parse_config([flag for flag in flags if flag not in ("-h", "--help", "--version")])
        if config.resume not in (None, AUTO):
            raise UserError("leave --resume out: each attempt goes on from the newest whole state (--resume auto)")
        ranks = _option(launcher, RANKS)
        if ranks is not None and not launcher[ranks].isdecimal():
            raise UserError(f"{launcher[ranks - 1]} is {launcher[ranks]!r}, but must be a number of ranks")
        if config.batch_size is not None and _option(launcher, (*HOSTFILE, *HOSTS)):
            number = "" if ranks is None else f" {config.batch_size * int(launcher[ranks])}"
            raise UserError(
                f"--batch-size is {config.batch_size} for each rank, so that a run that goes on without a host would have "
                f"another global batch: say --global-batch{number} instead"
            )
        return cls(launcher, flags, Path(config.output_dir))

    def attempt(self, hostfile: Path, is_there: Callable[[str], bool]) -> Attempt:
        """The next attempt, on the hosts that are there.

        The hosts that are there take the place of those in the command, if some are gone; those of a hostfile are written
        to `hostfile`. Raises UserError for one that can't be read.
        """
        flags = [*self.flags, "--resume", AUTO]
        file, ranks = _option(self.launcher, HOSTFILE), _option(self.launcher, RANKS)
        place = file or _option(self.launcher, HOSTS)
        count = None if ranks is None else int(self.launcher[ranks])
        if place is None:
            return Attempt([*self.launcher, *flags], count, [])
        lines = _read(Path(self.launcher[place])) if file else self.launcher[place].split(",")
        hosts = [Host(line, match) for line in lines if (match := HOST.match(line))]
        there = {name: is_there(name) for name in {host.name for host in hosts}}
        left = [host for host in hosts if there[host.name]]
        if left == hosts:
            return Attempt([*self.launcher, *flags], count, [])
        launcher = list(self.launcher)
        launcher[place] = str(hostfile) if file else ",".join(host.line for host in left)
        if file:
            hostfile.write_text("".join(f"{host.line}\n" for host in left), encoding="utf-8")
        if count is not None and ranks is not None:
            share = -(-count // len(hosts))  # where a host's line doesn't say how many it may have
            count = min(count, sum(host.slots or share for host in left))
            launcher[ranks] = str(count)
        return Attempt([*launcher, *flags], count, sorted(name for name in there if not there[name]))


def _end_of_launcher(words: list[str]) -> int | None:
    """Where alexnet-train's flags begin."""
    for number, word in enumerate(words):
        if word == "alexnet_dist.train" or Path(word).name == "alexnet-train":
            return number + 1
        if (word == "alexnet_dist" or Path(word).name == "alexnet") and words[number + 1 : number + 2] == ["train"]:
            return number + 2
        if Path(word).name == "local.sh":
            return number + (3 if words[number + 1 : number + 2] == ["--layout"] else 2)
    return None


def _option(words: list[str], names: tuple[str, ...]) -> int | None:
    """Where the value of an option is; None if it isn't given."""
    return next((number + 1 for number, word in enumerate(words[:-1]) if word in names), None)


def _read(hostfile: Path) -> list[str]:
    try:
        return hostfile.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"the hostfile {hostfile} can't be read: {error}") from error
