"""`prepare folder`: a folder that holds one folder of images a class."""

from pathlib import Path

from alexnet_dist.data.class_folders import ClassFolder, folder_class_names, read_class_folder, split_folders
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.lists import Entry, Lists, split
from alexnet_dist.support.tracking import tracking

VAL_FRACTION = 0.1


def prepare_folder(
    source: Path,
    output: Path,
    *,
    val_dir: Path | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Lists the images of `source`, which holds a folder a class: sorted by name, the folders are classes 0, 1, ...

    Validation images are those of `val_dir`, in folders of the same names, or a share of each class. Without either, a
    `source` that holds train/ and val/ is taken for these two. Paths are relative to `output` where the images lie in it,
    absolute otherwise. Prints what it found, and what it left out. Raises UserError.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must lie between 0 and 1, not be {val_fraction}")
    if val_dir is None and val_fraction is None:
        source, val_dir = split_folders(source) or (source, None)
    classes = folder_class_names(source)
    with tracking("folders of classes") as tracker:
        folders = [read_class_folder(source, progress=tracker)]
        if val_dir is not None:
            folders.append(read_class_folder(val_dir, classes=classes, progress=tracker))
    if val_dir is None:
        train, val = split(_entries(folders[0]), (val_fraction or VAL_FRACTION,), seed)
    else:
        train, val = map(_entries, folders)
    lists = Lists(output, {"images.list": train, "val.list": val}, classes)
    lists.check(force)
    lists.write()
    for folder in folders:
        for line in folder.left_out:
            print(f"{folder.source}: {line}")


def _entries(folder: ClassFolder) -> list[Entry]:
    return [(label, str(folder.path(index))) for index, label in enumerate(folder.labels.tolist())]
