"""The MPI library that Python loads, and whether mpirun belongs to it: both are started, in processes of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.machine.finding import Finding
from alexnet_dist.machine.layouts import which_mpi

TIMEOUT = 60  # seconds
INSTALL = "pip install 'alexnet_dist[mpi]'"
# Without starting MPI, which can end the process.
LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""
MEET = """
from alexnet_dist.errors import UserError
try:
    from alexnet_dist.comm.world import World
except UserError as error:
    raise SystemExit(str(error))
print(f"ranks: {World().size}")
"""
RANKS = 2
ROOT = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
SLOTS = "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"


def loaded() -> Finding:
    """The MPI library that mpi4py finds."""
    code, out, err = _run([sys.executable, "-c", LIBRARY])
    name = " ".join(out.split("\n")[0].rstrip("\0").replace("Version:", "").split())
    if code == 0 and name:
        return Finding("MPI", name.split(", package")[0], {"library": name})
    note = f"one rank trains, evaluates and classifies without MPI; several need it: {INSTALL}"
    return Finding("MPI", f"no library ({_last(err)})", {"library": None}, notes=(note,))


def mpirun(has_library: bool) -> Finding:
    """Which mpirun is on PATH, and whether its ranks find each other."""
    path = shutil.which("mpirun")
    data: dict[str, object] = {"path": path, "ranks_meet": False}
    if path is None:
        return Finding("mpirun", "not on PATH", data, notes=(_where_it_is(),) if has_library else ())
    try:
        flavour = which_mpi()
    except UserError as error:
        return Finding("mpirun", path, data, problems=(str(error),))
    data["mpi"] = flavour
    if not has_library:
        note = f"{path} is there, but no MPI library that Python finds: {INSTALL}, or MPI4PY_LIBMPI=/path/of/libmpi.so"
        return Finding("mpirun", f"{path}, {flavour}", data, notes=(note,))
    code, out, err = _run([path, "-n", str(RANKS), sys.executable, "-c", MEET])
    if code == 0 and out.count(f"ranks: {RANKS}") == RANKS:
        return Finding("mpirun", f"{path}, {flavour}, whose ranks find each other", {**data, "ranks_meet": True})
    return Finding("mpirun", f"{path}, {flavour}, whose ranks don't start", data, problems=(_why(out, err),))


def _where_it_is() -> str:
    beside = Path(sys.executable).with_name("mpirun")
    if beside.exists():
        return f"mpirun is {beside}, but not on PATH: . {beside.with_name('activate')}"
    return f"there is no mpirun, which starts several ranks: {INSTALL}, or the system's package of the library's MPI"


def _why(out: str, err: str) -> str:
    said = f"{out}\n{err}"
    if "allow-run-as-root" in said:
        return f"Open MPI's mpirun refuses root: export {ROOT} (launch/local.sh does it)"
    if "not enough slots" in said:
        return f"Open MPI's mpirun refuses more ranks than cores: export {SLOTS} (launch/local.sh does it)"
    known = next((line for line in said.splitlines() if "don't belong together" in line or "/dev/shm" in line), "")
    return f"ranks don't start: {known or _last(said)}"


def _last(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it says nothing"])[-1]


def _run(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors; a command that hangs has failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return 1, "", f"not done after {TIMEOUT} s"
    return done.returncode, done.stdout, done.stderr
