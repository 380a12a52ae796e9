"""This rank's batches, decoded by threads into one buffer while the computation reads the other."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.decode import ImageError
from alexnet_dist.data.mixup import mix_
from alexnet_dist.data.readers import GRACE, Readers
from alexnet_dist.data.sharding import epoch_order, pieces, share, step_size, steps_per_epoch
from alexnet_dist.data.source import ImageSource
from alexnet_dist.data.storage import Patience, StorageFailure
from alexnet_dist.support.labels import NO_LABEL, Mixed

# (index in the list, epoch, out [H, W, 3]): fills out, or raises ImageError
LOOK_UP = 0.2  # seconds after which one who waits for images looks whether a signal has come

Load = Callable[[int, int, NDArray[np.float32]], None]
OwnShare = Callable[[int, int], float]  # (index in the list, epoch): what an image keeps of itself when it is mixed


@dataclass(frozen=True, eq=False)
class Batch:
    """This rank's n images of one step; n may be 0. The images are valid until the next batch is asked for."""

    images: NDArray[np.float32]  # [n, H, W, 3]
    labels: NDArray[np.int64]  # [n], NO_LABEL where the image could not be read and its row is zero
    positions: NDArray[np.int64]  # [n], each image's place in the global batch, from 0
    broken: list[str] = field(
        default_factory=list
    )  # what was wrong with the images that could not be read: "images.list:17: x.jpg is truncated"
    mixed: Mixed | None = None  # where each image is mixed with another one
    pieces: tuple[slice, ...] = ()  # rows that sharding.pieces keeps together on any number of ranks

    def rows(self, part: range) -> "Batch":
        """Some of the images, as views; what was wrong with others is not told again. Pieces are of all images alone."""
        chosen = slice(part.start, part.stop)
        mixed = None if self.mixed is None else self.mixed.rows(chosen)
        whole = len(part) == len(self.labels)
        pieces = self.pieces if whole else ()
        return Batch(self.images[chosen], self.labels[chosen], self.positions[chosen], mixed=mixed, pieces=pieces)


