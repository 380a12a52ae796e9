"""alexnet-supervise -- COMMAND: start a training command again after each failure, until the run is complete."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from alexnet_dist import cli
from alexnet_dist.errors import BAD_INPUT, DIVERGED, PARTED, STOPPED, StorageError, UserError
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.lock import NAME as LOCK
from alexnet_dist.runs.lock import PATIENCE
from alexnet_dist.supervision.command import Attempt, Command
from alexnet_dist.supervision.leftovers import MARK, kill_processes_of, remove_segments, segments, working_processes_of
from alexnet_dist.support.hosts import answers
from alexnet_dist.support.plural import plural
from alexnet_dist.support.signals import CAUGHT

DESCRIPTION = """Run a training command, and start it again after each failure from the newest whole state, until the
file `complete` says that the run is. Hosts of its hostfile or -hosts that don't answer are left out, with their ranks."""
EXAMPLES = """examples:
  alexnet-supervise -- mpirun -n 8 python -m alexnet_dist.train --output-dir runs/one --save-minutes 10
  alexnet-supervise --min-ranks 4 -- mpirun -f hostfile -n 8 -ppn 2 python -m alexnet_dist.train
  launch/supervise.sh 8 --output-dir runs/one --save-minutes 10       the same for launch/local.sh

Not tried again: bad input (exit code 2), a run that has diverged (65) and replicas that have parted (71).
SIGTERM or Ctrl-C: the run writes a checkpoint, and both end with exit code 75; a second one ends them at once."""

FINAL = {BAD_INPUT: "bad input", DIVERGED: "diverged", PARTED: "the replicas have parted"}
LONGEST_PAUSE = 300.0  # seconds
LOOK = 0.05  # seconds
REPEAT = 0.5  # seconds from one SIGUSR1 to the next: a rank that is just starting MPI doesn't notice
LAST = 10.0  # seconds that a run has to end after a second signal
IDLE = 10.0  # seconds from one look at what an attempt has started to the next


class State(NamedTuple):
    """A training state, and when it was written."""

    name: str
    written: int


