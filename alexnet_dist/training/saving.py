"""What a run writes of its network: states to resume from, the best weights, the final ones.

States are written in the background, from a copy, while training goes on. Disks that fail or are full are tried again for
--io-patience seconds, and the run goes on meanwhile.
"""

import errno
import os
import shlex
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from alexnet_dist.errors import StorageError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.log import log
from alexnet_dist.support.files import write_text
from alexnet_dist.support.memory import available_memory
from alexnet_dist.training.engine import Engine
from alexnet_dist.training.optim_wrappers import AVERAGE
from alexnet_dist.training.origin import without_state
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.setup import Run

FULL = (errno.ENOSPC, errno.EDQUOT)
LOOK = 0.05  # seconds after which one who waits for a file looks whether it can be written at all
PAUSES = (1.0, 30.0)  # seconds between attempts to write: the first, and the longest; each is twice the one before it


@dataclass(eq=False)
class Snapshot:
    """All parameters and all state after a step, which training doesn't change any more."""

    step: int
    values: np.ndarray
    state: dict[str, np.ndarray]


def _goes_on_here(run: Run) -> bool:
    """Collective: whether the state that the run continues is in its own folder. Only rank 0 knows where it was."""
    path = run.origin.path
    return bool(run.world.broadcast_json([path is not None and path.parent.resolve() == run.folder.path.resolve()])[0])


