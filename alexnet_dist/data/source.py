"""The protocol of a data source: what training and evaluation need of images, however they are stored."""

from typing import BinaryIO, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.errors import UserError
from alexnet_dist.support.randomness import Purpose, generator


class ImageSource(Protocol):
    """Images with their classes, in a fixed order. Any thread may open any image at any time."""

    @property
    def source(self) -> object:
        """Where the images come from, for messages: `images.list`."""
        ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class id of each image."""
        ...

    def __len__(self) -> int: ...

    def open(self, index: int) -> BinaryIO:
        """The bytes of image `index`, a JPEG or PNG file, from their start. The caller closes it. Raises OSError."""
        ...

    def where(self, index: int) -> str:
        """Which image that is, for messages: `images.list:17: cats/tom.jpg`."""
        ...

    def fingerprint(self) -> str:
        """A string that differs if an image, a label or the order differs: a resumed run compares it."""
        ...

    def subset(self, indices: NDArray[np.integer]) -> Self:
        """The images at `indices`, in that order."""
        ...


Source = TypeVar("Source", bound=ImageSource)


def hold_out(images: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits a source at random into (training, validation), each in its order; the same split for the same seed.

    Validation gets round(fraction * images), at least one; training keeps at least one. Raises UserError if the
    source has fewer than two images or the fraction isn't between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the share of images to hold out for validation must lie between 0 and 1, not be {fraction}")
    if len(images) < 2:
        raise UserError(f"{images.source} has 1 image; holding some out for validation takes at least 2")
    count = min(max(round(fraction * len(images)), 1), len(images) - 1)
    order = generator(seed, Purpose.HOLD_OUT).permutation(len(images))
    return images.subset(np.sort(order[count:])), images.subset(np.sort(order[:count]))
