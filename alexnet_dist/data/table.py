"""A table of images: what lists and packed shards have in common."""

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.storage import open_below

BLOCK = 1 << 14  # names that are copied at a time


@dataclass(frozen=True, eq=False)
class ImageTable(ABC):
    """An ImageSource: the images of one list or folder of shards, in its order. All arrays but `text` have one entry an image.

    ImageNet has 1.28 million images: a million path objects would take some 200 MB. And plain arrays are what the ranks of
    a node can share: `facts` and `arrays` are all that the table consists of, `rebuilt` makes one of them.
    """

    source: Path
    text: NDArray[np.uint8]  # bytes that hold the names of the images
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]  # the name is text[start:end]
    ends: NDArray[np.int64]
    known_fingerprint: str = field(default="", kw_only=True)  # of a table that has been rebuilt; else it is computed

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> bytes:
        """What the source calls image `index`."""
        return self.text[self.starts[index] : self.ends[index]].tobytes()

    def title(self, index: int) -> bytes:
        """How results name image `index`."""
        return self.name(index)

    def names(self) -> Iterator[bytes]:
        """All names, with a line break after each, in blocks."""
        text = self.text.data
        for first in range(0, len(self), BLOCK):
            block = slice(first, first + BLOCK)
            places = zip(self.starts[block].tolist(), self.ends[block].tolist(), strict=True)
            yield b"\n".join([*(text[start:end] for start, end in places), b""])

    def subset(self, indices: NDArray[np.integer]) -> Self:
        """The images at `indices`, in that order."""
        columns = {name: array[indices] for name, array in self.arrays().items() if name != "text"}
        return replace(self, **columns, known_fingerprint="")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, by the names of their fields."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def facts(self) -> dict[str, Any]:
        """The other fields, as JSON can represent them."""
        return {"source": str(self.source), "known_fingerprint": self.fingerprint()}

    @classmethod
    def rebuilt(cls, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The table of which these are the `facts` and the `arrays`."""
        values: dict[str, Any] = {**facts, "source": Path(facts["source"]), **arrays}
        return cls(**values)

    def fingerprint(self) -> str:
        """A string that changes if a label, a name or the order does."""
        return self.known_fingerprint or self._fingerprint()

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """As ImageSource."""

    @abstractmethod
    def where(self, index: int) -> str:
        """As ImageSource."""

    @abstractmethod
    def _fingerprint(self) -> str:
        """The fingerprint, computed."""


@dataclass(frozen=True, eq=False)
class FileTable(ImageTable):
    """Images that are files: the name of each is a path below `root`, or an absolute one."""

    @property
    @abstractmethod
    def root(self) -> Path:
        """Where relative paths start."""

    def path(self, index: int) -> Path:
        """Where image `index` is. Bytes that aren't UTF-8 come through as the file system has them."""
        return self.root / os.fsdecode(self.name(index))

    def open(self, index: int) -> BinaryIO:
        """The file of image `index`. Raises OSError."""
        return open_below(self.root, self.path(index))

    def _fingerprint(self) -> str:
        """Eight hexadecimal digits: CRC-32 of the labels, then of each path and a line break."""
        crc = zlib.crc32(self.labels.astype("<i4").tobytes())
        for block in self.names():
            crc = zlib.crc32(block, crc)
        return f"{crc:08x}"
