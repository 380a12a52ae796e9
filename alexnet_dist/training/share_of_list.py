"""Passes over a list in its order, each image once, that are divided among the ranks in whole blocks."""

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.decoded import EvaluationPixels
from alexnet_dist.data.loader import Batch, Interrupted, Loader
from alexnet_dist.data.sharding import steps_per_epoch
from alexnet_dist.data.source import ImageSource
from alexnet_dist.data.storage import Patience, StorageFailure
from alexnet_dist.errors import SharedError

Block = tuple[NDArray[np.int64], Batch]  # places in the list, and what is there


class Rows(Protocol):
    """What a network is given of each image of a list."""

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of what it is given of an image."""
        ...

    def load(self, index: int, out: NDArray[np.float32]) -> None:
        """Fills out [*row] with that of image `index`; from any thread. Raises ImageError."""
        ...


class ImageRows(NamedTuple):
    """The pixels of a list's images, decoded."""

    images: ImageSource
    pixels: EvaluationPixels

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of an image's crops."""
        return self.pixels.row

    def load(self, index: int, out: NDArray[np.float32]) -> None:
        """Fills out [*row] with the crops of image `index`. Raises ImageError."""
        self.pixels.load(partial(self.images.open, index), out)


def blocks(
    images: ImageSource, rows: Rows, block: int, world: Ranks, workers: int, *, patience: Patience | None = None
) -> Generator[Block, None, None]:
    """This rank's batches, each a whole block of the list, and the images' places in the list.

    Every rank has as many: where there is no block left for it, one without images, for a forward pass may be collective.
    What is in a block doesn't depend on the number of ranks. Raises StorageFailure, on
    this rank alone, where `patience` with storage that fails has come to its end, and Interrupted when it says `stop`.
    """
    places = np.arange(len(images))
    own = np.flatnonzero(places // block % world.size == world.rank)

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        rows.load(int(own[index]), out)

    own_images = images.subset(own)
    with Loader(
        own_images, load=load, global_batch=block, shape=rows.row, workers=workers, patience=patience
    ) as loader:
        start = 0
        for batch in loader.batches(0):
            yield own[start : start + len(batch.labels)], batch
            start += len(batch.labels)
        for _ in range(loader.steps, steps_per_epoch(len(images), block * world.size)):
            nothing = np.empty(0, np.int64)
            yield nothing, Batch(np.empty((0, *rows.row), np.float32), nothing, nothing)


def together(mine: Generator[Block, None, None], world: Ranks, patience: Patience) -> Generator[Block, None, None]:
    """This rank's blocks, of which all ranks have as many. What ends those of one rank early ends them on all: a forward
    pass may be collective."""
    with closing(mine):
        while True:
            block, failure = None, []
            try:
                block = next(mine, None)
            except Interrupted:  # its patience says so below, too
                pass
            except StorageFailure as error:
                failure = [str(error)]
            stop, failures = world.sum([patience.stop(), len(failure)])
            if failures:
                raise SharedError(world.all_texts(failure)[0], StorageFailure.exit_code)
            if stop:
                raise Interrupted
            if block is None:
                return
            yield block
