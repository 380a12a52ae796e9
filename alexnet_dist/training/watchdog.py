"""A run that doesn't move any more ends, and says who is to blame: a rank that is stopped, dead or stuck, or a network that
is gone. MPI itself would wait for ever.
"""

import faulthandler
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.errors import STALLED
from alexnet_dist.runs.log import warn
from alexnet_dist.support.activity import ACTIVITY
from alexnet_dist.support.hosts import answers
from alexnet_dist.support.plural import plural
from alexnet_dist.support.processes import Process

LOOK = 1.0  # seconds from one look to the next; less where the timeout is short
# Seconds that ranks which wait for others leave those to name themselves; rank 0, whose words go into the log, waits less.
GRACE, GRACE_OF_RANK_0 = 6.0, 3.0
LAST_WORDS = 60.0  # seconds, after which a rank ends even if the disk or MPI doesn't let it end properly


class Watchdog:
    """Ends all ranks with STALLED if nothing in this process has moved for `timeout` seconds, or at once if it waits for
    ranks of its host that have died, or mpirun's process on this host has; with a timeout of 0, never.

    What moves is in ACTIVITY. Seconds in which the process was stopped, or its machine asleep, don't count. It says what has
    happened, and writes the stacks of all threads to a file in the run's folder, once it has begun. It watches from the first
    moment on, when the ranks don't know each other yet.
    """

    def __init__(self, timeout: float, world: Ranks) -> None:
        self._timeout, self._world = timeout, world
        self._everyone: list[Process] = []
        self._reads = False
        self._folder: Path | None = None
        self._parent = os.getppid()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def meet(self) -> None:
        """Collective: the ranks learn who they are. Until `begin` they read, each by itself, which may take as long as it
        does: they end only where one of them is seen to be stopped or gone."""
        self._everyone = self._world.all_processes()
        self._reads = True

    def begin(self, folder: Path) -> None:
        """Nothing takes longer than the timeout from now on; `folder` is for the stacks."""
        self._folder, self._reads = folder, False

    def __enter__(self) -> Self:
        if self._timeout:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def _watch(self) -> None:
        look = min(LOOK, self._timeout / 10)
        still, moves, before = 0.0, -1, time.monotonic()
        while not self._done.wait(look):
            now = time.monotonic()
            still = still + min(now - before, 2 * look) if moves == ACTIVITY.moves else 0.0
            moves, before = ACTIVITY.moves, now
            if self._world.size > 1 and os.getppid() != self._parent:
                self._end(f"what has started this rank (process {self._parent}) is gone")
            elif (
                ACTIVITY.waits_for_others and still and not self._world.commits and self._has_lost()
            ):  # they won't come
                self._end(f"waits for other ranks, in phase {ACTIVITY.phase}")
            elif still > self._timeout + self._grace():
                if not self._reads or self._whom():
                    self._end(self._what())
                still = 0.0

    def _grace(self) -> float:
        if not ACTIVITY.waits_for_others:
            return 0.0
        return GRACE if self._world.rank else GRACE_OF_RANK_0

    def _end(self, why: str) -> None:
        # All below may hang, too: on a disk that doesn't answer, on a lock that a stuck thread holds, in MPI.
        faulthandler.dump_traceback_later(LAST_WORDS, exit=True)
        name = f"stacks-rank-{self._world.rank}.txt"
        text = f"{why}. {self._whom()}All ranks end (--stall-timeout)"
        warn(self._world.rank, self._world.size, f"{text}; stacks are in {name}" if self._folder else text)
        if self._folder:
            with suppress(OSError), open(self._folder / name, "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        self._world.abort(STALLED)
        os._exit(STALLED)  # where MPI's way to end all didn't end this one

    def _what(self) -> str:
        where = f"{self._timeout:g} s, in phase {ACTIVITY.phase}, on {os.uname().nodename}"
        return f"{'waited for other ranks' if ACTIVITY.waits_for_others else 'nothing has moved'} for {where}"

    def _neighbours(self) -> list[tuple[int, Process]]:
        """The ranks whose process numbers mean something here."""
        return [(rank, process) for rank, process in enumerate(self._everyone) if process.is_here]

    def _has_lost(self) -> bool:
        """Whether a rank of this host has died."""
        return not all(process.is_alive for _, process in self._neighbours())

    def _whom(self) -> str:
        """Sentences on who doesn't answer, as far as that can be seen from here."""
        sentences = []
        for rank, process in self._neighbours():
            if not process.is_alive:
                sentences.append(f"Rank {rank} ({process}) has died. ")
            elif process.is_stopped:
                sentences.append(f"Rank {rank} ({process}) is stopped, as by SIGSTOP (kill -CONT goes on). ")
        others: dict[str, list[int]] = {}
        for rank, process in enumerate(self._everyone):
            if process.host != os.uname().nodename:
                others.setdefault(process.host, []).append(rank)
        with ThreadPoolExecutor(64) as pool:
            for (host, ranks), answer in zip(others.items(), pool.map(answers, others), strict=True):
                if not answer:
                    which = f"{plural(len(ranks), 'rank')} from {ranks[0]} on"
                    sentences.append(f"The host {host} ({which}) can't be reached from {os.uname().nodename}. ")
        return "".join(sentences)
