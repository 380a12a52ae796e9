"""`prepare imagenet`: ILSVRC2012 from its archives or a tree of folders to lists, on any number of ranks.

What is done is kept in the files themselves: an image that is there is whole, because it was renamed into its place. So
a run that was interrupted, on however many ranks, goes on with what is missing.

imagenet_classes.txt has the wnid and the name of each of the 1000 classes, in torchvision's order, which is that of the
sorted wnids. Sources: the wnids are those of ILSVRC2012, synsets of WordNet 3.0, as timm 1.0.31 lists them
(timm/data/_info/imagenet_synsets.txt); the names are torchvision's (0.29.1, torchvision/models/_meta.py): each synset's
first word in WordNet, but for two that would be there twice, "crane bird" and "maillot tank suit".
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from PIL import Image

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.decode import ImageError, open_image
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.imagenet_archives import DEVKIT, TRAIN, VAL, archives
from alexnet_dist.preparation.imagenet_sources import ImageNet, Original, Part, kaggle_tree, torchvision_tree
from alexnet_dist.preparation.lists import Entry, Lists, put
from alexnet_dist.support.files import write_text, writing
from alexnet_dist.support.plural import plural
from alexnet_dist.support.tracking import track

JPEG_QUALITY = 95
SETTINGS = "imagenet.json"  # in the output: how its images were made
CHALLENGE = {"train": 1_281_167, "val": 50_000}  # images of ILSVRC2012; source: the devkit's readme.txt


@dataclass(frozen=True)
class Result:
    """What has become of one part."""

    number: int
    entries: list[Entry]
    notes: list[str]  # images that can't be used, and counts that aren't as expected


def prepare_imagenet(source: Path, output: Path, ranks: Ranks, size: int | None = None, force: bool = False) -> None:
    """Collective: writes images.list (training), val.list and classes.txt, and the images, into train/ and val/.

    With `size`, images whose short side is longer are shrunk to it (bilinear, antialiased, as torchvision's Resize; JPEG
    of JPEG_QUALITY) and decoded for that: one that can't be is named and left out. Without, files of a tree stay where
    they are. Each rank does some parts; the result doesn't depend on their number. Raises SharedError.
    """
    with ranks.shared_errors():
        if size is not None and size < 1:
            raise UserError(f"--size must be at least 1 pixel, not {size}")
        imagenet = open_imagenet(source)
        if ranks.rank == 0:
            claim(output, source, {"short side": size, "JPEG quality": JPEG_QUALITY if size else None}, force)
    with ranks.shared_errors():
        numbers = range(ranks.rank, len(imagenet.parts), ranks.size)
        results = [
            do_part(number, imagenet.parts[number], output, size)
            for number in track(numbers, "parts of the images", shown=ranks.rank == 0)
        ]
    texts = ranks.all_texts([json.dumps(vars(result)) for result in results])
    with ranks.shared_errors():
        if ranks.rank == 0:
            finish(imagenet, output, sorted((Result(**json.loads(text)) for text in texts), key=lambda r: r.number))


def open_imagenet(source: Path) -> ImageNet:
    """What is in the folder `source`: the archives, Kaggle's tree or torchvision's. Raises UserError."""
    if any((source / name).exists() for name in (TRAIN, VAL, DEVKIT)):
        return archives(source)
    if (source / "ILSVRC").is_dir():
        return kaggle_tree(source)
    if (source / "train").is_dir() and (source / "val").is_dir():
        return torchvision_tree(source)
    raise UserError(
        f"{source} isn't ImageNet in a known layout. It must hold the archives {TRAIN}, {VAL} and {DEVKIT}; or train/ and "
        "val/ with a folder n01440764 a class; or ILSVRC/Data/CLS-LOC/ with LOC_synset_mapping.txt and "
        "LOC_val_solution.csv beside ILSVRC/"
    )


def claim(output: Path, source: Path, settings: dict[str, int | None], force: bool) -> None:
    """Marks `output` as ours, with the settings and the source.

    Raises UserError if its images have other settings, or, unless `force`, if they are from another source or its lists
    aren't ours.
    """
    mark = output / SETTINGS
    wanted = {**settings, "source": str(source.resolve())}
    if mark.exists():
        before = _settings(mark)
        if {**before, "source": None} != {**wanted, "source": None}:
            raise UserError(
                f"{output} was prepared with other settings ({json.dumps(before)}); choose another --output, or delete it"
            )
        if before != wanted and not force:
            raise UserError(
                f"{output} was prepared from {before.get('source', 'elsewhere')}, not from {wanted['source']}; choose another "
                "--output, or say --force if both hold the same images: those that are there are kept"
            )
        if before == wanted:
            return
    existing = [name for name in ("images.list", "val.list", "classes.txt") if (output / name).exists()]
    if existing and not force:
        raise UserError(
            f"{output} already has {', '.join(existing)} of other images; choose another --output, or overwrite with "
            "--force"
        )
    write_text(mark, json.dumps(wanted) + "\n")


def _settings(mark: Path) -> dict[str, object]:
    """What a mark says. Raises UserError if it can't be read."""
    try:
        return dict(json.loads(mark.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{mark} can't be read ({error}); choose another --output, or delete it") from error


def do_part(number: int, part: Part, output: Path, size: int | None) -> Result:
    """Puts each image of a part in its place. Raises UserError if the source is damaged or the output can't be written."""
    entries, notes = [], []
    for original in part.images():
        try:
            entries.append((original.label, place(original, output, size)))
        except ImageError as error:
            notes.append(f"{original.where} {error}: left out")
    found = len(entries) + len(notes)
    if part.expected is not None and found != part.expected:
        notes.append(f"{part.name} holds {plural(found, 'image')}; {part.expected} were expected")
    return Result(number, sorted(entries, key=lambda entry: entry[1]), notes)


def place(original: Original, output: Path, size: int | None) -> str:
    """Where the image lies in the end. Writes it unless it is there; raises ImageError, UserError."""
    if size is None and original.path is not None:
        return original.path
    target = os.path.join(output, original.target)
    there = 0
    with writing(Path(target)), suppress(FileNotFoundError):
        there = os.stat(target).st_size
    if there == 0 or (size is None and there != original.size):
        content = original.read()
        put(target, content if size is None else shrunk(content, size))
    return target


def shrunk(content: bytes, size: int) -> bytes:
    """A JPEG whose short side is `size` pixels; the file itself if it is no longer than that. Raises ImageError."""
    with open_image(lambda: BytesIO(content)) as picture:
        short = min(picture.size)
        # A JPEG's decoder may shrink by itself what stays twice as large as needed: faster, and hardly to be seen.
        reduction = next((factor for factor in picture.reductions if short >= 2 * factor * size), 1)
        width, height = picture.size
        rgb = picture.rgb(reduction)
    if short <= size:
        return content
    # torchvision's Resize rounds down, too.
    shape = (size, size * height // width) if width <= height else (size * width // height, size)
    file = BytesIO()
    rgb.resize(shape, Image.Resampling.BILINEAR).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def finish(imagenet: ImageNet, output: Path, results: Sequence[Result]) -> None:
    """Writes the lists, prints what is in them and what isn't as it should be. Raises UserError for a list without images."""
    entries: dict[str, list[Entry]] = {"train": [], "val": []}
    for result in results:
        entries[imagenet.parts[result.number].kind] += [(label, path) for label, path in result.entries]
    names = class_names()
    for kind, found in entries.items():
        if not found:
            raise UserError(f"no {kind} images were found; nothing was listed")
    lists = {"images.list": entries["train"], "val.list": entries["val"]}
    Lists(output, lists, [names.get(wnid, wnid) for wnid in imagenet.wnids]).write()
    notes = [note for result in results for note in result.notes]
    if list(imagenet.wnids) == list(names):
        for kind, found in entries.items():
            if len(found) != CHALLENGE[kind]:
                notes.append(f"{len(found)} {kind} images are listed; ILSVRC2012 has {CHALLENGE[kind]}")
    for note in notes:
        print(f"  attention: {note}")


def class_names() -> dict[str, str]:
    """The names of ILSVRC2012's 1000 classes by their wnids, in the order of their class ids."""
    text = files("alexnet_dist.preparation").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())
