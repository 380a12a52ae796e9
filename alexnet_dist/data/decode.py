"""Decodes JPEG and PNG files of every kind to upright 8-bit RGB.

Whatever is wrong with a file raises ImageError. What is wrong with the system that it is read from or decoded on is an
OSError or a MemoryError as it came: the image may be fine, and storage.py says what to do then.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL import ImageFile as PillowFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from alexnet_dist.data.storage import NotAFile, is_of_the_file, open_regular
from alexnet_dist.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # of file names, in lower case
MAX_PIXELS = 100_000_000  # 400 MB once decoded; a PNG of some kilobytes can claim gigabytes
LISTED = 100  # so many images that can't be used are named to people; a list may be wrong from end to end

_UPRIGHT = {  # EXIF orientation -> what turns the picture upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112

# Cameras write broken EXIF blocks, and ImageNet holds some; their pixels are fine. Pillow reads EXIF with its TIFF
# plugin, which would warn on every rank.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


# A path, a function that opens the file, or a picture that Pillow has opened or made already (of any format).
ImageFile = str | Path | Callable[[], BinaryIO] | Image.Image


class ImageError(UserError):
    """An image that can't be used. The text continues a sentence that begins with the image's path: `is truncated`."""


class TooManyPixels(ImageError):
    """An image that may be whole, but is greater than MAX_PIXELS."""


class Picture:
    """An open image whose header has been read. `open_image` makes it."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._orientation = _orientation(image)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, of the upright picture."""
        width, height = self._image.size
        return (height, width) if self._orientation >= 5 else (width, height)

    @property
    def reductions(self) -> tuple[int, ...]:
        """The factors by which `rgb` can shrink the picture while it decodes, largest first; 1 is always possible."""
        if not isinstance(self._image, JpegImageFile):
            return ()
        # Rounding up adds a column at the right and a row at the bottom, which would shift a picture that is rotated.
        width, height = self.size
        return tuple(k for k in (8, 4, 2) if self._orientation == 1 or width % k == height % k == 0)

    def rgb(self, reduction: int = 1) -> Image.Image:
        """The upright picture in RGB. To be called once.

        With one of `reductions`, width and height are divided by it and rounded up. That is several times faster, and
        the pixels differ a little from those of shrinking afterwards. Raises ImageError.
        """
        with image_errors():
            if reduction > 1:
                width, height = self._image.size
                self._image.draft(None, (width // reduction, height // reduction))
            self._image.load()
            rgb = _to_rgb(self._image)
            if self._orientation == 1:
                return rgb
            upright = rgb.transpose(_UPRIGHT[self._orientation])
            upright.info = {}  # or it would be turned again when it is decoded again
            return upright


@contextmanager
def open_image(image: ImageFile) -> Iterator[Picture]:
    """Opens a JPEG or PNG file, and closes it at the end of the block.

    Raises ImageError if the file is missing, unreadable, damaged, of another format or greater than MAX_PIXELS.
    """
    with ExitStack() as stack:
        with image_errors():
            opened = image if isinstance(image, Image.Image) else _open(stack.enter_context(_opened(image)))
            picture = Picture(opened)
        yield picture


def decode(image: ImageFile) -> Image.Image:
    """The upright picture of a JPEG or PNG file, or of Pillow's, in RGB. Transparent pixels lie on white. Raises ImageError."""
    with open_image(image) as picture:
        return picture.rgb()


def image_format(content: bytes) -> str:
    """`jpg` or `png`, from the first 8 bytes of a file. Raises ImageError."""
    if content.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    raise ImageError("is not a JPEG or PNG image" if content else "is empty (0 bytes)")


def _opened(image: str | Path | Callable[[], BinaryIO]) -> BinaryIO:
    return image() if callable(image) else open_regular(image)


def _open(file: BinaryIO) -> PillowFile.ImageFile:
    # The two formats' own classes, not Image.open: its limit on pixels is a global one, warns through the process-wide
    # `warnings`, and raises only beyond twice the limit. A JPEG with further pictures in it (MPO) yields its first.
    kind = image_format(file.read(8))
    file.seek(0)
    # Read at once, and given to the decoder in one piece: Pillow's small reads take a fifth of the decoding's time.
    content = file.read()
    image = JpegImageFile(BytesIO(content)) if kind == "jpg" else PngImageFile(BytesIO(content))
    image.decodermaxblock = max(len(content), 1)
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise TooManyPixels(f"has {pixels} pixels, more than {MAX_PIXELS}; make it smaller")
    if isinstance(image, PngImageFile):
        image.load()  # a PNG may store its orientation after its pixels
    return image


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block is no reason to reject the picture
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits: what Pillow does to 16-bit colours. Its convert() would clip grey at 255 instead."""
    grey = np.asarray(image)
    pixels = (grey.clip(0, 0xFFFF) >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        pixels[grey == transparent] = 255
    return Image.fromarray(pixels)


@contextmanager
def image_errors() -> Iterator[None]:
    """Turns every exception that says something of an image into an ImageError. On damaged files, Pillow raises nearly
    every kind, even SyntaxError, and OSErrors without a number."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not is_of_the_file(error):
            raise
        raise ImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "is missing"
        case NotAFile():
            return str(error.strerror)
        case OSError(errno=int()):
            return f"can't be read: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return "is truncated" if "truncated" in text.lower() else f"is damaged ({text[:100]})"
