"""`prepare pack`, `unpack` and `index`: images in tar shards, back in files, and the index of shards made elsewhere.

Shards have WebDataset's layout: of each image two files that follow each other, KEY.jpg or KEY.png with its bytes as they
are, and KEY.cls with its class id in digits. The key is the image's number in the list, of nine digits. Source: "WebDataset
Format", https://github.com/webdataset/webdataset
"""

import os
import shlex
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path, PurePosixPath

from alexnet_dist.data.class_folders import split_folders
from alexnet_dist.data.class_names import class_names_beside, class_names_file
from alexnet_dist.data.decode import ImageError, image_errors, image_format
from alexnet_dist.data.shards import INDEX, IndexWriter, Shards, read_shards, shard_files
from alexnet_dist.data.sources import list_in, open_images
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import StorageError, UserError
from alexnet_dist.support.files import replacing, writing
from alexnet_dist.support.plural import plural
from alexnet_dist.support.tracking import track, tracking

MEGABYTE = 1_000_000
READERS = 8  # threads that read images ahead: on a parallel file system, opening a small file takes long
AHEAD = 64  # images that they read at once


def pack(source: Path, output: Path, shard_megabytes: int = 256, force: bool = False) -> None:
    """Packs the images of a list, in its order, into `output`/000000.tar and so on, of about so many megabytes each.

    The same images give the same bytes. The index is written last: a folder without it holds an unfinished pack. Raises
    UserError for an image that can't be read or is no JPEG or PNG file, if `output` has shards, unless `force`, and for a
    folder that holds train/ and val/, which are two.
    """
    if shard_megabytes < 1:
        raise UserError(f"--shard-size is {shard_megabytes}, but must be at least 1")
    parts = split_folders(source)
    if parts:
        commands = [
            shlex.join(["alexnet-prepare", "pack", str(part), "--output", str(output / part.name)]) for part in parts
        ]
        raise UserError(
            f"{source} holds {' and '.join(part.name for part in parts)}; pack each: {'; and '.join(commands)}"
        )
    source, notes = list_in(source)
    for line in notes:
        print(line)
    names = class_names_beside(source)
    images = open_images(source, len(names) if names else None)
    _make_room(output, force)
    shards: list[str] = []
    index = IndexWriter()
    contents = enumerate(_contents(images))
    for first in contents:  # of the next shard
        shards.append(f"{len(shards):06}.tar")
        with (
            replacing(output / shards[-1]) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for number, content in chain([first], contents):
                label = int(images.labels[number])
                member, offset = _add_image(tar, number, label, content)
                name = b"%s\n%s" % (member.encode(), images.name(number).rpartition(b"\n")[2])
                index.add(label, name, shard=len(shards) - 1, offset=offset, size=len(content))
                if tar.offset >= shard_megabytes * MEGABYTE:
                    break
        print(f"{output / shards[-1]}: {len(index)} of {plural(len(images), 'image')}", flush=True)
    if names:
        with replacing(output / "classes.txt") as temporary:
            temporary.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
    index.write(output, shards)


def unpack(source: Path, output: Path, force: bool = False) -> None:
    """Writes the images of a folder of shards as files, `output`/images.list in their order, and classes.txt.

    An image that was packed from a path relative to its list comes to the same path; others are named after their shards.
    Raises UserError, also if `output` has a list, unless `force`.
    """
    shards = read_shards(source)
    listing = output / "images.list"
    if listing.exists() and not force:
        raise UserError(f"{output} already has images.list; choose another --output, or overwrite with --force")
    lines = []
    for number, content in enumerate(_contents(shards)):
        path = _path_of(shards, number)
        file = output / path
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        lines.append(b"%d %s\n" % (shards.labels[number], os.fsencode(path)))
    if class_names_beside(source):
        _copy(class_names_file(source), output / "classes.txt")
    with replacing(listing) as temporary:
        temporary.write_bytes(b"".join(lines))
    print(f"{listing}: {plural(len(lines), 'image')}")


def write_index(folder: Path) -> None:
    """Writes the index of shards in WebDataset's layout that others have made, from the headers in the tar files.

    Raises UserError for a file that is no tar file, and for an image without class id.
    """
    shards, index = shard_files(folder), IndexWriter()
    if not shards:
        raise UserError(f"{folder} holds no tar files")
    for number, name in enumerate(track(shards, "shards")):
        for member, label in _labelled_images(folder / name):
            index.add(label, os.fsencode(member.name), shard=number, offset=member.offset_data, size=member.size)
    if not len(index):
        raise UserError(f"the tar files in {folder} hold no image: neither KEY.jpg nor KEY.jpeg nor KEY.png")
    index.write(folder, shards)
    print(f"{folder / INDEX}: {plural(len(index), 'image')} in {plural(len(shards), 'shard')}")


def _make_room(output: Path, force: bool) -> None:
    there = [INDEX, *shard_files(output)] if output.exists() else []  # the index first: it goes before what it knows
    there = [name for name in there if (output / name).exists()]
    if there and not force:
        raise UserError(f"{output} already has {there[-1]}; choose another --output, or overwrite with --force")
    for name in there:
        with writing(output / name):
            (output / name).unlink()


def _contents(images: ImageTable) -> Iterator[bytes]:
    """The bytes of each image, in order; shows how far that has come."""
    with tracking("images") as tracker, ThreadPoolExecutor(READERS) as readers:
        for first in range(0, len(images), AHEAD):
            tracker(first, len(images))
            yield from readers.map(partial(_read, images), range(first, min(first + AHEAD, len(images))))


def _read(images: ImageTable, number: int) -> bytes:
    try:
        with image_errors(), images.open(number) as file:
            content = file.read()
            image_format(content)
            return content
    except ImageError as error:
        raise UserError(f"{images.where(number)} {error}; repair it, or take it off the list") from error
    except OSError as error:
        raise StorageError(f"{images.where(number)} can't be read: {error.strerror}; run this again later") from error


def _add_image(tar: tarfile.TarFile, number: int, label: int, content: bytes) -> tuple[str, int]:
    """Adds the two files of an image; the first one's name, and where its content begins."""
    member, offset = f"{number:09}.{image_format(content)}", tar.offset + tarfile.BLOCKSIZE  # after its header
    for name, data in ((member, content), (f"{number:09}.cls", b"%d" % label)):
        info = tarfile.TarInfo(name)  # owner, group and time of change are 0
        info.size = len(data)
        tar.addfile(info, BytesIO(data))
    return member, offset


def _path_of(shards: Shards, number: int) -> str:
    """Where image `number` goes, in the folder that it is unpacked to, and never outside of that."""
    member, _, path = os.fsdecode(shards.name(number)).partition("\n")
    path = path or f"{shards.shard(number).stem}/{member}"
    parts = PurePosixPath(path).parts
    inside = parts and parts[0] != "/" and ".." not in parts and path == path.strip()
    return path if inside else f"{number:09}{PurePosixPath(member).suffix}"


def _labelled_images(shard: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The images of a shard with their class ids. Files of one sample follow each other and have the same key."""
    try:
        with tarfile.open(shard, "r:") as tar:
            key, image, label = "", None, None
            for member in chain(tar, [None]):
                its_key, kind = _key(member.name) if member else ("", "")
                if its_key != key:
                    if image is not None:
                        yield image, _class_id(shard, image, label)
                    key, image, label = its_key, None, None
                if member is None or not member.isreg():
                    continue
                if kind in ("jpg", "jpeg", "png"):
                    image = member
                elif kind == "cls":
                    content = tar.extractfile(member)
                    label = content.read().strip() if content else b""
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{shard} is no whole tar file ({error})") from error


def _key(name: str) -> tuple[str, str]:
    """The key of a file in a shard, and its kind: the base name's first dot divides them."""
    folder, base = os.path.split(name)
    stem, _, kind = base.partition(".")
    return os.path.join(folder, stem), kind.lower()


def _class_id(shard: Path, image: tarfile.TarInfo, label: bytes | None) -> int:
    if label is None or not label.isdigit() or len(label) > 9:
        has = (
            "no class id (KEY.cls)"
            if label is None
            else f"the class id {label[:20].decode(errors='backslashreplace')!r}"
        )
        raise UserError(f"{shard}: {image.name} has {has}; shards need one, in digits, for each image")
    return int(label)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())
