"""Packed images: tar files as WebDataset has them, read by offset, so that any image can be opened at any time.

A shard holds pairs of files, KEY.jpg or KEY.png and KEY.cls, the class id in digits (the layout that the `webdataset`
library reads one after another). Beside the shards lies `index.npz`, which says where each image lies: arrays that
`numpy.load` reads, without pickle. `alexnet-prepare pack` writes both, `alexnet-prepare index` the index of shards that
others have made.
"""

import errno
import os
import zlib
from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.decode import ImageError
from alexnet_dist.data.image_list import MAX_CLASSES
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import UserError
from alexnet_dist.support.files import replacing

INDEX = "index.npz"
VERSION = 1
OPEN_SHARDS = 64  # how many files a process keeps open; a step's images lie anywhere
# The arrays of an index. `text` and `shard_names` are bytes; the others have one entry an image, or a shard.
INDEX_TYPES = {
    "version": np.int32,
    "shard_names": np.uint8,  # each ends with a line break
    "shard_sizes": np.int64,
    "text": np.uint8,  # the names of the images, one after the other
    "ends": np.int64,  # of the names
    "labels": np.int32,
    "shards": np.int32,  # the number of the shard, from 0
    "offsets": np.int64,  # of the image's first byte in the shard
    "sizes": np.int64,  # bytes of the image
}
OF_IMAGES = ("ends", "labels", "shards", "offsets", "sizes")


class _Descriptor:
    """An open file, closed when the last thread that uses it has let it go."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):  # not if it couldn't be opened
            os.close(self.number)


class _Descriptors:
    """The latest few files that have been read; the others are closed."""

    def __init__(self) -> None:
        self._of = lru_cache(OPEN_SHARDS)(_Descriptor)

    def of(self, path: Path) -> _Descriptor:
        return self._of(path)

    def forget(self) -> None:
        self._of.cache_clear()


@dataclass(frozen=True, eq=False)
class Shards(ImageTable):
    """The images of a folder of shards, in the order of the index. Safe for any number of threads.

    The name of an image is that of its file in the shard; after a line break may follow the path that it was packed from.
    """

    shards: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shard_names: list[str]
    descriptors: _Descriptors = field(default_factory=_Descriptors, repr=False)

    def shard(self, index: int) -> Path:
        """The tar file that holds image `index`."""
        return self.source / self.shard_names[self.shards[index]]

    def open(self, index: int) -> BinaryIO:
        """The bytes of image `index`. Raises OSError, and ImageError where the shard ends before the image does."""
        size = int(self.sizes[index])
        try:
            descriptor = self.descriptors.of(self.shard(index))  # open until its last user has let it go
            content = os.pread(descriptor.number, size, int(self.offsets[index]))
        except FileNotFoundError:  # it was there at the start
            raise OSError(errno.ESTALE, f"the shard {self.shard(index)} is gone; is its file system mounted?") from None
        except OSError:
            self.descriptors.forget()  # a file that has become stale has to be opened anew
            raise
        if len(content) < size:
            raise ImageError(f"is truncated: the shard has {len(content)} of its {size} bytes; copy it again")
        return BytesIO(content)

    def where(self, index: int) -> str:
        """The shard and the name of image `index`, for messages: `shards/000003.tar: 000000017.jpg (cats/tom.jpg)`."""
        member, _, path = self.name(index).decode(errors="backslashreplace").partition("\n")
        return f"{self.shard(index)}: {member}" + (f" ({path})" if path else "")

    def title(self, index: int) -> bytes:
        """The path that image `index` was packed from, as its list has it; `000003.tar/17.jpg` where that isn't known."""
        member, _, path = self.name(index).partition(b"\n")
        return path or os.fsencode(self.shard_names[self.shards[index]]) + b"/" + member

    def facts(self) -> dict[str, Any]:
        """As that of every table, and the names of the shards."""
        return {**super().facts(), "shard_names": self.shard_names}

    def _fingerprint(self) -> str:
        """CRC-32 of the labels, the images' sizes and their names; how they are divided among shards doesn't matter."""
        crc = zlib.crc32(self.labels.astype("<i4").tobytes())
        crc = zlib.crc32(self.sizes.astype("<i8").tobytes(), crc)
        crc = zlib.crc32((self.ends - self.starts).astype("<i8").tobytes(), crc)
        for block in self.names():
            crc = zlib.crc32(block, crc)
        return f"shards-{crc:08x}"


def is_shard_folder(path: Path) -> bool:
    """Whether this is a folder with an index or with tar files."""
    return path.is_dir() and ((path / INDEX).exists() or bool(shard_files(path)))


