"""python -m alexnet_dist.train: train AlexNet on all ranks of this MPI run."""

import argparse
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.training.flags import build_parser, read_config

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World


def body(world: "World", args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    # Imported here, because --help needs no MPI.
    from alexnet_dist.training.setup import open_run
    from alexnet_dist.training.trainer import Trainer

    with world.shared_errors():
        config = read_config(args)
    with open_run(config, world) as run:
        return Trainer(run).run()


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run_on_ranks(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
