"""`prepare folder`: a folder that holds one folder of images a class."""

import os
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.data.decode import IMAGE_SUFFIXES
from alexnet_dist.data.folders import images_below
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.lists import Entry, Lists, split


def prepare_folder(
    source: Path,
    output: Path,
    *,
    val_dir: Path | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Lists the images of `source`, which holds a folder a class: sorted by name, the folders are classes 0, 1, ...

    Validation images are those of `val_dir`, in folders of the same names, or a share of each class. Paths are relative
    to `output` where the images lie in it, absolute otherwise. Prints what it found. Raises UserError.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must lie between 0 and 1, not be {val_fraction}")
    classes = _class_folders(source)
    train = _find_images(source, classes)
    if not train:
        raise UserError(f"the class folders of {source} hold no image ({', '.join(IMAGE_SUFFIXES)})")
    if val_dir is None:
        train, val = split(train, (val_fraction,), seed)
    else:
        unknown = sorted(set(_class_folders(val_dir)) - set(classes))
        if unknown:
            raise UserError(f"{val_dir} has the folder {unknown[0]!r}, which is no class: {source} has no such folder")
        val = _find_images(val_dir, classes)
        if not val:
            raise UserError(
                f"the class folders of {val_dir} hold no image; leave --val-dir out to split {source} instead"
            )
    lists = Lists(output, {"images.list": train, "val.list": val}, classes)
    lists.check(force)
    lists.write()


def _class_folders(source: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(source) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"can't look into the folder {source}: {error.strerror}") from error
    if not names:
        raise UserError(f"{source} holds no folders; put the images of each class into a folder of their own in it")
    return names


def _find_images(source: Path, classes: Sequence[str]) -> list[Entry]:
    """Every image below source/class, in sorted order. A class may be missing, in validation images."""
    return [(label, path) for label, name in enumerate(classes) for path in images_below(source / name)]
