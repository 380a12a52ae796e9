"""python -m alexnet_dist.layout: how many ranks of how many threads train fastest on this machine, by measuring."""

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.machine.layouts import NOISE, PROBE, RankLayout, candidates, measure, simplest, which_mpi
from alexnet_dist.support.plural import plural
from alexnet_dist.support.threads import Team, available_cores
from alexnet_dist.training.flags import add_flags, parse_config, read_config

if TYPE_CHECKING:
    from alexnet_dist.comm.ranks import Ranks

DESCRIPTION = """Measures how many ranks of how many threads train fastest on this machine: makes some steps on noise in each
layout that uses all available cores, and prints the command line of the fastest. Those within {noise:.0%} of it count as
equally fast, and the simplest of them is taken: the fewest ranks, not bound to cores."""
EXAMPLES = """The flags are those that the run will have: see alexnet-train --help. What is measured depends on --global-batch
(or --batch-size), --image-size, --width and --sync; --threads is what is looked for.

examples:
  alexnet-layout --data flowers --output-dir runs/flowers
  launch/local.sh --layout auto --data flowers --output-dir runs/flowers     measures, and starts the run"""


def probe(world: "Ranks", args: argparse.Namespace) -> int:
    """On every rank of a layout: opens the engine that training would, and prints the time of its step."""
    # Imported here, because the process that starts the probes runs without MPI.
    from alexnet_dist.training.engine import Engine
    from alexnet_dist.training.setup import make_network, step_spec
    from alexnet_dist.training.strategy_choice import choose_engine, seconds_of_a_step

    with world.shared_errors():
        config = read_config(args)
        network = make_network(config, config.num_classes or 1000)
    spec = step_spec(config, network, world.size)
    with Team(config.threads) as team:
        sync = "allreduce" if config.elastic else config.sync
        engine, _ = choose_engine(sync, spec, world, lambda strategy: Engine(spec, world, team, strategy))
        seconds = world.largest(seconds_of_a_step(engine))
        if world.rank == 0:
            print(json.dumps({"seconds": seconds, "sync": engine.strategy_name}))
        engine.close()
    return 0


def fastest(flags: list[str]) -> tuple[RankLayout, str, dict[str, object]]:
    """Measures all candidates; returns the fastest, the MPI, and its probe's result. Raises UserError if none ran."""
    if any(flag.split("=")[0] == "--threads" for flag in flags):
        raise UserError("--threads is what is to be chosen here: leave it out, or say how many ranks you want")
    mpi = which_mpi()
    config = parse_config(flags)
    cores = available_cores()
    results: dict[RankLayout, dict[str, object]] = {}
    for layout in candidates(cores, config.global_batch_on(1)):
        result = measure(layout, mpi, flags, elastic=config.elastic)
        if isinstance(result, str):
            print(f"  {layout}: could not run ({result})", file=sys.stderr)
            continue
        results[layout] = result
        speed = config.global_batch_on(layout.ranks) / float(str(result["seconds"]))
        print(f"  {layout}: {speed:.1f} images/s, {result['sync']}", file=sys.stderr, flush=True)
    if not results:
        raise UserError("no layout could be measured; its messages are above")
    best = simplest(
        {
            layout: float(str(result["seconds"])) / config.global_batch_on(layout.ranks)
            for layout, result in results.items()
        }
    )
    return best, mpi, results[best]


def build_parser() -> cli.Parser:
    """Takes the flags of alexnet-train, which its help explains."""
    parser = cli.Parser(
        "alexnet-layout", DESCRIPTION.format(noise=NOISE), EXAMPLES, usage="%(prog)s [flags of alexnet-train]"
    )
    add_flags(parser, shown=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    flags = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    if PROBE in flags:
        return cli.run_on_ranks(parser, [flag for flag in flags if flag != PROBE], probe, needs_mpi=False)

    def body(_: argparse.Namespace) -> int:
        print(f"measuring layouts for {plural(available_cores(), 'core')}:", file=sys.stderr, flush=True)
        best, mpi, result = fastest(flags)
        sync = [] if "--sync" in flags or best.ranks == 1 else ["--sync", str(result["sync"])]
        print(shlex.join(best.command(mpi, "train", [*sync, *flags], elastic=parse_config(flags).elastic)))
        return 0

    return cli.run(parser, flags, body)


if __name__ == "__main__":
    raise SystemExit(main())
