"""python -m alexnet_dist.train: train AlexNet on all ranks of this MPI run."""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.runs.log import say
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.support.starting import PROGRAM, TRAIN, has_started
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, given_flags

REPORT_SECONDS = 600
OF_MPIRUN = ("PMI", "PMIX", "OMPI", "MPI_")  # what tells a process that it is a rank

if TYPE_CHECKING:
    from alexnet_dist.comm.ranks import Ranks


def body(signals: StopSignals, world: "Ranks", args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    signals.catch()  # MPICH has put a handler of its own in the place of one of them
    # Imported here, because --help needs no MPI.
    from alexnet_dist.training.elastic import train
    from alexnet_dist.training.watchdog import Watchdog

    config = configured(world, args)
    with Watchdog(config.stall_timeout, world) as watchdog:
        code = train(config, world, signals, watchdog)
    if code == 0 and config.report:
        world.part()  # the others need not wait for the report
        if world.rank == 0:
            report(Path(config.output_dir))
    return code


def configured(world: "Ranks", args: argparse.Namespace) -> TrainingConfig:
    """Collective: the configuration. The flags of a run that is resumed are in its folder, which rank 0 alone needs."""
    from alexnet_dist.training.resumed_flags import continued, flags_before
    from alexnet_dist.training.watchdog import Watchdog

    with ExitStack() as stack:
        with world.shared_errors():
            given = given_flags(args)
            timeout = float(str(given.get("stall_timeout", TrainingConfig.stall_timeout)))
            stack.enter_context(Watchdog(max(0.0, timeout), world))  # before it waits for the others
            mine = flags_before(given, world.size) if world.rank == 0 else {}
        before = world.broadcast_json(mine)
        with world.shared_errors():
            return continued(before, given)


def report(run: Path) -> None:
    """Writes the report of a run that has ended, in a process of its own: what its libraries take, or where it reads images
    from storage that doesn't answer, is no longer the run's concern. What comes of it, or goes wrong, is said, in the log, too:
    the run itself is whole."""
    command = [sys.executable, "-m", "alexnet_dist.report", str(run)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(OF_MPIRUN)}
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=REPORT_SECONDS)
    except subprocess.TimeoutExpired:
        say(run, f"WARNING: no report of {run} after {REPORT_SECONDS} s; alexnet-report {run} tries again")
        return
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["it says nothing"]
    say(run, f"no report: {said[-1]}" if done.returncode else said[-1])


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    stop = has_started()
    with StopSignals(last=PROGRAM == TRAIN) as signals:  # a signal that comes while MPI starts isn't lost
        if stop:
            signal.raise_signal(signal.SIGUSR1)  # nor one that came before
        return cli.run_on_ranks(build_parser(), argv, partial(body, signals), needs_mpi=False)


if __name__ == "__main__":
    raise SystemExit(main())
