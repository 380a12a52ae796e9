"""Images decoded by threads, batch after batch, for whoever classifies them once and in their order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.augment import CROPS, load_for_evaluation, load_ten_crops_for_evaluation
from alexnet_dist.data.decode import ImageError, ImageFile


@dataclass(frozen=True)
class EvaluationPixels:
    """What a network is given of an image in evaluation: its central crop of size x size, or ten crops of it."""

    size: int
    interpolation: str
    ten_crop: bool = False

    @property
    def crops(self) -> int:
        """How many crops an image has."""
        return CROPS if self.ten_crop else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of a crop."""
        return self.size, self.size, 3

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of all that is taken of an image: a crop, or ten."""
        return ((CROPS,) if self.ten_crop else ()) + self.shape

    def load(self, image: ImageFile, out: NDArray[np.float32]) -> None:
        """Fills out [*row] with the normalised crops. Raises ImageError."""
        fill = load_ten_crops_for_evaluation if self.ten_crop else load_for_evaluation
        fill(image, self.size, out, self.interpolation)


@dataclass(frozen=True, eq=False)
class Decoded:
    """The crops [N * crops, size, size, 3] of the N readable images of a batch; valid until the next batch.

    `indices` says which images of the sequence they are; `problems` has what is wrong with the others.
    """

    indices: list[int]
    crops: NDArray[np.float32]
    problems: dict[int, ImageError]


def decoded(images: Sequence[ImageFile], pixels: EvaluationPixels, batch: int, workers: int) -> Iterator[Decoded]:
    """The images in batches of at most `batch`, decoded by `workers` threads."""
    rows = np.empty((min(batch, len(images)), *pixels.row), np.float32)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for lo in range(0, len(images), batch):
            part = images[lo : lo + batch]
            tasks = [pool.submit(pixels.load, image, row) for image, row in zip(part, rows, strict=False)]
            errors = [task.exception() for task in tasks]
            for row, error in enumerate(errors):
                if isinstance(error, OSError | MemoryError):  # nobody waits here until it can be read
                    errors[row] = ImageError(f"can't be read: {getattr(error, 'strerror', None) or 'out of memory'}")
                elif error is not None and not isinstance(error, ImageError):
                    raise error
            problems = {lo + row: error for row, error in enumerate(errors) if isinstance(error, ImageError)}
            good = [row for row, error in enumerate(errors) if error is None]
            # All are readable as a rule: then nothing is copied.
            chosen = rows[: len(part)] if len(good) == len(part) else rows[good]
            yield Decoded([lo + row for row in good], chosen.reshape(-1, *pixels.shape), problems)
