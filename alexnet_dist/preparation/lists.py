"""What every format ends in: lists of images and classes.txt, the split of a class, and image files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.support.files import replacing, writing
from alexnet_dist.support.plural import plural
from alexnet_dist.support.randomness import Purpose, generator

Entry = tuple[int, str]  # class id, path of the image; ImageNet has 1.3 million, for which Paths would be too heavy


@dataclass(frozen=True)
class Lists:
    """The lists that a command is about to write into `output`, by the names of their files, and the classes' names."""

    output: Path
    entries: dict[str, list[Entry]]
    classes: Sequence[str]

    def check(self, force: bool) -> None:
        """To be called before anything slow. Raises UserError if `output` has lists of other images, unless forced.

        Lists that are the same already are no obstacle: a command that is repeated changes nothing.
        """
        others = [
            name for name, content in self._contents().items() if _holds_something_else(self.output, name, content)
        ]
        if others and not force:
            raise UserError(
                f"{self.output} already has {', '.join(others)} of other images or classes; choose another --output, "
                "or overwrite with --force"
            )

    def write(self) -> None:
        """Writes them, each at once, and prints what is in them. Paths are relative to `output` where they lie in it."""
        for name, content in self._contents().items():
            with replacing(self.output / name) as temporary:
                temporary.write_bytes(content)
        for name, entries in self.entries.items():
            counts = np.bincount([label for label, _ in entries], minlength=len(self.classes))
            least, most = counts.min(), counts.max()
            each = f"{least if least == most else f'{least} to {most}'} of each of"
            print(
                f"{self.output / name}: {plural(len(entries), 'image')}, {each} {plural(len(self.classes), 'class', 'classes')}"
            )
            empty = [class_name for class_name, count in zip(self.classes, counts, strict=True) if count == 0]
            if empty:
                print(f"  none of {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")

    def _contents(self) -> dict[str, bytes]:
        contents = {name: b"".join(_lines(self.output, entries)) for name, entries in self.entries.items()}
        contents["classes.txt"] = b"".join(os.fsencode(name) + b"\n" for name in self.classes)
        return contents


def _holds_something_else(output: Path, name: str, content: bytes) -> bool:
    path = output / name
    try:
        return path.exists() and path.read_bytes() != content
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def _lines(output: Path, entries: Iterable[Entry]) -> Iterator[bytes]:
    base = os.path.join(output.resolve(), "")
    for label, path in entries:
        name = os.fsencode(os.path.abspath(path).removeprefix(base))
        if b"\n" in name or name != name.strip():
            raise UserError(f"{os.fsdecode(name)!r} begins or ends with white space or holds a line break; rename it")
        yield b"%d %s\n" % (label, name)


def split(entries: Sequence[Entry], fractions: Sequence[float], seed: int) -> list[list[Entry]]:
    """Takes a random share of every class for each fraction. Returns the remaining entries, then the shares, in order.

    A share has at least one image of a class, unless that would leave none to the remaining entries.
    """
    rng = generator(seed, Purpose.HOLD_OUT)
    labels = np.array([label for label, _ in entries])
    part = np.zeros(len(entries), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        start = 0
        for number, fraction in enumerate(fractions, 1):
            count = min(max(round(fraction * len(members)), 1), len(members) - 1 - start)
            part[members[start : start + count]] = number
            start += count
    return [
        [entry for entry, part_of_entry in zip(entries, part, strict=True) if part_of_entry == number]
        for number in range(len(fractions) + 1)
    ]


def write_png(path: str, image: Image.Image) -> None:
    """Writes the file unless it is there already, and with the same bytes. Raises UserError."""
    content = BytesIO()
    image.save(content, "PNG")
    with writing(Path(path)), suppress(FileNotFoundError), open(path, "rb") as file:
        if file.read() == content.getvalue():
            return
    put(path, content.getvalue())


def put(path: str, content: bytes) -> None:
    """Writes the file beside its name, then renames it: it is whole or absent, whenever the process is killed.

    What a killed process has left beside it, the next one overwrites and renames. Nothing is flushed to the disk, which
    for a million small files would take longer than everything else. Raises UserError.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    with writing(Path(path)):
        try:
            try:
                _write(temporary, content)
            except FileNotFoundError:  # the folder: asking for each image whether it is there would cost more
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _write(temporary, content)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
