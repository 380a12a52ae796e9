"""What ranks say to each other in small exchanges, and the errors that end all of them; by itself, the world of one rank.

It imports no MPI: a program that needs ranks only for speed runs on `Ranks()` where no MPI is installed. `World` is the
same over MPI.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.support.processes import Process
from alexnet_dist.support.threads import available_cores

Made = tuple[Any, Sequence[np.ndarray]]  # what JSON can represent, and arrays


class Ranks:
    """One rank alone. Every method is collective unless it says otherwise."""

    rank, size = 0, 1
    has_mpi = False
    commits = False  # whether `commit` of a World does something: see elastic.py
    failures: tuple[type[Exception], ...] = ()  # what its communication raises where ranks are lost

    def commit(self) -> None:
        """Returns on all ranks or on none: what follows is then done by all, or by none. For a world that isn't elastic there
        is nothing to do: without one of its ranks, all end."""

    def make_elastic(self) -> None:
        """From now on, the loss of a rank can be borne: see elastic.py. Raises SharedError where it can't."""
        raise SharedError("--elastic is for the ranks of Open MPI, and there is no MPI here: leave it out")

    def nodes(self, largest: int | None = None) -> tuple[list[int], int]:
        """How many ranks each node has, and the number of this rank's; `largest` as for Node."""
        return [1], 0

    def node(self, largest: int | None = None) -> Any:
        """The Node of this rank; without MPI, what a rank alone needs of one. Raises NoSharedMemory."""
        return LoneNode(self)

    def mpi_library(self) -> str:
        """Not collective: what the ranks are connected by, with its version: `MPICH Version: 5.0.0`."""
        return "none"

    def sum(self, values: list[float]) -> list[float]:
        """The sums over the ranks of some numbers, in float64 (exact for integers below 2**53)."""
        return [float(value) for value in values]

    def largest(self, value: float) -> float:
        """The largest of the ranks' numbers."""
        return float(value)

    def broadcast_(self, array: np.ndarray) -> None:
        """Overwrites the array with rank 0's."""

    def all_texts(self, texts: list[str]) -> list[str]:
        """All texts of all ranks, in the order of the ranks, on every rank."""
        return list(texts)

    def gathered(self, mine: bytes) -> Iterator[bytes]:
        """On rank 0, what each rank gives, one after the other, so that only one is in memory; on the others nothing.

        All ranks must read to the end, the others too, for whom nothing comes.
        """
        yield mine

    def broadcast_json(self, value: Any) -> Any:
        """Rank 0's value, which JSON must be able to represent; the others' is ignored."""
        return json.loads(self.all_texts([json.dumps(value)] if self.rank == 0 else [])[0])

    def require_same(self, text: str, what: str) -> None:
        """Raises SharedError unless all ranks give the same text, for example a fingerprint of what they have read."""
        texts = self.all_texts([text])
        for rank, other in enumerate(texts):
            if other != texts[0]:
                raise SharedError(f"{what} of rank {rank} ({self.all_hosts()[rank]}) is not that of rank 0")

    def all_hosts(self) -> list[str]:
        """The name of each rank's host."""
        return self.all_texts([os.uname().nodename])

    def all_processes(self) -> list[Process]:
        """The process of each rank."""
        return [Process(**json.loads(text)) for text in self.all_texts([json.dumps(asdict(Process.this()))])]

    def once_a_node(self, make: Callable[[], Made]) -> Made:
        """What `make` returns on the first rank of each node, on all ranks of the node: see comm/once_a_node.py."""
        with self.shared_errors():
            return make()

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """If some ranks raise a UserError inside this context, all ranks raise the lowest rank's as a SharedError.

        Inside it there must be no communication that a failed rank would miss.
        """
        errors: list[str] = []
        try:
            yield
        except UserError as error:
            errors.append(json.dumps([str(error), error.exit_code]))
        if self.sum([len(errors)])[0]:
            text, exit_code = json.loads(self.all_texts(errors)[0])
            raise SharedError(text, exit_code)

    def node_threads(self) -> int:
        """How many threads this rank should use: the cores it may run on, divided by the ranks that may run on them."""
        cores = sorted(os.sched_getaffinity(0))
        places = self.all_texts([f"{os.uname().nodename} {cores}"])
        return max(1, available_cores() // places.count(places[self.rank]))

    def part(self) -> None:
        """The last thing that the ranks do together: from then on each may end by itself, and one may go on alone."""

    def leave(self, exit_code: int) -> int:
        """Collective, unless they have parted; the last thing that a rank does: ends the process where it could not end by
        itself."""
        return exit_code

    def abort(self, exit_code: int = 1) -> None:
        """Not collective: ends every rank at once, after an unexpected error that the caller has printed."""
        flush_output()
        os._exit(exit_code)


class LoneNode:
    """The node of a rank alone, as far as it is needed to keep arrays: as comm/node.py's, which needs MPI."""

    def __init__(self, world: Ranks) -> None:
        self.world = world

    def shared(self, shape: tuple[int, ...]) -> np.ndarray:
        """A zeroed array."""
        return np.zeros(shape, np.float32)

    def sum_(self, array: np.ndarray) -> None:
        """There is no other node whose array could be added."""

    def close(self) -> None:
        """There is nothing to free."""


def flush_output() -> None:
    """Flushes stdout and stderr, as far as that is possible: on a full disk or a closed pipe it isn't."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
