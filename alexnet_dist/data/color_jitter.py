"""Random brightness, contrast, saturation and hue, one after the other in random order: torchvision's ColorJitter."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

Change = Callable[[Image.Image, float], Image.Image]


def brightness(picture: Image.Image, factor: float) -> Image.Image:
    """0 is black, 1 the picture itself."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """0 is the grey of the picture's mean, 1 the picture itself."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def saturation(picture: Image.Image, factor: float) -> Image.Image:
    """0 is the picture in grey, 1 the picture itself."""
    return ImageEnhance.Color(picture).enhance(factor)


def hue(picture: Image.Image, turn: float) -> Image.Image:
    """Turns every hue by a share of the colour circle, -0.5 to 0.5."""
    h, s, v = picture.convert("HSV").split()
    step = int(turn * 255)  # a hue is a byte
    return Image.merge("HSV", (h.point([(value + step) % 256 for value in range(256)]), s, v)).convert("RGB")


CHANGES: tuple[Change, ...] = (brightness, contrast, saturation, hue)


def color_jitter(picture: Image.Image, strengths: tuple[float, ...], rng: np.random.Generator) -> Image.Image:
    """The RGB picture with other colours; strengths () or those of CHANGES.

    Factors are uniform from 1 - strength (0 at least) to 1 + strength, the turn of the hue from -strength to strength; a
    strength of 0 leaves its part as it is. As many random numbers are drawn whatever the strengths.
    """
    order, shares = rng.permutation(len(CHANGES)), rng.random(len(CHANGES))
    for index in order if strengths else ():
        change, strength = CHANGES[index], strengths[index]
        centre = 0.0 if change is hue else 1.0
        low = -strength if change is hue else max(0.0, 1 - strength)
        if strength > 0:
            picture = change(picture, low + shares[index] * (centre + strength - low))
    return picture
