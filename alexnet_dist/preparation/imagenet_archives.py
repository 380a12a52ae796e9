"""The official archives of ILSVRC2012, read where they lie: nothing is unpacked but the images.

ILSVRC2012_img_train.tar holds a tar a class, n01440764.tar of n01440764_10026.JPEG and so on; ILSVRC2012_img_val.tar
holds ILSVRC2012_val_00000001.JPEG and so on, whose classes are in the devkit, as are the wnids. Source: readme.txt of
ILSVRC2012_devkit_t12.tar.gz.
"""

import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from alexnet_dist.errors import UserError
from alexnet_dist.preparation.imagenet_sources import ImageNet, Original, Part, labels_of, val_parts
from alexnet_dist.preparation.matlab import read_struct_array

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
BLOCK = 512  # bytes; a tar consists of such blocks


@dataclass(frozen=True)
class Devkit:
    """What the devkit says of the images."""

    wnids: list[str]  # of the classes, sorted
    train_images: dict[str, int]  # of each class
    val_labels: list[int]  # of each validation image, in the order of their numbers


def archives(source: Path) -> ImageNet:
    """The three archives in one folder. Raises UserError for those that are missing, cut off or don't belong together."""
    missing = [name for name in (TRAIN, VAL, DEVKIT) if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source} has no {missing[0]}; the three archives {TRAIN}, {VAL} and {DEVKIT} are needed")
    devkit = read_devkit(source / DEVKIT)
    return ImageNet(devkit.wnids, [*_train_parts(source / TRAIN, devkit), *_val_parts(source / VAL, devkit)])


def read_devkit(path: Path) -> Devkit:
    """The classes are the synsets without children; the ground truth counts them by their ILSVRC2012_ID."""
    files = {}
    with _reading(path), tarfile.open(path) as tar:
        for member in tar:
            for name in (META, TRUTH):
                if member.isfile() and f"/{member.name}".endswith(f"/{name}"):
                    files[name] = _extracted(tar, member).read()
    for name in (META, TRUTH):
        if name not in files:
            raise UserError(f"{path} has no {name}")
    try:
        synsets = [synset for synset in read_struct_array(files[META], "synsets") if synset["num_children"] == 0]
        ids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        counts = {str(synset["WNID"]): int(synset["num_train_images"]) for synset in synsets}
    except UserError as error:
        raise UserError(f"{path}: {META} {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the synsets of {META} don't have the fields expected ({error})") from error
    labels = labels_of(sorted(ids.values()))
    val_labels = []
    for number, line in enumerate(files[TRUTH].split(), 1):
        if not line.isdigit() or int(line) not in ids:
            raise UserError(f"{path}: {TRUTH}:{number}: {line.decode(errors='replace')[:20]!r} is no class of {META}")
        val_labels.append(labels[ids[int(line)]])
    return Devkit(sorted(ids.values()), counts, val_labels)


def _train_parts(path: Path, devkit: Devkit) -> list[Part]:
    with _reading(path), tarfile.open(path) as tar:
        inner = {os.path.basename(member.name).removesuffix(".tar"): member for member in members(tar, path)}
    odd = sorted(set(inner) ^ set(devkit.wnids))
    if odd:
        raise UserError(
            f"{path} holds {len(inner)} classes, the devkit names {len(devkit.wnids)}; {odd[0]}, for example, is in one "
            "of them only"
        )

    def read(label: int, wnid: str) -> Iterator[Original]:
        where = f"{path}: {wnid}.tar"
        with (
            _reading(where),
            tarfile.open(path) as outer,
            tarfile.open(fileobj=_extracted(outer, inner[wnid])) as tar,
        ):
            for member in members(tar, where):
                name = os.path.basename(member.name)
                yield _original(tar, member, label, f"train/{wnid}/{name}", f"{where}: {name}")

    return [
        Part("train", f"{wnid}.tar", partial(read, label, wnid), devkit.train_images[wnid])
        for label, wnid in enumerate(devkit.wnids)
    ]


def _val_parts(path: Path, devkit: Devkit) -> list[Part]:
    with _reading(path), tarfile.open(path) as tar:
        images = {os.path.basename(member.name): member for member in members(tar, path)}
    odd = next((name for name in images if not VAL_NAME.fullmatch(name)), None)
    if odd is not None:
        raise UserError(f"{path} holds {odd!r}, which isn't named as a validation image (ILSVRC2012_val_00000001.JPEG)")
    labels = {f"ILSVRC2012_val_{number:08d}.JPEG": label for number, label in enumerate(devkit.val_labels, 1)}
    if set(images) != set(labels):
        raise UserError(
            f"{path} holds {len(images)} images, the devkit has the classes of {len(labels)}; "
            f"{min(set(images) ^ set(labels))}, for example, is in one of them only"
        )

    def read(names: Sequence[str]) -> Iterator[Original]:
        with _reading(path), tarfile.open(path) as tar:
            for name in names:
                label = labels[name]
                target = f"val/{devkit.wnids[label]}/{name}"
                yield _original(tar, images[name], label, target, f"{path}: {name}")

    return val_parts(sorted(images), read)


def _original(tar: tarfile.TarFile, member: tarfile.TarInfo, label: int, target: str, where: str) -> Original:
    def read() -> bytes:
        with _reading(where):
            return _extracted(tar, member).read()

    return Original(label, target, where, read, member.size)


def members(tar: tarfile.TarFile, where: object) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that isn't packed. Raises UserError unless it ends as a tar does.

    Python's tarfile takes a header that is cut off or damaged for the end: then images would be missing, and nothing
    said so.
    """
    end = 0
    for member in tar:
        end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        if member.isfile() and not os.path.basename(member.name).startswith("."):
            yield member
    assert tar.fileobj is not None
    tar.fileobj.seek(end)
    if tar.fileobj.read(BLOCK) not in (bytes(BLOCK), b""):  # b"": some writers leave the mark of the end out
        raise UserError(f"{where} is damaged or cut off at byte {end}; load it again")


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None  # it is a file, not a folder or a link
    return file


@contextmanager
def _reading(where: object) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{where} is damaged or cut off ({error}); load it again") from error
    except OSError as error:
        raise UserError(f"can't read {where}: {error.strerror or error}") from error
