"""A map of what speaks for a class, in colours: alone with transparency, or over its picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From little to much. Lightness grows along it, so that it can be read without seeing colours.
POSITIONS = (0.0, 0.35, 0.7, 1.0)
COLOURS = np.array(((45, 10, 95), (170, 35, 105), (245, 140, 40), (255, 240, 130)), np.float64)
OPACITY = 0.75  # where the map is 1


def colours(heat: NDArray[np.float32]) -> Image.Image:
    """A map [H, W] in [0, 1] as an RGBA picture: where it is 0 one sees through it."""
    channels = [np.interp(heat, POSITIONS, colour) for colour in COLOURS.T]
    alpha = np.sqrt(heat) * (255 * OPACITY)
    return Image.fromarray(np.rint(np.stack([*channels, alpha], axis=-1)).astype(np.uint8), "RGBA")


def overlaid(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in RGB under its map [height, width] in [0, 1]; in grey, so that colours are the map's."""
    return Image.alpha_composite(picture.convert("L").convert("RGBA"), colours(heat)).convert("RGB")
