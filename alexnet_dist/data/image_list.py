"""`images.list`: which images there are, and of which class each is.

One image a line, `class_id image_path`, UTF-8. A relative path starts at the list's folder. Blank lines and lines that
begin with `#` are skipped.
"""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.table import FileTable
from alexnet_dist.data.text import BYTE_ORDER_MARK, read_bytes
from alexnet_dist.errors import UserError

MAX_CLASSES = 65536  # without a number of classes to check against, a greater class id is taken for a mistake


@dataclass(frozen=True, eq=False)
class ImageList(FileTable):
    """The images of one list, in its order. `text` is the file, and an image's name its path, as the list has it."""

    lines: NDArray[np.int32]  # line numbers, from 1

    @property
    def root(self) -> Path:
        """As FileTable."""
        return self.source.parent

    def where(self, index: int) -> str:
        """The line that names image `index`, and its path, for messages: `images.list:17: cats/tom.jpg`."""
        # The path's bytes may not be UTF-8, but a message must go into any terminal and log file.
        path = os.fsencode(self.path(index)).decode(errors="backslashreplace")
        return f"{self.source}:{self.lines[index]}: {path}"


def read_image_list(path: str | Path, num_classes: int | None = None) -> ImageList:
    """Reads a list and checks every line, but doesn't look for the images themselves.

    Raises UserError for a list that can't be read or is empty, and, naming the line, for one without a path or with a
    class id that isn't a whole number from 0 to num_classes - 1.
    """
    source = Path(path)
    text = read_bytes(source, "image list")
    labels, lines, starts, ends = array("i"), array("i"), array("q"), array("q")
    start, number = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0, 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].rstrip()
        number += 1
        fields = line.split(None, 1)
        if fields and not fields[0].startswith(b"#"):
            labels.append(_class_id(fields[0], num_classes, source, number, line))
            if len(fields) == 1:
                problem = "has no image path; a line is `class_id image_path`"
                raise UserError(f"{source}:{number}: {_quote(line)} {problem}")
            lines.append(number)
            starts.append(start + len(line) - len(fields[1]))
            ends.append(start + len(line))
        start = end + 1
    if not labels:
        raise UserError(f"{source} names no images; give it a line `class_id image_path` for each image")
    return ImageList(
        source,
        np.frombuffer(text, np.uint8),
        np.array(labels, np.int32),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        np.array(lines, np.int32),
    )


def _class_id(field: bytes, num_classes: int | None, source: Path, number: int, line: bytes) -> int:
    if field.isdigit():  # ASCII digits alone: int() would take 1_000 and +1 as well
        limit = MAX_CLASSES if num_classes is None else num_classes
        if len(field) <= 9 and int(field) < limit:
            return int(field)
        problem = (
            f"class id {field[:20].decode()} is not below {limit}, the number of classes; correct the line, or the number "
            "(--num-classes, the class names)"
        )
    elif field[:1] == b"-" and field[1:].isdigit():
        problem = f"class id {field[:20].decode()} is negative; class ids count from 0"
    else:
        problem = "the class id is not a whole number; a line is `class_id image_path`"
    raise UserError(f"{source}:{number}: {_quote(line)}: {problem}")


def _quote(line: bytes) -> str:
    return repr(line[:80].decode(errors="backslashreplace") + ("..." if len(line) > 80 else ""))
