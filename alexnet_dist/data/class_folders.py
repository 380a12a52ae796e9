"""A folder that holds one folder of images a class: the classes are its folders, sorted by name.

`alexnet-prepare folder` writes what it finds here into lists; training and evaluation may read it as it is.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_dist.data.decode import IMAGE_SUFFIXES
from alexnet_dist.data.shards import is_shard_folder
from alexnet_dist.data.table import FileTable
from alexnet_dist.errors import UserError
from alexnet_dist.support.plural import plural

TRAIN_NAMES, VAL_NAMES = ("train", "training"), ("val", "valid", "validation")
SET_NAMES = (*TRAIN_NAMES, *VAL_NAMES, "test", "testing")  # of folders that hold classes, not images of one class
SHOWN = 3  # examples of what was left out
# What is left out, by its kind: what one of them is called, and several.
STRAY = ("image beside the class folders, in none of them", "images beside the class folders, in none of them")
EMPTY = ("folder that holds no image", "folders that hold no image")
HIDDEN = ("hidden file or folder", "hidden files and folders")
LINKED = ("link to a folder, inside a class", "links to folders, inside a class")
_SUFFIXES = ", ".join(IMAGE_SUFFIXES)
UNNAMED = (f"file not named as an image ({_SUFFIXES})", f"files not named as images ({_SUFFIXES})")


@dataclass(frozen=True, eq=False)
class ClassFolder(FileTable):
    """The images of a class folder. An image's name is its path below `source`."""

    left_out: list[str] = field(default_factory=list, kw_only=True)  # lines for people

    @property
    def root(self) -> Path:
        """As FileTable."""
        return self.source

    def where(self, index: int) -> str:
        """The path of image `index`, for messages."""
        return os.fsencode(self.path(index)).decode(errors="backslashreplace")


class LeftOut:
    """What isn't taken for an image, counted by its kind, with the first examples."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[str]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, kind: tuple[str, str], path: str) -> None:
        """One more of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._found.setdefault(kind, [])
        if len(examples) < SHOWN:
            examples.append(os.fsencode(path).decode(errors="backslashreplace"))

    def lines(self) -> list[str]:
        """For people: one line a kind."""
        return [
            f"left out: {plural(self._counts[kind], *kind)}: {', '.join(examples)}{', ...' * (self._counts[kind] > SHOWN)}"
            for kind, examples in self._found.items()
        ]


def is_class_folder(path: Path) -> bool:
    """Whether it is to be read as one: a folder without shards."""
    return path.is_dir() and not is_shard_folder(path)


def split_folders(path: Path) -> tuple[Path, Path] | None:
    """The folders of training and of validation images, if `path` holds these two, each with class folders or shards."""
    if not is_class_folder(path):
        return None
    sets = [name for name in _folders(path) if _is_set(path, name)]
    train, val = (next((name for name in sets if name.lower() in names), None) for names in (TRAIN_NAMES, VAL_NAMES))
    return (path / train, path / val) if train and val else None


def folder_class_names(path: Path) -> list[str]:
    """The classes of a class folder: the folders that hold an image. Raises UserError if none does, or if they are sets."""
    folders = _folders(path)
    if not folders:
        raise UserError(f"{path} holds no folders; put the images of each class into a folder of their own in it")
    sets = _sets(path, folders)
    if sets:
        train = next((name for name in sets if name.lower() in TRAIN_NAMES), sets[0])
        others = [shlex.quote(f"{path / name}") for name in sets if name != train]
        more = f" (for validation: --val-dir {others[0]}, or --val when training)" if others else ""
        raise UserError(
            f"{path} holds {', '.join(sets)}: folders of classes, not classes. Go one level down: alexnet-prepare folder "
            f"{shlex.quote(f'{path / train}')}{more}"
        )
    names = [name for name in folders if _holds_image(path / name)]
    if not names:
        raise UserError(f"the class folders of {path} hold no image ({', '.join(IMAGE_SUFFIXES)})")
    return names


