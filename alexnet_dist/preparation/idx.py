"""`prepare idx`: files of the IDX format, in which MNIST and its kind come, to PNG images and lists.

An IDX file begins with two zero bytes, one that says the type of the values (8: unsigned byte) and one that says the
number of dimensions; each dimension follows as a big-endian 32-bit number, then the values, the last dimension fastest.
Source: "The IDX file format" in http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.preparation.lists import Entry, Lists, write_png
from alexnet_dist.support.plural import plural
from alexnet_dist.support.tracking import track

# As MNIST, Fashion-MNIST and KMNIST name them, each with or without .gz
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 8
GZIP = b"\x1f\x8b"
PIECE = 1 << 24  # bytes that are read at once


@dataclass(frozen=True)
class LabelledImages:
    """One pair of files: grey images of shape [N, height, width], and their class ids, [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @classmethod
    def read(cls, images_file: Path, labels_file: Path) -> Self:
        """Raises UserError for files that aren't IDX, not whole, of other kinds or don't belong together."""
        images = read_idx(images_file, "images", ("their number", "height", "width"))
        labels = read_idx(labels_file, "labels", ("their number",))
        if len(images) != len(labels):
            raise UserError(
                f"{images_file} has {plural(len(images), 'image')}, but {labels_file} {plural(len(labels), 'label')}: "
                "they don't belong together"
            )
        if images.size == 0:
            raise UserError(f"{images_file} holds no pixels: its dimensions are {_product(images.shape)}")
        return cls(images, labels)

    def entries(self, folder: Path) -> list[Entry]:
        """Where each image is to lie: `folder/class_id/number.png`."""
        return [(label, str(folder / f"{label}/{number:05d}.png")) for number, label in enumerate(self.labels.tolist())]

    def write(self, entries: Sequence[Entry], border: int) -> None:
        """Writes the images to where the entries say, with so many black pixels around each."""
        for number in track(range(len(entries)), "images"):
            write_png(entries[number][1], Image.fromarray(np.pad(self.images[number], border)))


def prepare_idx(
    sources: Sequence[Path],
    output: Path,
    names: Sequence[str] | None = None,
    force: bool = False,
    border: int = 0,
) -> None:
    """Writes the images as PNG files below `output`/images, images.list (training), val.list (test) and classes.txt.

    `sources` are a folder with the four FILES, or four paths in their order. Without names, the class ids are the
    names. `border` black pixels go around each image: evaluation looks at the central 7/8 of a picture (224 of 256
    pixels), which of 28 pixels with a border of 2 is all of them. Running it again writes only what is missing, or
    differs. Raises UserError.
    """
    if border < 0:
        raise UserError(f"--border is {border}, but must be at least 0")
    files = find_files(sources)
    train, test = LabelledImages.read(*files[:2]), LabelledImages.read(*files[2:])
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"the images of {files[0]} have {_product(train.images.shape[1:])} pixels, those of {files[2]} "
            f"{_product(test.images.shape[1:])}: they don't belong together"
        )
    for part, file in ((train, files[1]), (test, files[3])):
        if names and part.labels.max() >= len(names):
            raise UserError(f"{file} has the class id {part.labels.max()}, but only {len(names)} classes are named")
    classes = names or [str(label) for label in range(1 + max(train.labels.max(), test.labels.max()))]
    train_entries, test_entries = (
        part.entries(output / "images" / name) for part, name in ((train, "train"), (test, "test"))
    )
    lists = Lists(output, {"images.list": train_entries, "val.list": test_entries}, classes)
    lists.check(force)
    train.write(train_entries, border)
    test.write(test_entries, border)
    lists.write()


def find_files(sources: Sequence[Path]) -> list[Path]:
    """The files of training images and labels, test images and labels. Raises UserError if one isn't there."""
    if len(sources) == 4:
        return list(sources)
    if len(sources) != 1:
        raise UserError(
            f"{len(sources)} paths were given; give one folder, or four files: training images, training labels, "
            "test images, test labels"
        )
    folder, found = sources[0], []
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds {FILES[0]} and so on, or all four files")
    for name in FILES:
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        if not there:
            raise UserError(f"{folder} has neither {name} nor {name}.gz; where files have other names, give all four")
        found.append(there[0])
    return found


def read_idx(path: Path, what: str, dimensions: Sequence[str]) -> NDArray[np.uint8]:
    """The values of an IDX file, packed by gzip or not; `dimensions` are the names of those that it must have.

    Raises UserError, with the path, for a file that is no IDX file, of another type or number of dimensions, damaged,
    shorter or longer than its header says.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP  # the bytes, not the name: a browser may unpack and keep the name
            file.seek(0)
            if packed:
                with gzip.open(file) as unpacked:
                    return _read(unpacked, what, dimensions)
            return _read(file, what, dimensions)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except EOFError as error:
        raise UserError(f"{path} is truncated: its gzip data end too early; copy or load it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); copy or load it again") from error
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(file: _Readable, what: str, dimensions: Sequence[str]) -> NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise UserError(f"is not an IDX file: it begins with the bytes {magic.hex(' ') or '(none)'}")
    if magic[2] != UNSIGNED_BYTE or magic[3] != len(dimensions):
        raise UserError(
            f"is no IDX file of {what}: its magic number is 0x{magic.hex()}, that of {what} is "
            f"0x0000{UNSIGNED_BYTE:02x}{len(dimensions):02x} (unsigned bytes; dimensions: {', '.join(dimensions)})"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise UserError("is truncated: it ends within its header")
    shape = tuple(np.frombuffer(header, ">u4").tolist())
    size = math.prod(shape)
    values = _read_up_to(file, size)
    if len(values) < size:
        raise UserError(f"is truncated: it has {len(values)} of {size} bytes ({_product(shape)})")
    if file.read(1):
        raise UserError(f"is longer than its header says: more than {size} bytes ({_product(shape)})")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_up_to(file: _Readable, size: int) -> bytes:
    """So many bytes, or fewer at the end of the file. A header may claim more than there is, or than memory holds."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _product(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
