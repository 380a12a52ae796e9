"""What the server answers: the page, POST /predict, GET /health. Everything that goes wrong is {"error": a sentence}."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from alexnet_dist.data.decoded import Decoded, EvaluationPixels
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.explain import Explained
from alexnet_dist.model.predict import most_probable
from alexnet_dist.pictures.heat import colours
from alexnet_dist.predictor import Predictor
from alexnet_dist.serving.guard import Guard
from alexnet_dist.serving.turns import Compute, Full, Turns
from alexnet_dist.serving.uploads import HOW, Limits, Upload, Uploads, busy, prepared

PAGE = Path(__file__).with_name("page")
TOP = 5
MAP_PIXELS = 256  # of a map's longer side: browsers scale it smoothly
EXPLAIN = "grad-cam"  # occlusion takes some 200 images' time, in which the others would wait


@dataclass(frozen=True)
class Model:
    """A network as the server uses it: how to compute, what it is given of an image, its classes, and its name for people."""

    compute: Compute
    pixels: EvaluationPixels
    class_names: list[str]
    name: str


def model_of(net: Predictor, name: str) -> Model:
    """One of our networks."""

    def compute(crops: np.ndarray, maps: bool) -> tuple[np.ndarray, Explained | None]:
        part = Decoded(list(range(len(crops))), crops, {})
        explained = net.explained(part, by=EXPLAIN) if maps else None
        return softmax(explained.logits if explained else net.logits(part)), explained

    return Model(compute, net.pixels(), net.names, name)


@dataclass(frozen=True)
class Settings:
    """How many images are computed at once, how many may wait, how many threads decode, and who may ask."""

    batch: int = 8
    waiting: int = 32
    decoders: int = 2
    loopback: bool = True
    limits: Limits = field(default_factory=Limits)


def create_app(model: Model, settings: Settings) -> Starlette:
    """The ASGI application."""
    service = Service(model, settings)
    return Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/predict", _only_post, methods=["GET", "PUT", "PATCH", "DELETE"]),
            Route("/health", service.health),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Guard, loopback=settings.loopback)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=service.lifespan,
    )


class Service:
    """The network and those who wait for it."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._uploads = Uploads(settings.limits)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """The network computes as long as the server runs."""
        self._turns = Turns(self._model.compute, self._settings.batch, self._settings.waiting)
        self._decoders = ThreadPoolExecutor(self._settings.decoders, thread_name_prefix="decode")
        computing = asyncio.create_task(self._turns.run())
        yield
        computing.cancel()
        with suppress(asyncio.CancelledError):
            await computing
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def health(self, request: Request) -> JSONResponse:
        """That the server answers, and what the page wants to know of it."""
        return JSONResponse(
            {
                "status": "ok",
                "model": self._model.name,
                "classes": len(self._model.class_names),
                "waiting": self._turns.waiting,
                "most_bytes": self._settings.limits.body,
            }
        )

    async def predict(self, request: Request) -> JSONResponse:
        """The most probable classes of the image that is the request's body; with ?explain=grad-cam, what was looked at."""
        top, wants_map = _options(request, len(self._model.class_names))
        body = await self._uploads.read(request)
        start = time.perf_counter()
        try:
            with self._turns.place():
                loop = asyncio.get_running_loop()
                upload = await loop.run_in_executor(self._decoders, prepared, body, self._model.pixels)
                probabilities, explained, index = await self._turns.answer(upload.crop, wants_map)
                drawn = (
                    await loop.run_in_executor(self._decoders, _drawn, explained, index, upload) if explained else {}
                )
        except Full:
            raise busy() from None
        names = self._model.class_names
        predictions = [
            {"class_id": number, "class": names[number], "probability": float(probabilities[number])}
            for number in most_probable(probabilities, top)
        ]
        seconds = round(time.perf_counter() - start, 4)
        size = {"width": upload.width, "height": upload.height}
        return JSONResponse({"predictions": predictions, "seconds": seconds, **size, **drawn})


def _options(request: Request, classes: int) -> tuple[int, bool]:
    """How many classes are wanted, and whether the map is. Raises HTTPException 400."""
    top, explain = request.query_params.get("topk", str(TOP)), request.query_params.get("explain")
    if not (top.isdecimal() and top.isascii() and len(top) < 10 and int(top)):
        raise HTTPException(400, f"topk is {top!r}, but must be a number from 1.")
    if explain not in (None, EXPLAIN):
        raise HTTPException(400, f"explain is {explain!r}, but must be {EXPLAIN} or left out.")
    return min(int(top), classes), explain is not None


def _drawn(explained: Explained, index: int, upload: Upload) -> dict[str, Any]:
    """The map over the whole image as a PNG file to be laid over it, and where it is largest, as shares of both sides; nowhere
    if nothing in the image speaks for the class."""
    scale = MAP_PIXELS / max(upload.width, upload.height)
    width, height = (max(1, round(extent * scale)) for extent in (upload.width, upload.height))
    heat = explained.over(index, width, height, upload.seen)
    file = BytesIO()
    colours(heat).save(file, "PNG")
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    x, y = round((int(column) + 0.5) / width, 3), round((int(row) + 0.5) / height, 3)
    anywhere = bool(heat.any())
    return {
        "map": {
            "by": EXPLAIN,
            "png": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}",
            "x": x if anywhere else None,
            "y": y if anywhere else None,
        }
    }


async def _only_post(request: Request) -> JSONResponse:
    raise HTTPException(405, f"/predict takes POST. {HOW}.", {"Allow": "POST"})


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "The server has failed; its terminal says how."}, 500)
