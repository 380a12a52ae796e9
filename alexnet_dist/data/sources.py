"""The images that a run trains and validates on, and the names of its classes: read, checked and split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from alexnet_dist.data.class_names import class_names_beside, read_class_names
from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.shards import Shards, is_shard_folder, read_shards
from alexnet_dist.data.source import ImageSource, hold_out
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import UserError

STORED: dict[str, type[ImageTable]] = {kind.__name__: kind for kind in (ImageList, Shards)}  # what open_images returns

AnySource = TypeVar("AnySource", bound=ImageSource, covariant=True)


@dataclass(frozen=True)
class Sources(Generic[AnySource]):
    """Training and validation images, the number of classes, and their names where they are known."""

    train: AnySource
    val: AnySource
    num_classes: int
    class_names: list[str] | None


@dataclass(frozen=True)
class SourcePaths:
    """Where a run finds its images: `val_fraction` of `data` is held out where there is no `val`."""

    data: Path
    val: Path | None = None
    val_fraction: float = 0.1
    class_names: Path | None = None
    num_classes: int | None = None


def open_images(path: Path, num_classes: int | None = None) -> ImageTable:
    """The images of a list, or of a folder of packed shards. Raises UserError, also for a class id out of range."""
    return read_shards(path, num_classes) if is_shard_folder(path) else read_image_list(path, num_classes)


def read_sources(paths: SourcePaths, seed: int) -> Sources[ImageTable]:
    """Reads the lists or shards; `seed` chooses the images that are held out.

    The number of classes is the one given, else that of the names, else the largest class id + 1. Raises UserError.
    """
    data, names_file, num_classes = paths.data, paths.class_names, paths.num_classes
    names = read_class_names(names_file) if names_file else class_names_beside(data)
    if names_file and num_classes is not None and len(names or []) != num_classes:
        raise UserError(f"{names_file} names {len(names or [])} classes, but --num-classes is {num_classes}")
    limit = num_classes if num_classes is not None else len(names) if names else None
    train = open_images(data, limit)
    if paths.val is not None:
        val = open_images(paths.val, limit)
    else:
        train, val = hold_out(train, paths.val_fraction, seed)
    classes = limit or 1 + max(int(train.labels.max()), int(val.labels.max()))
    if names is not None and len(names) != classes:
        names = None  # an unrelated classes.txt beside the list, overruled by --num-classes
    return Sources(train, val, classes, names)
