"""What a run trains and validates on, and what its classes are called: found, checked and split."""

from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.data.image_list import ImageList, class_names_beside, hold_out, read_class_names, read_image_list
from alexnet_dist.errors import UserError


@dataclass(frozen=True)
class Sources:
    """Training and validation images, the number of classes, and their names where they are known."""

    train: ImageList
    val: ImageList
    num_classes: int
    class_names: list[str] | None


def read_sources(
    data: Path, val: Path | None, val_fraction: float, names_file: Path | None, num_classes: int | None, seed: int
) -> Sources:
    """Reads the lists; without `val`, holds out a share of `data`.

    The number of classes is the one given, else that of the names, else the largest class id + 1. Raises UserError.
    """
    names = read_class_names(names_file) if names_file else class_names_beside(data)
    if names_file and num_classes is not None and len(names or []) != num_classes:
        raise UserError(f"{names_file} names {len(names or [])} classes, but --num-classes is {num_classes}")
    limit = num_classes if num_classes is not None else len(names) if names else None
    train = read_image_list(data, limit)
    if val is not None:
        held_out = read_image_list(val, limit)
    else:
        train, held_out = hold_out(train, val_fraction, seed)
    classes = limit or 1 + max(int(train.labels.max()), int(held_out.labels.max()))
    if names is not None and len(names) != classes:
        names = None  # a stray classes.txt beside the list, overruled by --num-classes
    return Sources(train, held_out, classes, names)
