"""python -m alexnet_dist.doctor: what this machine offers, in ten lines, and whether a run would work. Needs no MPI."""

import argparse
import json
import sys
from dataclasses import asdict

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.machine import facts, mpi
from alexnet_dist.machine.finding import Finding
from alexnet_dist.machine.layouts import RankLayout, measure, simplest
from alexnet_dist.support.threads import available_cores
from alexnet_dist.training.config import GLOBAL_BATCH
from alexnet_dist.training.flags import parse_config
from alexnet_dist.training.strategies import FALLBACK

DESCRIPTION = """Says what this machine offers: cores, memory, BLAS, MPI, shared memory, limits, the layout of ranks and threads
that it would pick, how fast its training step is, and what is wrong, with what to do about it."""
EPILOG = """The step is made on noise, in two layouts: one rank with all cores, and a rank for each core, if mpirun works.
alexnet-layout measures those in between as well.

exit codes: 0 a run would work (on one rank where there is no MPI), 1 it would not"""
WIDTH = 10  # columns of the names


def build_parser() -> cli.Parser:
    """The flags of alexnet-doctor."""
    parser = cli.Parser("alexnet-doctor", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object")
    add("--global-batch", type=int, default=GLOBAL_BATCH, metavar="N", help="images of the step (default: %(default)s)")
    add("--image-size", type=int, default=224, metavar="PIXELS", help="of its network (default: %(default)s)")
    add("--width", type=float, default=1.0, metavar="F", help="of its network (default: %(default)s)")
    return parser


def body(args: argparse.Namespace) -> int:
    """Examines and prints; returns 1 if a run would not work."""
    flags = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("global_batch", "image_size", "width")]
    parse_config(flags)  # raises for what no network has
    findings: list[Finding] = []

    def tell(*found: Finding) -> None:
        findings.extend(found)
        for one in () if args.json else found:
            print(f"{one.name:{WIDTH}} {one.text}", flush=True)

    tell(Finding("versions", cli.version(), {"text": cli.version()}), facts.cores(), facts.memory(), facts.blas())
    tell(library := mpi.loaded())
    tell(mpirun := mpi.mpirun(library.data["library"] is not None))
    tell(facts.shared_memory(), facts.limits())
    tell(*speed(flags, args.global_batch, str(mpirun.data["mpi"]) if mpirun.data["ranks_meet"] else ""))
    problems = [problem for one in findings for problem in one.problems]
    notes = [note for one in findings for note in one.notes]
    if args.json:
        found = {one.name: asdict(one) for one in findings}
        print(json.dumps({"works": not problems, "found": found}, ensure_ascii=False))
    else:
        for kind, texts in (("PROBLEM", problems), ("note", notes)):
            for text in texts:
                print(f"{kind:{WIDTH}} {text}")
    return 1 if problems else 0


def speed(flags: list[str], images: int, mpi_of_mpirun: str) -> list[Finding]:
    """The layout that is the fastest of those measured, and the images a second of its step."""
    cores, results, failures = available_cores(), {}, []
    layouts = {RankLayout(1, cores, "none")} | ({RankLayout(min(cores, images), 1, "none")} if mpi_of_mpirun else set())
    for layout in sorted(layouts, key=lambda layout: layout.ranks):
        print(f"{'':{WIDTH}} measuring {layout} ...", file=sys.stderr, flush=True)
        try:
            result = measure(layout, mpi_of_mpirun, flags)
        except UserError as error:
            result = str(error)
        if isinstance(result, str):
            failures.append(f"{layout} can't make a step: {result}")
        else:
            results[layout] = result
    if not results:
        return [Finding("layout", "none works", {}, problems=tuple(failures)), Finding("step", "none was made")]
    seconds = {layout: float(str(result["seconds"])) for layout, result in results.items()}
    best = simplest(seconds)
    speeds = {str(layout): images / value for layout, value in seconds.items()}
    others = ", ".join(f"{name}: {speed:.1f} images/s" for name, speed in speeds.items() if name != str(best))
    text = f"{best}, {results[best]['sync']}: {speeds[str(best)]:.1f} images/s" + (f"; {others}" if others else "")
    data = {"ranks": best.ranks, "threads": best.threads, "sync": results[best]["sync"], "images_per_second": speeds}
    slow = any(layout.ranks > 1 and result["sync"] == FALLBACK for layout, result in results.items())
    notes = [*failures, *["ranks don't share memory here, see /dev/shm (docker run --shm-size 4g)"] * slow]
    step = f"{speeds[str(best)]:.1f} images/s: {images} images in {seconds[best]:.2f} s"
    return [
        Finding("layout", text, data, notes=tuple(notes)),
        Finding("step", step, {"images": images, "seconds": seconds[best], "images_per_second": speeds[str(best)]}),
    ]


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
