"""Starts the programs as a person does, alone or under mpirun, reads what they leave, and leaves nothing running."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import IO

import pytest
from proc import environ, parent

from alexnet_dist.support.processes import all_pids

TIMEOUT = 240  # seconds a job may take before it counts as hanging; all take a few
GONE = 30  # seconds within which all ranks must be gone after mpirun
# Seconds within which a job must have ended for a mistake. Few are enough, unless the machine is busy or stalls; ranks that
# wait for each other do so for minutes.
PROMPT = 60
TIMES = ("time", "attempt", "seconds", "val_seconds", "images_per_second")
FAULTS = Path(__file__).with_name("faults.py")  # alexnet-train with a fault
MARK = "ALEXNET_END_TO_END"  # an environment variable that all processes of a job inherit

BIN = Path(sys.executable).parent
MPIRUN = shutil.which("mpirun", path=str(BIN)) or shutil.which("mpirun")
NO_MPIRUN = "ranks need mpirun, which is neither beside Python nor on PATH: pip install 'alexnet_dist[mpi]'"
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason=NO_MPIRUN)

# A strategy that is given, for the same bits from run to run; the others have tests of their own.
# And no report, which takes longer than such a run.
SMALL = (
    *("--width", "0.0625", "--image-size", "67", "--threads", "1", "--workers", "1", "--sync", "allreduce"),
    "--no-report",
)

# Images of write_lists, for a run that nothing but its epochs ends.
DATA = [
    "--data",
    "train.list",
    "--val",
    "val.list",
    "--global-batch",
    "4",
    "--lr",
    "0.0001",
    "--lr-patience",
    "1000000",
]


class Job:
    """One command in a session of its own. Used as a context, it ends with every process that it has started."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        self._mark = uuid.uuid4().hex
        self._out, self._err = (FileIO(os.memfd_create(name), "r+") for name in ("out", "err"))
        self.command = command
        self.ended = 0.0
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment(), **(env or {}), MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def out(self) -> str:
        return _text(self._out)

    @property
    def err(self) -> str:
        return _text(self._err)

    @property
    def code(self) -> int:
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Sends it to the first process alone, as a person or a batch system does."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of every process of the job, wherever it has moved to: MPI gives each rank a session of its own."""
        while pids := self.alive():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()

    def alive(self) -> list[int]:
        """The processes of this job."""
        entry = f"{MARK}={self._mark}".encode()
        return [pid for pid in all_pids() if entry in environ(pid)]

    def ranks(self) -> list[int]:
        """The processes of its ranks, in their order."""
        found = {}
        for pid in self.alive():
            entries = dict(entry.split(b"=", 1) for entry in environ(pid) if b"=" in entry)
            rank = entries.get(b"PMI_RANK", entries.get(b"OMPI_COMM_WORLD_RANK"))
            if rank is not None:
                found[pid] = int(rank)
        # A process that a rank has just forked has the rank's environment until it becomes another program: it is left out.
        return sorted((pid for pid in found if found.get(parent(pid)) != found[pid]), key=found.__getitem__)

    def wait(self, timeout: float = TIMEOUT) -> "Job":
        """Until all its processes have ended; fails if they hang."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"hangs: not ended after {timeout} s\n{self}")
        self.until(lambda: not self.alive(), "its processes have ended", timeout=GONE)
        self.ended = time.monotonic()
        return self

    def until(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Until the condition holds; fails if the job ends before."""
        end = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None
            if condition():
                return
            if ended and self.alive() == [] and not condition():
                pytest.fail(f"ended before {what}\n{self}")
            if time.monotonic() > end:
                self.kill()
                pytest.fail(f"after {timeout} s still not true: {what}\n{self}")
            time.sleep(0.005)

    def feed(self, fifo: Path) -> FileIO:
        """The end of a FIFO to write to, once the job reads it. (Opened as a file is, it would wait for ever for a job that has
        ended.)"""
        opened: list[FileIO] = []

        def is_read() -> bool:
            with contextlib.suppress(OSError):  # nobody reads it
                opened.append(FileIO(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "w"))
            return bool(opened)

        self.until(is_read, f"{fifo.name} is read")
        return opened[0]

    def ok(self) -> "Job":
        """Fails unless it has ended with exit code 0."""
        assert self.code == 0, str(self)
        return self

    def __str__(self) -> str:
        return f"$ {' '.join(self.command)}\nexit {self.process.returncode}\n{self.out[-3000:]}\n{self.err[-3000:]}"