NOTHING = Batch(np.empty((0, 0, 0, 3), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose rows are being decoded. A task returns what was wrong with its image, or None.

    `mixing`, if images are mixed, is the last task, after that of the image before this rank's first one.
    """

    batch: Batch
    samples: list[int]  # which image each task reads
    tasks: list[Future[str | None]]
    mixing: Future[None] | None = None


class Interrupted(Exception):
    """A signal has asked to stop while a batch was waited for."""


class Loader:
    """The batches of rank `rank` of `size`, of `global_batch` images over all ranks.

    `load` fills one row of a batch with an image and must depend on its arguments alone; then the global batches are the
    same for any number of ranks and `workers` (threads), and from any first step. With `shuffle` every epoch has an order
    of its own, otherwise the list's. With `own_share`, each image is mixed with the one before it in the global batch.
    `shape` is that of a row: an image's, or of several crops, or of features. `patience` says how long an image is tried again
    that the system can't read, and whether waiting for images is to end. The two buffers take
    2 * ceil(global_batch / size) rows, mixing two more in each.
    """

    def __init__(
        self,
        images: ImageSource,
        *,
        load: Load,
        own_share: OwnShare | None = None,
        global_batch: int,
        shape: tuple[int, ...] = (224, 224, 3),
        rank: int = 0,
        size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 1,
        patience: Patience | None = None,
    ) -> None:
        self._images = images
        self._load, self._own_share = load, own_share
        self._global_batch = global_batch
        self._rank, self._size = rank, size
        self._shuffle, self._seed = shuffle, seed
        capacity = -(-min(global_batch, len(images)) // size)
        spare = 0 if own_share is None else 2
        self._buffers = np.zeros((2, capacity + spare, *shape), np.float32)
        self._readers = Readers(workers)
        self._patience = patience or Patience()
        self._busy = False

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same on every rank."""
        return steps_per_epoch(len(self._images), self._global_batch)

    def batches(self, epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from `first_step` on, the same as those of an epoch begun at step 0.

        Images that can't be read are listed in the batch's `broken`. Any other exception of a thread is raised here:
        StorageFailure if the system can't read any. Raises Interrupted when the patience's `stop` says so. One pass at a
        time: raises RuntimeError if another one is neither finished nor closed.
        """
        if self._busy:
            raise RuntimeError("the loader's buffers serve one pass at a time; close the other iterator first")
        self._busy = True
        self._patience.begin()
        pending: deque[_Pending] = deque()
        try:
            order = epoch_order(len(self._images), self._seed, epoch) if self._shuffle else np.arange(len(self._images))
            for step in range(first_step, min(first_step + 2, self.steps)):
                pending.append(self._begin(order, epoch, step))
            for step in range(first_step, self.steps):
                self._wait_for(pending[0])
                yield _finish(pending[0])
                # The caller asks for the next batch, so this one's buffer is free for the step after the next.
                pending.popleft()
                if step + 2 < self.steps:
                    pending.append(self._begin(order, epoch, step + 2))
        finally:
            self._patience.closing.set()
            if _cancel(pending):
                self._buffers = np.zeros_like(self._buffers)  # a thread that hangs may yet write into the old ones
            self._busy = False

    def close(self) -> None:
        """Ends the threads, but doesn't wait for one that hangs in a read."""
        self._readers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, order: NDArray[np.int64], epoch: int, step: int) -> _Pending:
        first, count = step * self._global_batch, step_size(step, len(self._images), self._global_batch)
        mine = share(count, self._rank, self._size)
        samples = order[first + mine.start : first + mine.stop]
        batch = Batch(
            images=self._buffers[step % 2, : len(mine)],
            labels=self._images.labels[samples].astype(np.int64),
            positions=np.arange(mine.start, mine.stop),
            pieces=pieces(count, self._rank, self._size),
        )
        numbers = samples.tolist()
        rows = zip(numbers, batch.images, strict=True)
        tasks = [self._readers.submit(self._fill, epoch, sample, row) for sample, row in rows]
        if self._own_share is None or not len(mine):
            return _Pending(batch, numbers, tasks)
        before, scratch = self._buffers[step % 2, len(mine) : len(mine) + 2]
        previous = int(order[first + (mine.start - 1) % count])
        tasks.append(self._readers.submit(self._fill, epoch, previous, before))
        mixed = Mixed(
            np.concatenate([self._images.labels[[previous]], batch.labels[:-1]]),
            np.array([self._own_share(sample, epoch) for sample in numbers], np.float32),
        )
        pending = _Pending(replace(batch, mixed=mixed), [*numbers, previous], tasks)
        # Begun only when a thread has taken each task before it: so waiting for those can't block all threads.
        mixing = self._readers.submit(_mix, pending, before, scratch)
        return replace(pending, mixing=mixing)

    def _fill(self, epoch: int, sample: int, row: NDArray[np.float32]) -> str | None:
        try:
            self._patience.persist(lambda: self._load(sample, epoch, row), lambda: self._images.where(sample))
        except ImageError as error:
            row.fill(0)
            return f"{self._images.where(sample)} {error}"
        except StorageFailure:
            raise
        except BaseException as error:
            error.add_note(f"while loading {self._images.where(sample)}")
            raise
        return None

    def _wait_for(self, pending: _Pending) -> None:
        """Waits until the images of a batch are read. Raises at once what a thread has raised, and Interrupted. Says which
        image takes very long."""
        start, said = time.monotonic(), False
        while True:
            done, others = wait(pending.tasks, LOOK_UP, FIRST_EXCEPTION)
            for task in pending.tasks:
                if task in done:
                    task.result()
            if not others:
                return
            if self._patience.stop():
                raise Interrupted
            if not said and 0 < self._patience.seconds < time.monotonic() - start:
                said = True
                sample = next(one for one, task in zip(pending.samples, pending.tasks, strict=True) if task in others)
                self._patience.say(f"still waiting for {self._images.where(sample)}")


def _mix(pending: _Pending, before: NDArray[np.float32], scratch: NDArray[np.float32]) -> None:
    """Mixes the images of a batch when they are decoded; images that could not be read neither give nor take."""
    batch, mixed = pending.batch, pending.batch.mixed
    assert mixed is not None
    *own, last = (task.result() is None for task in pending.tasks)
    for row, readable in enumerate(zip(own, [last, *own], strict=False)):
        if not all(readable):
            mixed.shares[row] = 1
    mix_(batch.images, before, mixed.shares, scratch)


def _finish(pending: _Pending) -> Batch:
    if pending.mixing is not None:
        pending.mixing.result()
    for row, task in enumerate(pending.tasks[: len(pending.batch.labels)]):
        problem = task.result()
        if problem is not None:
            pending.batch.labels[row] = NO_LABEL
            pending.batch.broken.append(problem)
    return pending.batch


def _cancel(pending: Iterable[_Pending]) -> bool:
    """Cancels what has not begun and waits a moment for what has; whether some still runs, as in a read that hangs. If not, no
    thread writes to a buffer any more."""
    tasks: list[Future[Any]] = [task for one in pending for task in one.tasks]
    tasks += [one.mixing for one in pending if one.mixing is not None]
    return bool(wait([task for task in tasks if not task.cancel()], GRACE).not_done)
