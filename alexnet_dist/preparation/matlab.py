"""Reads struct arrays from MATLAB's files of version 5 to 7, for meta.mat of ILSVRC2012's devkit: SciPy isn't needed.

Source: MathWorks, "MAT-File Format", version 5: a header of 128 bytes, then elements of a tag (type, bytes) and data that
fill up to eight bytes; small elements have tag and data in eight bytes; an element may be a compressed other one.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alexnet_dist.errors import UserError

# Types of elements
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Classes of arrays
CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5


def read_struct_array(content: bytes, name: str) -> list[dict[str, Any]]:
    """The elements of the struct array `name`, each a dict of its fields: text, a number, or an array.

    Raises UserError if the file is damaged, of another version or has no such array.
    """
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise UserError("is no MATLAB file of version 5 to 7")
    reader = _Reader("<" if content[126:128] == b"IM" else ">")
    try:
        for kind, data in reader.elements(content[128:]):
            if kind == COMPRESSED:
                kind, data = next(reader.elements(zlib.decompress(data)), (0, b""))
            if kind == MATRIX:
                found, value = reader.matrix(data)
                if found == name and isinstance(value, list):
                    return value
    except (
        struct.error,
        zlib.error,
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        StopIteration,
        OverflowError,
    ) as error:
        raise UserError(f"is damaged, or holds what isn't understood here ({error})") from error
    raise UserError(f"has no struct array {name!r}")


@dataclass(frozen=True)
class _Reader:
    order: Literal["<", ">"]  # of bytes, as in struct and NumPy

    def elements(self, data: bytes) -> Any:
        """The type and the data of each element, one after the other."""
        at = 0
        while at < len(data):
            kind, size = struct.unpack_from(f"{self.order}II", data, at)
            start = at + 8
            if kind >> 16:  # a small element: its size is in the upper half, its data follow at once
                kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if start + size > len(data):
                raise ValueError("it ends too early")
            yield kind, data[start : start + size]
            end = start + size
            at = end if kind == COMPRESSED else end + -end % 8

    def matrix(self, data: bytes) -> tuple[str, Any]:
        """Name and value of an array: a list of dicts, text, a number or an array of numbers."""
        if not data:
            return "", np.zeros((0, 0))
        elements = self.elements(data)
        flags, shape = (self.numbers(*next(elements)) for _ in range(2))
        kind, name = int(flags[0]) & 0xFF, next(elements)[1].decode()
        if kind == STRUCT:
            return name, self.structs(elements, int(np.prod(shape)))
        if kind in (CELL, OBJECT, SPARSE):
            return name, None
        content = next(elements, None)
        if kind == CHAR:
            return name, self.text(*content) if content else ""
        values = self.numbers(*content) if content else np.zeros(0)
        return name, values[0].item() if values.size == 1 else values.reshape(shape, order="F")

    def structs(self, elements: Any, count: int) -> list[dict[str, Any]]:
        """Field by field of the first struct, then of the next, each an array of its own."""
        length, names = self.numbers(*next(elements)), next(elements)[1]
        width = int(length[0])
        fields = [names[at : at + width].split(b"\0")[0].decode() for at in range(0, len(names), width)]
        if not fields:
            raise ValueError("its structs have no fields")
        return [{field: self.matrix(next(elements)[1])[1] for field in fields} for _ in range(count)]

    def numbers(self, kind: int, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.dtype(NUMBERS[kind]).newbyteorder(self.order))

    def text(self, kind: int, data: bytes) -> str:
        if kind in TEXTS:
            suffix = {"<": "-le", ">": "-be"}[self.order] if kind != 16 else ""
            return data.decode(TEXTS[kind] + suffix)
        return "".join(map(chr, self.numbers(kind, data).tolist()))
