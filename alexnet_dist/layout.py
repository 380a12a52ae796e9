"""python -m alexnet_dist.layout: how many ranks of how many threads train fastest on this machine, by measuring.

Takes the flags of alexnet_dist.train, runs some steps on noise in each layout that uses all available cores, and prints
the command line of the fastest. What is measured depends on --global-batch, --image-size, --width and --sync.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_dist import cli
from alexnet_dist.errors import BAD_INPUT, UserError
from alexnet_dist.support.plural import plural
from alexnet_dist.support.threads import Team, available_cores
from alexnet_dist.training.flags import build_parser, parse_config, read_config

if TYPE_CHECKING:
    from alexnet_dist.comm.world import World

BINDINGS = {  # the flags by which each MPI binds a rank to cores of its own, or doesn't
    "Open MPI": {"none": ["--bind-to", "none"], "core": ["--map-by", "slot:PE={threads}", "--bind-to", "core"]},
    "MPICH": {"none": ["-bind-to", "none"], "core": ["-bind-to", "core:{threads}"]},
}
PROBE = "--probe"
TIMEOUT = 120  # seconds, for the measurement of a layout


@dataclass(frozen=True)
class RankLayout:
    """Ranks, threads of each, and whether a rank is bound to cores of its own."""

    ranks: int
    threads: int
    binding: str

    def command(self, mpi: str, module: str, flags: list[str]) -> list[str]:
        """The command line that starts a module of this package in this layout."""
        binding = [word.format(threads=self.threads) for word in BINDINGS[mpi][self.binding]]
        program = ["python", "-m", f"alexnet_dist.{module}", "--threads", str(self.threads), *flags]
        return ["mpirun", *binding, "-n", str(self.ranks), *program]

    def __str__(self) -> str:
        bound = "" if self.binding == "none" else ", each bound to cores of its own"
        return f"{self.ranks} x {self.threads} (ranks x threads){bound}"


def candidates(cores: int, batch: int) -> list[RankLayout]:
    """The layouts that use all cores with no more ranks than images: bound and not bound, where that makes a difference."""
    ranks = [count for count in range(1, min(cores, batch) + 1) if cores % count == 0]
    return [
        RankLayout(count, cores // count, binding)
        for count in ranks
        for binding in (("none", "core") if count > 1 else ("none",))
    ]


def which_mpi() -> str:
    """Which MPI the mpirun on PATH belongs to. Raises UserError if there is none or it is unknown."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise UserError("there is no mpirun on PATH: activate the environment that this package is installed in")
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" in version:
        return "Open MPI"
    if "HYDRA" in version or "MPICH" in version:
        return "MPICH"
    raise UserError(
        f"{mpirun} is neither Open MPI's nor MPICH's: give ranks and threads yourself (mpirun -n, --threads)"
    )


def measure(layout: RankLayout, mpi: str, flags: list[str]) -> dict[str, object] | str:
    """What a probe measures in this layout: seconds a step, and the strategy; or why it could not run."""
    command = layout.command(mpi, "layout", [PROBE, *flags])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as mpirun:
        try:
            out, err = mpirun.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            mpirun.terminate()  # not kill: mpirun has to end its ranks
            mpirun.communicate()
            return f"not done after {TIMEOUT} s"
    if mpirun.returncode == BAD_INPUT:
        raise UserError(err.strip().removeprefix("alexnet-layout: error: "))
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if mpirun.returncode or not lines:
        return (err.strip().splitlines() or ["it printed nothing"])[-1]
    result: dict[str, object] = json.loads(lines[-1])
    return result


def probe(world: "World", args: argparse.Namespace) -> int:
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
        engine, _ = choose_engine(config.sync, spec, world, lambda strategy: Engine(spec, world, team, strategy))
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
        result = measure(layout, mpi, flags)
        if isinstance(result, str):
            print(f"  {layout}: could not run ({result})", file=sys.stderr)
            continue
        results[layout] = result
        speed = config.global_batch_on(layout.ranks) / float(str(result["seconds"]))
        print(f"  {layout}: {speed:.1f} images/s, {result['sync']}", file=sys.stderr, flush=True)
    if not results:
        raise UserError("no layout could be measured; its messages are above")
    best = min(
        results, key=lambda layout: float(str(results[layout]["seconds"])) / config.global_batch_on(layout.ranks)
    )
    return best, mpi, results[best]


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    flags = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    parser.prog, parser.description = "alexnet-layout", __doc__
    if PROBE in flags:
        return cli.run_on_ranks(parser, [flag for flag in flags if flag != PROBE], probe)

    def body(_: argparse.Namespace) -> int:
        print(f"measuring layouts for {plural(available_cores(), 'core')}:", file=sys.stderr, flush=True)
        best, mpi, result = fastest(flags)
        sync = [] if "--sync" in flags or best.ranks == 1 else ["--sync", str(result["sync"])]
        print(shlex.join(best.command(mpi, "train", [*sync, *flags])))
        return 0

    return cli.run(parser, flags, body)


if __name__ == "__main__":
    raise SystemExit(main())
