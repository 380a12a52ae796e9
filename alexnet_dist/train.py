"""python -m alexnet_dist.train: train AlexNet on all ranks of this MPI run."""

import argparse
import signal
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.support.starting import PROGRAM, TRAIN, has_started
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, given_flags

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
    """Writes the report of a run that has ended. What goes wrong is said: the run itself is whole."""
    from alexnet_dist.reporting.making import PAGE, write_report

    try:
        write_report([run], run / PAGE)
        print(f"report: {run / PAGE}", flush=True)
    except UserError as error:
        print(f"no {PAGE}: {error}", flush=True)
    except Exception as error:
        print(f"WARNING: no {PAGE}: {error!r}; alexnet-report {run} tries again", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    stop = has_started()
    with StopSignals(last=PROGRAM == TRAIN) as signals:  # a signal that comes while MPI starts isn't lost
        if stop:
            signal.raise_signal(signal.SIGUSR1)  # nor one that came before
        return cli.run_on_ranks(build_parser(), argv, partial(body, signals), needs_mpi=False)


if __name__ == "__main__":
    raise SystemExit(main())
