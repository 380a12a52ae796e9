"""An image from a request's body to what the network is given, and what is wrong with it in words."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from alexnet_dist.data.augment import seen
from alexnet_dist.data.decode import MAX_PIXELS, ImageError, TooManyPixels, decode, image_format
from alexnet_dist.data.decoded import EvaluationPixels

READ_ON = 8  # times the limit: so much of a body is read before its connection is closed
HOW = "Send the bytes of one JPEG or PNG file as the body: curl --data-binary @photo.jpg"


@dataclass(frozen=True)
class Limits:
    """What a request may be: bytes of its body, seconds in which it must come, and how many may come at once."""

    body: int = 16_000_000
    seconds: float = 20.0
    uploads: int = 32


@dataclass(frozen=True, eq=False)
class Upload:
    """An image's crop [S, S, 3], its width and height in pixels, and the crop's edges as shares of them."""

    crop: np.ndarray
    width: int
    height: int
    seen: tuple[float, float, float, float]


class Uploads:
    """Reads bodies, so many at once and no more."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._coming = 0

    async def read(self, request: Request) -> bytes:
        """A request's body. Raises HTTPException: 413 if it is too large, 408 if it comes too slowly, 503 if too many come."""
        most = self.limits.body
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most and "expect" in request.headers:
            raise _too_large(most)  # it waits for our word before it sends
        body, count = bytearray(), 0
        with self._one():
            try:
                async with asyncio.timeout(self.limits.seconds):
                    async for part in request.stream():
                        count += len(part)
                        # Of what is too large the rest is read, too: most clients only listen when they have sent it.
                        if count <= most:
                            body += part
                        elif count > READ_ON * most:
                            break
            except TimeoutError:
                text = f"The image had not arrived after {self.limits.seconds:g} seconds. Try a smaller one."
                raise HTTPException(408, text, {"Connection": "close"}) from None
            except ClientDisconnect:
                raise HTTPException(400, "The image has not arrived.") from None
        if count > most:
            raise _too_large(most)
        return bytes(body)

    @contextmanager
    def _one(self) -> Iterator[None]:
        if self._coming >= self.limits.uploads:
            raise busy()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1


def prepared(body: bytes, pixels: EvaluationPixels) -> Upload:
    """What the network is given of an image. Raises HTTPException: 415 for other formats, 413 for too many pixels, 400 for a
    damaged image."""
    if not body:
        raise HTTPException(400, f"There is no image in the request. {HOW}.")
    try:
        image_format(body[:8])
    except ImageError as error:
        raise HTTPException(415, f"What came {error}. {HOW}.") from error
    try:
        picture = decode(lambda: BytesIO(body))
        crop = np.empty(pixels.shape, np.float32)
        pixels.load(picture, crop)
    except TooManyPixels as error:
        raise HTTPException(413, f"The image {error}.") from error
    except ImageError as error:
        raise HTTPException(400, f"The image {error}.") from error
    except MemoryError as error:
        raise HTTPException(413, f"There is no memory for the image. Up to {MAX_PIXELS} pixels may be.") from error
    return Upload(crop, *picture.size, seen(*picture.size, pixels.size))


def busy() -> HTTPException:
    """That others come first."""
    return HTTPException(503, "Too many images are waiting. Try again in a second.", {"Retry-After": "1"})


def _too_large(most: int) -> HTTPException:
    text = f"The image is larger than {most / 1e6:g} MB. Make it smaller, or see alexnet-serve --max-megabytes."
    return HTTPException(413, text, {"Connection": "close"})
