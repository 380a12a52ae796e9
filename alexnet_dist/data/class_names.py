"""The names of classes: read from a file of one name a line, and matched with those that a network was trained with."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.data.class_folders import folder_class_names, is_class_folder, split_folders
from alexnet_dist.data.text import BYTE_ORDER_MARK, read_bytes
from alexnet_dist.errors import UserError
from alexnet_dist.support.plural import plural

SHOWN = 3  # names of a difference that a message shows


def read_class_names(path: str | Path) -> list[str]:
    """The names of classes 0, 1, ...: one a line. Raises UserError if the file can't be read or is empty."""
    names = read_bytes(Path(path), "file of class names").removeprefix(BYTE_ORDER_MARK).decode(errors="replace")
    if not names.strip():
        raise UserError(f"{path} names no classes; give it one class name a line, that of class 0 first")
    return [name.strip() for name in names.rstrip().split("\n")]


def distinct(names: Sequence[str]) -> list[str]:
    """The names, those that several classes have with the class's number: in tables each stands for one class."""
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)]


def class_names_file(images: str | Path) -> Path:
    """Where the names of a list's or of a folder's classes are, if anywhere."""
    path = Path(images)
    return (path if path.is_dir() else path.parent) / "classes.txt"


def class_names_beside(images: str | Path) -> list[str] | None:
    """The names in `classes.txt` in the list's folder, or in the folder of shards, or None if there is no such file.

    Of a folder of class folders, the names of these; of one that holds train and val, those of train. Raises UserError.
    """
    parts = split_folders(Path(images))
    if parts:
        return class_names_beside(parts[0])
    if is_class_folder(Path(images)):
        return folder_class_names(Path(images))
    path = class_names_file(images)
    return read_class_names(path) if path.exists() else None


def class_order(trained: Sequence[str] | None, wanted: Sequence[str] | None, file: object) -> list[int] | None:
    """Which of a network's classes is each of the wanted ones; None where they are the same, or names aren't known.

    `trained` are the names in the network's `file`. Raises UserError, with the difference, if the names are others.
    """
    if trained is None or wanted is None or list(trained) == list(wanted):
        return None
    numbers = _numbers(wanted, trained)
    if numbers is not None and len(wanted) == len(trained):
        return numbers
    raise UserError(
        f"{file} was trained with other classes ({_difference(trained, wanted)}). Give the list that belongs to it, or say "
        "--ignore-class-names to take them by their numbers"
    )


def is_part(some: Sequence[str] | None, names: Sequence[str] | None) -> bool:
    """Whether `some` names are among the `names`, which are more: those of images that lack a class."""
    if some is None or names is None:
        return False
    return len(some) < len(names) and _numbers(some, names) is not None


def class_ids(
    classes: Sequence[str] | None, names: Sequence[str] | None, owner: Path, images: Path
) -> list[int] | None:
    """Which of the `classes` of `owner` is each of those that other `images` have `names` for; these may lack some.

    None where they are the same, or names aren't known. Raises UserError, with the difference, if there are other names.
    """
    if classes is None or names is None or list(classes) == list(names):
        return None
    numbers = _numbers(names, classes)
    if numbers is None:
        raise UserError(
            f"{images} has other classes than {owner} ({_difference(classes, names)}). Give images that belong together, or "
            "say --ignore-class-names to take their classes by number"
        )
    return numbers


def _numbers(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """Which of the classes is each of the names; None unless each is one, and no other is called the same."""
    known = {name: number for number, name in enumerate(classes)}
    if len(known) < len(classes) or len(set(names)) < len(names) or not known.keys() >= set(names):
        return None
    return [known[name] for name in names]


def _difference(there: Sequence[str], here: Sequence[str]) -> str:
    """What differs between two lists of names, for people."""
    sides = {
        "only there": [name for name in there if name not in here],
        "only here": [name for name in here if name not in there],
    }
    differences = [
        f"{side}: {', '.join(map(repr, names[:SHOWN]))}{', ...' * (len(names) > SHOWN)}"
        for side, names in sides.items()
        if names
    ]
    return "; ".join(differences) or "a name stands there or here more than once"


def match_classes(
    trained: Sequence[str] | None, wanted: Sequence[str] | None, classes: int, file: object
) -> tuple[list[str], list[int] | None]:
    """A name for each class that is told to people, and which of the network's classes that is (None: the same ones).

    `trained` are the names in the network's `file`, of `classes` classes; `wanted` those that somebody reads the results by.
    A class without a name has its number. Raises UserError as class_order does, and for names of another number.
    """
    for names in (trained, wanted):
        if names is not None and (names is trained or trained is None) and len(names) != classes:
            raise UserError(
                f"{plural(len(names), 'class name')} for the {plural(classes, 'class', 'classes')} of {file}: give the "
                "list or the names that belong to it (--ignore-class-names leaves a list's classes.txt aside)"
            )
    order = class_order(trained, wanted, file)
    return list(wanted or trained or map(str, range(classes))), order
