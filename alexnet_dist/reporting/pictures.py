"""Pictures for the page: the filters of the first convolution, and thumbnails of validation images."""

import base64
from collections.abc import Iterable
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_dist.data.decode import open_image
from alexnet_dist.data.sources import SourcePaths, read_sources
from alexnet_dist.data.table import ImageTable
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint

THUMBNAIL = 144  # pixels of the longer side
SCALE, GAP = 4, 1  # each value of a filter becomes 4 x 4 pixels; between filters lies the width of one value


def filters_png(weights: Path) -> tuple[bytes, int]:
    """The filters of the first convolution as a PNG picture, and how many they are. Raises UserError.

    Each is scaled by itself, so that its smallest value is black and its largest is full. The gaps are transparent.
    """
    header, flat = checkpoint.load_weights(weights)
    parameters = parameter_map(header.network)
    first = parameters.specs[0]
    filters = first.to_file(parameters.views(flat)[first.name]).transpose(0, 2, 3, 1)  # K R S C
    count, size = len(filters), filters.shape[1]
    low, high = (edge(filters, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
    pixels = np.rint(255 * (filters - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    columns = ceil(sqrt(2 * count))
    step = size + GAP
    sheet = np.zeros((ceil(count / columns) * step - GAP, min(columns, count) * step - GAP, 4), np.uint8)
    for index, one in enumerate(pixels):
        top, left = index // columns * step, index % columns * step
        sheet[top : top + size, left : left + size] = np.dstack([one, np.full((size, size), 255, np.uint8)])
    picture = Image.fromarray(sheet)
    return _encoded(
        picture.resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST), "PNG"
    ), count


def thumbnails(info: dict[str, Any], titles: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Small JPEGs of a run's validation images, by how its predictions name them, as data URIs; and what is wrong with the
    others. `info` is what run.json holds, which says where the images lie."""
    wanted = list(dict.fromkeys(titles))
    try:
        images = _validation_images(Path(info.get("started_in", ".")), info.get("flags", {})) if wanted else None
    except UserError as error:
        return {}, [str(error)]
    if images is None:
        return {}, []
    places = _places(images, set(wanted))
    found, problems = (
        {},
        [f"{title} is no longer among the validation images" for title in wanted if title not in places],
    )
    for title, index in places.items():
        try:
            found[title] = data_uri(_thumbnail(images, index), "image/jpeg")
        except (UserError, OSError) as error:
            problems.append(f"{images.where(index)} {getattr(error, 'strerror', None) or error}")
    return found, problems


def data_uri(content: bytes, kind: str) -> str:
    """The content as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _validation_images(folder: Path, flags: dict[str, Any]) -> ImageTable:
    """As training has found them, which was started in this folder. Raises UserError."""
    data, val, class_names = (
        folder / flags[name] if flags.get(name) else None for name in ("data", "val", "class_names")
    )
    if data is None:
        raise UserError("the run doesn't say where its images are")
    paths = SourcePaths(
        data,
        val,
        flags.get("val_fraction"),
        class_names,
        flags.get("num_classes"),
        flags.get("ignore_class_names", False),
    )
    return read_sources(paths, flags.get("seed", 0)).val


def _places(images: ImageTable, titles: set[str]) -> dict[str, int]:
    """Where in the list the images with these titles are."""
    places: dict[str, int] = {}
    for index in range(len(images)):
        title = images.title(index).replace(b"\n", rb"\n").decode(errors="backslashreplace")
        if title in titles:
            places.setdefault(title, index)
    return places


def _thumbnail(images: ImageTable, index: int) -> bytes:
    with open_image(lambda: images.open(index)) as picture:
        fitting = [factor for factor in picture.reductions if max(picture.size) >= 2 * THUMBNAIL * factor]
        small = picture.rgb(max(fitting, default=1))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return _encoded(small, "JPEG")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    picture.save(file, kind, quality=82, optimize=True)
    return file.getvalue()