class Supervisor:
    """Runs attempts of a command until one has completed the run."""

    def __init__(self, command: Command, restarts: int, pause: float, min_ranks: int) -> None:
        self._command, self._restarts, self._pause, self._min_ranks = command, restarts, pause, min_ranks
        self._folder = RunFolder(command.folder, keep=1)
        self._signals = 0
        self._attempts = 0
        self._answered: set[str] = set()  # hosts that have
        self._seen: State | None = None  # the newest state, when it was last looked for

    def run(self) -> int:
        """Until the run is complete, or must not or can't go on; returns the exit code."""
        failures, pause = 0, self._pause
        with _handlers(self._caught), tempfile.TemporaryDirectory(prefix="alexnet-supervise-") as scratch:
            while True:
                before = self._newest()  # the folder may have vanished in the pause
                mark = self._mark()
                code = self._attempt(Path(scratch) / "hostfile")
                newest = self._newest()
                if self._mark() not in (None, mark):
                    self._say(f"the run is complete after {plural(self._attempts, 'attempt')}")
                    return 0
                failures = 1 if newest != before else failures + 1
                pause = self._pause if newest != before else min(2 * pause, LONGEST_PAUSE)
                if self._is_held(code):  # the attempts that are left shall last until a dead owner's lock is void
                    pause = max(pause, PATIENCE / max(self._restarts - 1, 1))
                if why := self._must_end(code, failures):
                    self._say(f"attempt {self._attempts} {ended(code)}: {why}")
                    return STOPPED if self._signals else code or 1
                state = newest[0] if newest else "the beginning"
                self._say(f"attempt {self._attempts} {ended(code)}; the next goes on from {state} in {pause:.0f} s")
                self._wait(pause)

    def _must_end(self, code: int, failures: int) -> str:
        """Why there is no other attempt; "" if there is one."""
        if self._signals:
            return "a signal has asked to stop"
        if code in FINAL and not self._is_held(code):
            return f"{FINAL[code]}, which another attempt doesn't mend"
        if failures > self._restarts:
            return f"given up after {plural(failures, 'attempt')} without a new state (--restarts {self._restarts})"
        return ""

    def _is_held(self, code: int) -> bool:
        """Whether an attempt may have ended since another process holds the folder, which is bad input as well. After a
        host is lost, it is held for some minutes."""
        return code == BAD_INPUT and (self._folder.path / LOCK).exists()

    def _attempt(self, hostfile: Path) -> int:
        """Runs the command once, to its end; returns its exit code, negative for a signal."""
        attempt = self._command.attempt(hostfile, self._is_there)
        self._attempts += 1
        if attempt.gone and not self._is_enough(attempt):
            return 1
        mark, before = uuid.uuid4().hex, segments()
        self._free(before)  # what earlier runs have left may fill /dev/shm
        # If this process is killed, the kernel tells the command to stop: else it would train on without anyone knowing.
        tie = ["setpriv", "--pdeathsig", "USR1"] if shutil.which("setpriv") else []
        try:
            process = subprocess.Popen(
                [*tie, *attempt.words], env=os.environ | {MARK: mark}, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise UserError(f"{attempt.words[0]} can't be started: {error.strerror}") from error
        try:
            return self._wait_for(process, mark)
        finally:
            self._clear_up(mark, before)

    def _is_enough(self, attempt: Attempt) -> bool:
        """Says which hosts are gone, and whether enough ranks are left."""
        left, few = "", False
        if attempt.ranks is not None:
            few = attempt.ranks < self._min_ranks
            left = f"; {plural(attempt.ranks, 'rank')} {'is' if attempt.ranks == 1 else 'are'} left"
            left += f", less than --min-ranks {self._min_ranks}" * few
        self._say(f"{', '.join(attempt.gone)} can't be reached{left}")
        return not few

    def _is_there(self, host: str) -> bool:
        """Whether a host answers; one that never has may do so to ssh alone, and isn't judged."""
        if answers(host):
            self._answered.add(host)
            return True
        return host not in self._answered

    def _wait_for(self, process: subprocess.Popen[bytes], mark: str) -> int:
        told = ended_at = 0.0
        alive = time.monotonic()
        while (code := process.poll()) is None:
            now = time.monotonic()
            if self._signals and now - told > REPEAT:
                process.send_signal(signal.SIGUSR1)
                told = now
            if self._signals > 1:
                ended_at = ended_at or now
                process.send_signal(signal.SIGTERM if now - ended_at < LAST else signal.SIGKILL)
            if now - alive > IDLE:  # mpirun doesn't always notice that what it has started is gone
                alive = now
                if not working_processes_of(mark):
                    self._say(f"nothing of attempt {self._attempts} runs any more but what has started it: it is ended")
                    process.kill()
            time.sleep(LOOK)
        return code

    def _clear_up(self, mark: str, before: set[Path]) -> None:
        """Kills what is left of an attempt, and removes the shared memory that it could not remove itself."""
        if killed := kill_processes_of(mark):
            self._say(f"killed what was left of attempt {self._attempts}: {killed} of its processes")
        self._free(before)

    def _free(self, before: set[Path]) -> None:
        if freed := remove_segments(before):
            self._say(f"removed {freed / 1e6:.0f} MB of shared memory that was left")

    def _mark(self) -> int | None:
        """When the mark of a finished run was written; None if there is none."""
        with suppress(OSError):
            return self._folder.complete.stat().st_mtime_ns
        return None

    def _newest(self) -> State | None:
        """The newest state; storage that fails is asked again. Raises StorageError where it fails for long, or where there
        have been states and now there are none: the next attempt would begin anew."""
        failures, pause = 0, max(self._pause, LOOK)
        while not self._signals:
            try:
                found = self._look()
            except OSError as error:
                trouble, failures = f"{self._folder.path} can't be read: {error.strerror or error}", failures + 1
                if failures > self._restarts:
                    raise StorageError(
                        f"{trouble}, {plural(failures, 'time')} (--restarts {self._restarts})"
                    ) from error
                self._say(f"{trouble}; tried again in {pause:.0f} s")
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if self._seen and not found:
                raise StorageError(
                    f"{self._folder.path} held {self._seen.name}, and now neither it nor another state. Is its file system "
                    "mounted? Bring the folder back and start this command again; without it, the run begins anew"
                )
            self._seen = found
            break
        return self._seen

    def _look(self) -> State | None:
        """The newest state. Raises OSError."""
        try:
            self._folder.path.stat()  # some Pythons' Path.glob takes a folder that can't be read for an empty one
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        states = self._folder.states()
        return State(states[0].name, states[0].stat().st_mtime_ns) if states else None

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._signals and time.monotonic() < end:
            time.sleep(LOOK)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _say(self, text: str) -> None:
        """Tells people, and writes it into the run's folder."""
        print(f"alexnet-supervise: {text}", file=sys.stderr, flush=True)
        with suppress(OSError):  # the run itself says what is wrong with its folder
            if not self._seen:  # else it has been there: where it has vanished, it isn't made anew
                self._folder.path.mkdir(parents=True, exist_ok=True)
            with open(self._folder.path / "supervise.log", "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def ended(code: int) -> str:
    """How a command has ended, in words."""
    number = -code if code < 0 else code - 128
    if 0 < number < signal.NSIG:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(number).name}"
    return f"ended with exit code {code}" if code else "ended without completing the run"


@contextmanager
def _handlers(handler: "signal._HANDLER") -> Iterator[None]:
    """Signals in CAUGHT call it; one that is ignored, as SIGHUP under nohup, stays ignored."""
    caught = [number for number in CAUGHT if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def build_parser() -> cli.Parser:
    """The flags, and the command behind them."""
    parser = cli.Parser("alexnet-supervise", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--restarts",
        type=int,
        default=5,
        metavar="N",
        help="give up after so many more attempts without a new state (default: 5)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="before the next attempt; twice as long after each without a new state (default: 5)",
    )
    parser.add_argument("--min-ranks", type=int, default=1, metavar="N", help="don't train on fewer (default: 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what trains, mpirun and all")
    return parser


def body(args: argparse.Namespace) -> int:
    """Supervises; returns the exit code."""
    cli.require_positive(args, "min_ranks")
    for name in ("restarts", "pause"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise UserError(f"--{name} is {getattr(args, name)}, but must be at least 0")
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    return Supervisor(Command.of(words), args.restarts, args.pause, args.min_ranks).run()


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