def start(ranks: int, command: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> Job:
    """A Python command on so many ranks, running in the background."""
    assert MPIRUN is not None
    return Job([MPIRUN, "-n", str(ranks), sys.executable, *map(str, command)], cwd, env)


def start_training(ranks: int, flags: list[str | Path], cwd: Path, fault: str | None = None) -> Job:
    """alexnet-train with a small network, running in the background; `fault` is one of faults.py, as NAME@NUMBER."""
    for name in ("struck", "go on"):
        (cwd / name).unlink(missing_ok=True)
    program = [FAULTS, fault] if fault else ["-m", "alexnet_dist.train"]
    return start(ranks, [*program, *SMALL, *flags], cwd)


@contextlib.contextmanager
def while_paused(job: Job, cwd: Path) -> Iterator[None]:
    """What is done in the block is done while a training with the fault `pause` waits: not after its end on a slow machine."""
    job.until((cwd / "struck").exists, "it waits")
    yield
    (cwd / "go on").touch()


def train(ranks: int, flags: list[str | Path], cwd: Path, fault: str | None = None) -> Job:
    """alexnet-train with a small network, run to its end."""
    with start_training(ranks, flags, cwd, fault) as job:
        return job.wait()


def on_ranks(ranks: int, command: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> Job:
    """A Python command on so many ranks, run to its end."""
    with start(ranks, command, cwd, env) as job:
        return job.wait()


def alone(command: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> Job:
    """A command without mpirun, run to its end."""
    with Job([str(word) for word in command], cwd, env) as job:
        return job.wait()


@functools.cache
def open_mpi() -> bool:
    """Whether mpirun is Open MPI's: it prints notices of its own and has its own idea of signals."""
    return (
        MPIRUN is not None
        and "Open MPI" in subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=120).stdout
    )


def assert_refused(job: Job, *words: str, program: str = "alexnet-train", code: int = 2) -> None:
    """The job has ended promptly, with one message for a person that has all of these words, and this exit code."""
    assert job.err.count(f"{program}: error: ") == 1, str(job)
    line = next(line for line in job.err.splitlines() if f"{program}: error: " in line)
    for word in words:
        assert word in line, str(job)
    assert "Traceback" not in job.out + job.err, str(job)
    assert "Warning" not in job.err, str(job)
    assert job.ended - job.began < PROMPT, str(job)  # starting Python on every rank included
    if open_mpi():
        assert job.code != 0, str(job)
    else:
        assert job.code == code, str(job)
        assert len(job.err.splitlines()) == 1, str(job)


def rows(folder: Path, table: str, killed: bool = False) -> list[dict]:
    """All rows of one of a run's tables: steps, epochs, ranks or events. Every line must be whole, the last one within
    moments: who reads while a row is written may see the part of it that the kernel has copied so far. After a kill -9
    (`killed`) it may stay so; such a part is left out."""
    file, end = folder / f"{table}.jsonl", time.monotonic() + 10
    content = file.read_bytes() if file.exists() else b""
    while content and not content.endswith(b"\n") and not killed and time.monotonic() < end:
        time.sleep(0.005)
        content = file.read_bytes()
    whole, line_break, torn = content.rpartition(b"\n")
    assert killed or not torn, f"a torn row at the end of {file}: {torn[-500:]!r}"
    return [json.loads(line) for line in (whole + line_break).splitlines()]


def events(folder: Path, event: str) -> list[dict]:
    """What has happened in a run, of one kind."""
    return [row for row in rows(folder, "events") if row["event"] == event]


def epoch_results(folder: Path) -> list[dict]:
    """The results of each epoch, without what depends on the clock or on how often the run was started."""
    return [{name: row[name] for name in row if name not in TIMES} for row in rows(folder, "epochs")]


def validations(folder: Path) -> dict[int, dict]:
    """What validation has found, by epoch; of an epoch whose end was done twice, the last."""
    return {row["epoch"]: {name: row[name] for name in row if name.startswith("val_")} for row in epoch_results(folder)}


def steps(folder: Path, column: str = "loss", first: int = 1, killed: bool = False) -> dict[int, float]:
    """A column of the metrics by step, from step `first` on; of a step that was done twice, the last."""
    return {row["step"]: row[column] for row in rows(folder, "steps", killed) if row["step"] >= first}


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint, from the name that `latest.safetensors` points to; 0 where there is none."""
    latest = folder / "latest.safetensors"
    return int(latest.readlink().stem.removeprefix("checkpoint-")) if latest.is_symlink() else 0


def environment() -> dict[str, str]:
    """Of a command that no mpirun has started, with the programs of this Python."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "PMIX", "OMPI", "MPI_"))}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONUNBUFFERED"] = "1"
    if open_mpi():
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    return env


def _text(file: IO[bytes]) -> str:
    # pread: the file's position is shared with the processes that write to it.
    return os.pread(file.fileno(), 10_000_000, 0).decode(errors="replace")
