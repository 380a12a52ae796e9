"""The images that a run trains and validates on, and the names of its classes: read, checked and split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from alexnet_dist.data.class_folders import ClassFolder, is_class_folder, read_class_folder, split_folders
from alexnet_dist.data.class_names import class_ids, class_names_beside, read_class_names
from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.shards import Shards, is_shard_folder, read_shards
from alexnet_dist.data.source import ImageSource, hold_out
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import UserError
from alexnet_dist.support.plural import plural

LIST, VAL_LIST = "images.list", "val.list"  # what lists are called where nobody names them
VAL_FRACTION = 0.1  # of the images, where none are for validation
STORED: dict[str, type[ImageTable]] = {
    kind.__name__: kind for kind in (ImageList, ClassFolder, Shards)
}  # what open_images returns

AnySource = TypeVar("AnySource", bound=ImageSource, covariant=True)


@dataclass(frozen=True)
class Sources(Generic[AnySource]):
    """Training and validation images, the number of classes, and their names where they are known."""

    train: AnySource
    val: AnySource
    num_classes: int
    class_names: list[str] | None
    notes: tuple[str, ...] = ()  # for the log: where validation images were found, and what was left out


@dataclass(frozen=True)
class SourcePaths:
    """Where a run finds its images.

    A folder of classes that holds `images.list`, as `alexnet-prepare folder` leaves it there, stands for this list. Without
    `val` and `val_fraction`, validation images are those in `val.list` beside the list `data`, or in the folder `val` beside
    `train` in the folder `data`; where there is neither, VAL_FRACTION of the images is held out.
    """

    data: Path
    val: Path | None = None
    val_fraction: float | None = None
    class_names: Path | None = None
    num_classes: int | None = None
    ignore_class_names: bool = False  # a classes.txt beside the validation images is left aside


def list_in(path: Path, validation: bool = False) -> tuple[Path, list[str]]:
    """The list that a folder of classes holds and stands for, and a line that says so; else the path itself. For `validation`
    it is VAL_LIST, or LIST where there is no other."""
    names = (VAL_LIST, LIST) if validation else (LIST,)
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None or not is_class_folder(path) or split_folders(path):
        return path, []
    return found, [f"{path} holds a list, which is read: {found}"]


def open_images(path: Path, num_classes: int | None = None, classes: Sequence[str] | None = None) -> ImageTable:
    """The images of a list, of a folder of packed shards, or of a folder of class folders.

    `classes` say which class id each class folder is; without them, they are numbered in their order. Raises UserError,
    also for a class id out of range.
    """
    if is_class_folder(path):
        return read_class_folder(path, num_classes, classes)
    return read_shards(path, num_classes) if is_shard_folder(path) else read_image_list(path, num_classes)


def open_evaluated(
    path: Path,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    ignore_class_names: bool = False,
) -> ImageTable:
    """The images that evaluation reads: of a folder that holds train and val, those of val. Raises UserError.

    With the names of a network's `classes`, the images' classes are these; without, those of their own. A classes.txt beside
    them may be left aside.
    """
    train, val = split_folders(path) or (None, path)
    names = classes or (class_names_beside(train) if train else None)
    images = open_images(val, num_classes, names)
    return images if ignore_class_names else _by_name(images, names, train or path)


def _by_name(images: ImageTable, classes: Sequence[str] | None, owner: Path) -> ImageTable:
    """The images, with the numbers that their classes have among the `classes` of `owner`. Raises UserError."""
    if isinstance(images, ClassFolder):
        return images  # its folders were found by their names
    ids = class_ids(classes, class_names_beside(images.source), owner, images.source)
    if ids is None:
        return images
    if images.labels.max() >= len(ids):
        raise UserError(
            f"{images.source} has the class id {images.labels.max()}, but its classes.txt names "
            f"{plural(len(ids), 'class', 'classes')}; correct one of them, or say "
            "--ignore-class-names to leave classes.txt aside"
        )
    return replace(images, labels=np.array(ids, np.int32)[images.labels], known_fingerprint="")


def read_sources(paths: SourcePaths, seed: int) -> Sources[ImageTable]:
    """Reads the lists or shards; `seed` chooses the images that are held out.

    The number of classes is the one given, else that of the names, else the largest class id + 1. Where names stand beside
    the validation images, too, their classes are found by name. Raises UserError.
    """
    names_file, num_classes = paths.class_names, paths.num_classes
    data, val_path, notes = _locate(paths)
    beside = class_names_beside(data)
    names = read_class_names(names_file) if names_file else beside
    if names_file and num_classes is not None and len(names or []) != num_classes:
        raise UserError(
            f"{names_file} names {plural(len(names or []), 'class', 'classes')}, but --num-classes is {num_classes}"
        )
    limit = num_classes if num_classes is not None else len(names) if names else None
    train = open_images(data, limit)
    opened = [train]
    if val_path is not None:
        val = open_images(val_path, limit, beside)
        opened.append(val)
        if not paths.ignore_class_names:
            known = beside if limit == len(beside or ()) else names
            val = _by_name(val, known if limit == len(known or ()) else None, data)
    else:
        train, val = hold_out(train, paths.val_fraction or VAL_FRACTION, seed)
    classes = limit or 1 + max(int(train.labels.max()), int(val.labels.max()))
    if names is not None and len(names) != classes:
        names = None  # an unrelated classes.txt beside the list, overruled by --num-classes
    notes += [f"{one.source}: {line}" for one in opened if isinstance(one, ClassFolder) for line in one.left_out]
    return Sources(train, val, classes, names, tuple(notes))


def _locate(paths: SourcePaths) -> tuple[Path, Path | None, list[str]]:
    """Where the training images are, and the validation images where they are others; and what to say of it."""
    data, notes = list_in(paths.data)
    if paths.val is not None:
        chosen, more = list_in(paths.val, validation=True)
        return data, chosen, notes + more
    if paths.val_fraction is not None:
        return data, None, notes
    found, beside = split_folders(data), data.parent / VAL_LIST
    if found is None and data.is_file() and beside.is_file() and not beside.samefile(data):
        found = data, beside
    if found is None:
        return data, None, notes
    train, val = found
    return (
        train,
        val,
        [*notes, f"training images: {train}; validation images: {val}, beside it (--val, --val-fraction: others)"],
    )
