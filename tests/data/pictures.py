"""Image files for the tests of decoding."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32


def gradient() -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3], smooth, so that JPEG keeps it, and without symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5, y * 7, 40 + x * 2 + y], axis=-1).astype(np.uint8)


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png(
    folder: Path, width: int, height: int, depth: int, color: int, data: bytes, *chunks: tuple[bytes, bytes]
) -> Path:
    """A PNG file put together by hand, for the kinds that Pillow doesn't write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text)) for kind, text in parts
    )
    path = folder / "made.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path