def shard_files(folder: Path) -> list[str]:
    """The names of the tar files in a folder, in order. Raises UserError if it can't be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".tar") and not name.startswith("."))
    except OSError as error:
        raise UserError(f"can't look into the folder {folder}: {error.strerror}") from error


class IndexWriter:
    """Collects where the images of a folder of shards lie."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._columns = {name: array("q") for name in OF_IMAGES}

    def __len__(self) -> int:
        return len(self._columns["labels"])

    def add(self, label: int, name: bytes, *, shard: int, offset: int, size: int) -> None:
        """The next image."""
        self._text += name
        values = {"ends": len(self._text), "labels": label, "shards": shard, "offsets": offset, "sizes": size}
        for column, value in values.items():
            self._columns[column].append(value)

    def write(self, folder: Path, shard_names: list[str]) -> None:
        """Writes the index of these shards, which must be complete. Raises UserError."""
        sizes = [(folder / name).stat().st_size for name in shard_names]
        arrays: dict[str, Any] = {
            "version": [VERSION],
            "shard_names": np.frombuffer(b"".join(os.fsencode(name) + b"\n" for name in shard_names), np.uint8),
            "shard_sizes": sizes,
            "text": np.frombuffer(bytes(self._text), np.uint8),
            **self._columns,
        }
        columns: dict[str, Any] = {name: np.array(arrays[name], kind) for name, kind in INDEX_TYPES.items()}
        with replacing(folder / INDEX) as temporary, open(temporary, "wb") as file:
            np.savez(file, **columns)


def read_shards(folder: Path, num_classes: int | None = None) -> Shards:
    """Reads the index of a folder, checks it, and that every shard is there and as long as it was.

    Raises UserError, also for a class id that isn't below `num_classes`.
    """
    columns = _read_index(folder / INDEX)
    names = [os.fsdecode(name) for name in columns["shard_names"].tobytes().split(b"\n")[:-1]]
    _check(folder / INDEX, columns, len(names))
    for name, size in zip(names, columns["shard_sizes"].tolist(), strict=True):
        _check_shard(folder / name, size)
    starts = np.concatenate([np.zeros(1, np.int64), columns["ends"][:-1]])
    shards = Shards(
        folder,
        columns["text"],
        columns["labels"],
        starts,
        columns["ends"],
        columns["shards"],
        columns["offsets"],
        columns["sizes"],
        names,
    )
    wrong = np.flatnonzero(shards.labels >= (MAX_CLASSES if num_classes is None else num_classes))
    if len(wrong):
        raise UserError(
            f"{shards.where(int(wrong[0]))} is of class {shards.labels[wrong[0]]}, which is not below the number of classes, "
            f"{num_classes or MAX_CLASSES}; correct the number (--num-classes, the class names)"
        )
    return shards


def _read_index(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip: each array has a checksum
            columns = {name: file[name] for name in INDEX_TYPES}
    except FileNotFoundError:
        folder = path.parent
        if not shard_files(folder):
            raise UserError(f"{folder} holds no shards; alexnet-prepare pack writes some") from None
        raise UserError(
            f"{folder} holds shards, but no {INDEX}; write it once: alexnet-prepare index {folder}"
        ) from None
    except Exception as error:  # damaged zips and arrays lead to nearly every kind
        raise UserError(f"{path} is no whole index of shards ({error}); write it again with alexnet-prepare") from error
    wrong = [
        name for name, kind in INDEX_TYPES.items() if columns[name].dtype != np.dtype(kind) or columns[name].ndim != 1
    ]
    if wrong or columns["version"].tolist() != [VERSION]:
        raise UserError(
            f"{path} is an index of another kind or version ({', '.join(wrong) or columns['version'].tolist()}); "
            "write it again with alexnet-prepare index"
        )
    return columns


def _check(path: Path, columns: dict[str, NDArray[Any]], shards: int) -> None:
    """Raises UserError if an entry points outside of what there is: a message then, not rubbish later."""
    lengths = {len(columns[name]) for name in OF_IMAGES}
    if len(lengths) > 1 or len(columns["shard_sizes"]) != shards:
        raise UserError(f"{path} contradicts itself: its arrays differ in length; write it again with alexnet-prepare")
    if lengths == {0}:
        raise UserError(f"{path} names no images")
    ends, numbers = columns["ends"], columns["shards"]
    inside = (numbers >= 0).all() and (numbers < shards).all() and (columns["labels"] >= 0).all()
    inside = inside and (np.diff(ends, prepend=0) > 0).all() and ends[-1] == len(columns["text"])
    inside = inside and (columns["offsets"] >= 0).all() and (columns["sizes"] >= 0).all()
    if not inside or (columns["offsets"] + columns["sizes"] > columns["shard_sizes"][numbers]).any():
        raise UserError(f"{path} contradicts itself: an entry points to nowhere; write it again with alexnet-prepare")


def _check_shard(path: Path, size: int) -> None:
    try:
        there = os.stat(path).st_size
    except OSError as error:
        raise UserError(f"the shard {path} can't be read ({error.strerror}); {INDEX} beside it names it") from error
    if there != size:
        raise UserError(
            f"the shard {path} has {there} bytes, but {size} when {INDEX} was written: copy it again, or write the index "
            "again with alexnet-prepare index"
        )
