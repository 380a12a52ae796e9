"""Where ImageNet (ILSVRC2012) comes from, made alike: its classes, and parts of images that any rank may take.

Trees of folders are here, in torchvision's layout and in Kaggle's; the official archives in imagenet_archives.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from alexnet_dist.data.decode import IMAGE_SUFFIXES, ImageError
from alexnet_dist.errors import UserError

WNID = re.compile(r"n\d{8}")  # the number of a synset (a noun) in WordNet 3.0
VAL_PART = 200  # validation images in a part, where they lie in one folder or archive


@dataclass(frozen=True)
class Original:
    """An image of the source."""

    label: int
    target: str  # where it belongs below the output, in torchvision's layout: train/n01440764/n01440764_10026.JPEG
    where: str  # for messages
    read: Callable[[], bytes]  # raises ImageError, or UserError if the whole source is damaged
    size: int | None = None  # bytes, where that is known
    path: str | None = None  # its file, where it is one


@dataclass(frozen=True)
class Part:
    """Images of one kind that one rank does, one after the other."""

    kind: str  # "train" or "val"
    name: str  # for messages
    images: Callable[[], Iterator[Original]]
    expected: int | None = None  # how many there are to be, where the source says it


@dataclass(frozen=True)
class ImageNet:
    """A source. Class ids are places in the sorted wnids, as torchvision numbers them."""

    wnids: Sequence[str]
    parts: Sequence[Part] = field(repr=False)

    @property
    def labels(self) -> dict[str, int]:
        """The class id of each wnid."""
        return labels_of(self.wnids)


def labels_of(wnids: Sequence[str]) -> dict[str, int]:
    """The class id of each wnid."""
    return {wnid: label for label, wnid in enumerate(wnids)}


def torchvision_tree(source: Path) -> ImageNet:
    """train/n01440764/*.JPEG and so on, val/n01440764/*.JPEG. Raises UserError."""
    wnids = wnid_folders(source / "train")
    others = sorted(set(wnid_folders(source / "val")) ^ set(wnids))
    if others:
        raise UserError(f"{source}: the folder {others[0]} is in one of train/ and val/ only; both need all classes")
    return ImageNet(wnids, [*class_parts(source, "train", wnids), *class_parts(source, "val", wnids)])


def kaggle_tree(source: Path) -> ImageNet:
    """ILSVRC/Data/CLS-LOC/{train,val}, with LOC_synset_mapping.txt and LOC_val_solution.csv beside. Raises UserError."""
    images = source / "ILSVRC/Data/CLS-LOC"
    mapping, solution = source / "LOC_synset_mapping.txt", source / "LOC_val_solution.csv"
    wnids = sorted(line.split()[0] for line in _text(mapping).splitlines() if line.strip())
    others = sorted(set(wnid_folders(images / "train")) ^ set(wnids))
    if others:
        raise UserError(f"{others[0]} is in one of {mapping} and {images}/train only; both need all classes")
    truth = read_solution(solution, labels_of(wnids))
    files = {name: str(images / "val" / f"{name}.JPEG") for name in sorted(truth)}
    there = {name.removesuffix(".JPEG") for name in _listed(images / "val") if name.endswith(".JPEG")}
    odd = sorted(there ^ set(truth))
    if odd:
        raise UserError(
            f"{images}/val has {len(there)} images, {solution} {len(truth)}; {odd[0]}, for example, is in one of them only"
        )

    def read(names: Sequence[str]) -> Iterator[Original]:
        for name in names:
            yield from_file(truth[name], f"val/{wnids[truth[name]]}/{name}.JPEG", files[name])

    return ImageNet(wnids, [*class_parts(images, "train", wnids), *val_parts(sorted(truth), read)])


def val_parts(names: Sequence[str], read: Callable[[Sequence[str]], Iterator[Original]]) -> list[Part]:
    """Validation images that don't lie in a folder a class: some of them a part."""
    starts = range(0, len(names), VAL_PART)
    shares = [names[start : start + VAL_PART] for start in starts]
    return [Part("val", f"val, from {names[0]}", partial(read, names), len(names)) for names in shares]


def class_parts(source: Path, kind: str, wnids: Sequence[str]) -> list[Part]:
    """Images in source/kind/wnid/: a class a part."""

    def read(label: int, wnid: str) -> Iterator[Original]:
        folder = source / kind / wnid
        for name in _listed(folder):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield from_file(label, f"{kind}/{wnid}/{name}", str(folder / name))

    return [Part(kind, f"{kind}/{wnid}", partial(read, label, wnid)) for label, wnid in enumerate(wnids)]


def from_file(label: int, target: str, path: str) -> Original:
    """An image that is a file by itself."""

    def read() -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ImageError(f"can't be read: {error.strerror}") from error

    return Original(label, target, path, read, path=path)


def wnid_folders(folder: Path) -> list[str]:
    """The sorted names of the class folders. Raises UserError where there are none, or others among them."""
    names = [name for name in _listed(folder) if not name.startswith(".") and (folder / name).is_dir()]
    odd = [name for name in names if not WNID.fullmatch(name)]
    if odd:
        raise UserError(f"{folder} has the folder {odd[0]!r}, which is no class of ImageNet (such as n01440764)")
    if not names:
        raise UserError(f"{folder} holds no class folders (such as n01440764)")
    return names


def read_solution(path: Path, labels: Mapping[str, int]) -> dict[str, int]:
    """The class id of each validation image, from lines `ILSVRC2012_val_00000001,n01751748 x y x y ...`."""
    truth = {}
    for number, row in enumerate(csv.reader(_text(path).splitlines()), 1):
        if number == 1 and row[:1] == ["ImageId"]:
            continue
        fields = row[1].split() if len(row) > 1 else []
        if not fields or fields[0] not in labels:
            raise UserError(f"{path}:{number}: {','.join(row)[:60]!r} names no class of LOC_synset_mapping.txt")
        truth[row[0]] = labels[fields[0]]
    if not truth:
        raise UserError(f"{path} names no images")
    return truth


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"can't look into the folder {folder}: {error.strerror}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
