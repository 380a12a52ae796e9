"""Layouts of ranks and threads: how each is started, how its step is measured, and which of several is taken."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from alexnet_dist.errors import BAD_INPUT, UserError

NOISE = 0.02  # of the speed: two measurements of the same layout differ by so much
BINDINGS = {  # the flags by which each MPI binds a rank to cores of its own, or doesn't
    "Open MPI": {"none": ["--bind-to", "none"], "core": ["--map-by", "slot:PE={threads}", "--bind-to", "core"]},
    "MPICH": {"none": ["-bind-to", "none"], "core": ["-bind-to", "core:{threads}"]},
}
SURVIVING = ["--with-ft", "ulfm", "--mca", "mpi_ft_detector", "true"]  # of Open MPI's mpirun: what --elastic needs
PROBE = "--probe"  # of alexnet-layout: be one of the ranks that are measured
TIMEOUT = 120  # seconds, for the measurement of a layout


@dataclass(frozen=True)
class RankLayout:
    """Ranks, threads of each, and whether a rank is bound to cores of its own."""

    ranks: int
    threads: int
    binding: str

    def command(
        self, mpi: str, module: str, flags: list[str], python: str = "python", *, elastic: bool = False
    ) -> list[str]:
        """The command line that starts a module of this package in this layout; without an `mpi` ("") one rank alone."""
        program = [python, "-m", f"alexnet_dist.{module}", "--threads", str(self.threads), *flags]
        if not mpi:
            return program
        binding = [word.format(threads=self.threads) for word in BINDINGS[mpi][self.binding]]
        surviving = SURVIVING if elastic and mpi == "Open MPI" else []
        return ["mpirun", *surviving, *binding, "-n", str(self.ranks), *program]

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


def measure(layout: RankLayout, mpi: str, flags: list[str], *, elastic: bool = False) -> dict[str, object] | str:
    """What a probe measures in this layout: seconds a step, and the strategy; or why it could not run."""
    command = layout.command(mpi, "layout", [PROBE, *flags], sys.executable, elastic=elastic)
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


def simplest(seconds: dict[RankLayout, float]) -> RankLayout:
    """Of the layouts that are as fast as the fastest, by their seconds an image, the one of the fewest ranks, not bound."""
    limit = min(seconds.values()) * (1 + NOISE)
    equal = [layout for layout, value in seconds.items() if value <= limit]
    best = min(equal, key=lambda layout: (layout.ranks, layout.binding != "none"))
    others = ", ".join(str(layout) for layout in equal if layout != best)
    if others:
        print(f"  within {NOISE:.0%}: {best}; {others}: taking the simpler", file=sys.stderr, flush=True)
    return best