def read_class_folder(
    path: Path,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClassFolder:
    """The images, sorted by class and path; files that aren't hidden and whose names end as those of JPEG and PNG files.

    `classes` are those of the training images, where these are others: then a class may be missing here, but none may be
    added. `progress` is told how many of how many classes have been read. Raises UserError, also if there are no images or
    more than `num_classes` classes.
    """
    names = folder_class_names(path)
    unknown = sorted(set(names) - set(classes)) if classes else []
    if unknown:
        raise UserError(f"{path} has the folder {unknown[0]!r}, which is none of the {len(classes or ())} classes")
    classes = classes or names
    if num_classes is not None and len(classes) > num_classes:
        raise UserError(
            f"{path} has {len(classes)} classes, more than {num_classes}; correct the number (--num-classes, the class names)"
        )
    left_out = LeftOut()
    for entry in sorted(os.listdir(path)):
        if (path / entry).is_file() and _is_image(entry):
            left_out.add(STRAY, entry)
    for folder in _folders(path):
        if folder not in names:
            left_out.add(EMPTY, folder)
    labels, found = [], []
    for label, name in enumerate(classes):
        if progress is not None:
            progress(label, len(classes))
        images = list(_images(path, name, left_out))
        found += images
        labels += [label] * len(images)
    ends = np.cumsum([len(name) for name in found], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    text = np.frombuffer(b"".join(found), np.uint8)
    return ClassFolder(path, text, np.array(labels, np.int32), starts, ends, left_out=left_out.lines())


def _images(path: Path, name: str, left_out: LeftOut) -> Iterator[bytes]:
    """The paths below `path` of all images of a class, folder by folder."""

    def refuse(error: OSError) -> None:
        # A class may be missing from the validation images, but a folder that can't be read is not an empty one.
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"can't look into the folder {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(path / name, onerror=refuse):
        below = os.path.relpath(folder, path)
        for inner in sorted(folders):
            if inner.startswith("."):  # macOS puts ._x.jpg beside x.jpg
                left_out.add(HIDDEN, os.path.join(below, inner))
            elif os.path.islink(os.path.join(folder, inner)):
                left_out.add(LINKED, os.path.join(below, inner))
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for file in sorted(files):
            if file.startswith("."):
                left_out.add(HIDDEN, os.path.join(below, file))
            elif not _is_image(file):
                left_out.add(UNNAMED, os.path.join(below, file))
            else:
                yield os.fsencode(os.path.join(below, file))


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"can't look into the folder {path}: {error.strerror}") from error


def _sets(path: Path, names: Sequence[str]) -> list[str]:
    """Those of the folders that are sets of classes, such as training images and validation images, rather than classes.

    Two that are sets by their names are, and one that is alone. Of one among others it depends: a class may be called train,
    and images may lie deeper, in folders of one class. But where no folder holds an image itself, and all that hold some
    have folders of the same name, these are the classes. So are they if a folder stands alone and holds two or more of them.
    """
    sets = [name for name in names if _is_set(path, name)]
    if len(sets) > 1 or len(names) == len(sets):
        return sets
    if (not sets and len(names) > 1) or any(_holds_image(path / name, below=False) for name in names):
        return []
    inner = {name: {one for one in _folders(path / name) if _holds_image(path / name / one)} for name in names}
    holding = [name for name in names if inner[name]]
    common = set.intersection(*(inner[name] for name in holding)) if holding else set()
    return holding if len(common) > (0 if sets else 1) else []


def _is_set(path: Path, name: str) -> bool:
    """Whether a folder is a set of classes by its name and by what is in it: a class, too, may be called train."""
    folder = path / name
    if name.lower() not in SET_NAMES:
        return False
    return is_shard_folder(folder) or (bool(_folders(folder)) and not _holds_image(folder, below=False))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _holds_image(folder: Path, below: bool = True) -> bool:
    """Whether an image lies in a folder, or `below` it; looks no further than the first. Raises UserError."""
    inner = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    if _is_image(entry.name):
                        return True
                elif not entry.name.startswith(".") and not entry.is_symlink():
                    inner.append(folder / entry.name)
    except OSError as error:
        raise UserError(f"can't look into the folder {folder}: {error.strerror}") from error
    return below and any(_holds_image(one) for one in inner)