class Saver:
    """Writes the files of a run. At the end of a `with` block all has been written, or has failed.

    Its methods are collective unless they say otherwise. An error of rank 0 is raised as SharedError: by `save` that of
    the one before it, by `wait` that of the latest.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.saved_step = run.progress.step if run.resumed and _goes_on_here(run) else -1
        self.saved = False  # whether latest.safetensors is, or will be, of this run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._closing = threading.Event()
        self.struggling = False  # on rank 0: whether a file could not be written, and is tried again
        self._written: Future[None] | None = None
        self._snapshot: Callable[[], Snapshot | None] = lambda: None  # weak: memory is free when all is written
        self._kept: dict[str, np.ndarray] = {}  # memory for copies, where they are made again and again
        self._clock = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.shutdown()

    def check_room(self) -> None:
        """Not collective: says if the disk has no room for what will be written. (It may have until then.)"""
        if self._run.world.rank == 0 and (lack := self._run.folder.lacking(*bytes_of_files(self._run.engine))):
            log.warning("WARNING: %s", lack)

    def due(self, step: int) -> bool:
        """Not collective: whether a state is wanted after this step of an epoch, by this rank's clock or by --save-every.

        While the one before can't be written, none is: training goes on.
        """
        minutes, every = self._run.config.save_minutes, self._run.config.save_every
        by_clock = minutes is not None and time.monotonic() - self._clock >= 60 * minutes
        return (by_clock or (every > 0 and step % every == 0)) and not self.struggling

    @property
    def failed(self) -> bool:
        """Not collective: whether rank 0 has given up writing."""
        return self._written is not None and self._written.done() and self._written.exception() is not None

    def save(self, progress: Progress) -> bool:
        """Rank 0 begins to write a training state. Waits for the file before it, and while the parameters are copied.

        Nothing is written, and False returned, if a weight isn't finite.
        """
        if not self._begin(progress.step, partial(self._write_state, progress)):
            return False
        self.saved_step, self.saved, self._clock = progress.step, True, time.monotonic()
        return True

    def save_best(self, step: int, then: Callable[[], None]) -> None:
        """Rank 0 begins to write the weights alone, those that are validated, as `save` does, `then` what belongs to them."""
        self._begin(step, partial(self._write_best, then))

    def _begin(self, step: int, write: Callable[[Snapshot], None]) -> bool:
        self.wait()
        snapshot, in_background = self._take(step)
        # All ranks wait here until the copy is made: they share what is copied.
        if self._run.world.sum([snapshot is not None and not _is_finite(snapshot.values)])[0]:
            return False
        if snapshot is not None:
            self._written = self._thread.submit(self._persist, partial(write, snapshot))
        if not in_background:
            self.wait()
        return True

    def ready(self) -> bool:
        """Waits until the state before is written; False if it can't be now, and is tried again."""
        written = self._written
        while written is not None and not written.done() and not self.struggling:
            wait([written], LOOK)
        return not self._run.world.sum([self.struggling])[0]

    def wait(self) -> None:
        """Until all that was begun is written."""
        with self._run.world.shared_errors():
            if self._written is not None:
                self._written.result()

    def finish(self, progress: Progress) -> None:
        """Rank 0 writes the weights for --save, and says that the run is complete."""
        run = self._run
        self.wait()
        values, state = run.engine.whole() if run.config.save else (None, {})

        def write() -> None:
            if run.config.save and values is not None:
                self._save_weights(Path(run.config.save), self._validated(values, state))
            write_text(run.folder.complete, f"step {progress.step}\n")

        with run.world.shared_errors():
            if run.world.rank == 0:
                self._persist(write)

    def _take(self, step: int) -> tuple[Snapshot | None, bool]:
        """Rank 0's snapshot after this step, and whether training may go on while it is written (the same on all ranks)."""
        engine, known = self._run.engine, self._snapshot()
        if self._run.world.sum([known is not None and known.step == step])[0]:
            return known, True
        values, state = engine.whole()
        size = 0 if values is None else values.nbytes + sum(array.nbytes for array in state.values())
        room = values is not None and (bool(self._kept) or available_memory() > 2 * size)
        in_background = bool(self._run.world.sum([room])[0])
        if values is None:
            return None, in_background
        if in_background:
            values = self._apart("", values, engine.values)
            state = {name: self._apart(name, array, engine.state[name]) for name, array in state.items()}
        snapshot = Snapshot(step, values, state)
        self._snapshot = weakref.ref(snapshot)
        return snapshot, in_background

    def _apart(self, name: str, array: np.ndarray, live: np.ndarray) -> np.ndarray:
        """The array itself, or a copy where it is what training goes on changing.

        Memory that the system has to find first takes ten times as long to fill, and training waits for that.
        """
        if not np.may_share_memory(array, live):
            return array
        copy = self._kept.get(name)
        if copy is None:
            copy = np.empty_like(array)
        if self._run.config.save_minutes or self._run.config.save_every:
            self._kept[name] = copy
        np.copyto(copy, array)
        return copy

    def _persist(self, write: Callable[[], None]) -> None:
        """Writes, and tries again where the storage fails. Raises UserError."""
        start, pause, patience = time.monotonic(), PAUSES[0], self._run.config.io_patience
        while True:
            try:
                write()
                break
            except StorageError as error:
                left = start + patience - time.monotonic()
                if left <= 0 or self._closing.is_set():
                    resume = f"--resume {shlex.quote(str(self._run.folder.path))}"
                    raise StorageError(f"{error}. {self._advice(error)}, then go on with {resume}") from error
                if not self.struggling:
                    log.warning("WARNING: %s. Trying again for %g s (--io-patience)", error, patience)
                self.struggling = True
            self._closing.wait(min(pause, left))
            pause = min(2 * pause, PAUSES[1])
        if self.struggling:
            log.warning("the files can be written again, after %.0f s", time.monotonic() - start)
        self.struggling = False

    def _advice(self, error: StorageError) -> str:
        """What to do where a file can't be written."""
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            return "See to the storage"
        state, weights = bytes_of_files(self._run.engine)
        return f"Free {-(-(state + weights) // 10**6)} MB, for a state and the best weights"

    def _write_best(self, then: Callable[[], None], snapshot: Snapshot) -> None:
        self._save_weights(self._run.folder.best, self._validated(snapshot.values, snapshot.state))
        then()

    def _write_state(self, progress: Progress, snapshot: Snapshot) -> None:
        run = self._run
        training = {
            "progress": asdict(progress),
            "seed": run.config.seed,
            "global-batch": run.global_batch,
            "opt": run.config.opt,
            "train list": run.train_list,
            "val list": run.val_list,
            "sync": run.engine.strategy_name,
            "ranks": run.world.size,
            "nodes": run.nodes,
            "config": asdict(run.config),
            "started in": os.getcwd(),
        }
        header = checkpoint.Header(run.network, run.sources.class_names, training)
        skip = without_state(run.network, run.config, snapshot.state)
        path = run.folder.state(progress.step)
        run.report.sync()
        checkpoint.save(path, run.engine.parameters, snapshot.values, snapshot.state, header, skip=skip)
        run.folder.point_latest(path)

    def _validated(self, values: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The weights that are validated: their average where one is kept, which it isn't of frozen layers."""
        if AVERAGE not in state:
            return values
        start = self._run.engine.trained_from
        state[AVERAGE][:start] = values[:start]
        return state[AVERAGE]

    def _save_weights(self, path: Path, values: np.ndarray) -> None:
        header = checkpoint.Header(self._run.network, self._run.sources.class_names)
        checkpoint.save(path, self._run.engine.parameters, values, {}, header)


def bytes_of_files(engine: Engine) -> tuple[int, int]:
    """How many bytes a training state takes, and the weights alone."""
    weights = 4 * engine.parameters.size
    return weights + 4 * (engine.parameters.size - engine.trained_from) * len(engine.state), weights


def _is_finite(array: np.ndarray) -> bool:
    """Without memory for an answer to each element."""
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))
