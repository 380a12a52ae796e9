"""TrivialAugment Wide (Müller and Hutter, arXiv 2103.10158) and RandAugment (Cubuk et al., arXiv 1909.13719): random
operations of one table, with torchvision's ranges of magnitudes and its pixels."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from alexnet_dist.data.color_jitter import brightness, contrast, saturation

POLICIES = ("ta_wide", "ra")
AFFINE_INTERPOLATIONS = ("bilinear", "bicubic", "nearest")  # with which Pillow can turn and shear
LEVELS = 31  # from nothing to the strongest
RA_OPERATIONS = 2  # one after the other; TrivialAugment does one

Operation = Callable[[Image.Image, float, Image.Resampling], Image.Image]  # of a magnitude


def _moved(picture: Image.Image, matrix: tuple[float, ...], interpolation: Image.Resampling) -> Image.Image:
    """`matrix` (a, b, c, d, e, f): the pixel at x, y comes from ax + by + c, dx + ey + f; from outside comes black."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, interpolation)


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda picture, m, how: picture,
    "ShearX": lambda picture, m, how: _moved(picture, (1, m, 0, 0, 1, 0), how),
    "ShearY": lambda picture, m, how: _moved(picture, (1, 0, 0, m, 1, 0), how),
    "TranslateX": lambda picture, m, how: _moved(picture, (1, 0, -int(m), 0, 1, 0), how),
    "TranslateY": lambda picture, m, how: _moved(picture, (1, 0, 0, 0, 1, -int(m)), how),
    "Rotate": lambda picture, m, how: picture.rotate(m, how),
    "Brightness": lambda picture, m, how: brightness(picture, 1 + m),
    "Color": lambda picture, m, how: saturation(picture, 1 + m),
    "Contrast": lambda picture, m, how: contrast(picture, 1 + m),
    "Sharpness": lambda picture, m, how: ImageEnhance.Sharpness(picture).enhance(1 + m),
    "Posterize": lambda picture, m, how: ImageOps.posterize(picture, int(m)),
    "Solarize": lambda picture, m, how: ImageOps.solarize(picture, math.ceil(m)),  # pixels below m are whole numbers
    "AutoContrast": lambda picture, m, how: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, m, how: ImageOps.equalize(picture),
}


@cache
def magnitudes(policy: str, size: int) -> dict[str, tuple[NDArray[np.float64], bool]]:
    """For each operation its LEVELS magnitudes, and whether half of them turn negative; `size` is the picture's."""
    wide = policy == "ta_wide"
    shear, shift, angle, factor, bits = (0.99, 32.0, 135.0, 0.99, 6) if wide else (0.3, 150 / 331 * size, 30.0, 0.9, 4)
    strongest = {
        **dict.fromkeys(("ShearX", "ShearY"), shear),
        **dict.fromkeys(("TranslateX", "TranslateY"), shift),
        "Rotate": angle,
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), factor),
    }
    table = {name: (np.linspace(0, strongest.get(name, 0), LEVELS), name in strongest) for name in OPERATIONS}
    table["Posterize"] = 8 - np.round(np.linspace(0, bits, LEVELS)), False
    table["Solarize"] = np.linspace(255, 0, LEVELS), False
    return table


def auto_augment(
    picture: Image.Image,
    policy: str | None,
    ra_magnitude: int,
    interpolation: Image.Resampling,
    rng: np.random.Generator,
) -> Image.Image:
    """The picture after one operation of a random magnitude ("ta_wide"), after two of level `ra_magnitude` ("ra"), or as
    it is (None). As many random numbers are drawn whatever the policy."""
    which, levels, signs = rng.random((3, RA_OPERATIONS))
    if policy is None:
        return picture
    table = magnitudes(policy, picture.width)
    for step in range(1 if policy == "ta_wide" else RA_OPERATIONS):
        name = list(OPERATIONS)[int(which[step] * len(OPERATIONS))]
        values, signed = table[name]
        value = float(values[int(levels[step] * LEVELS) if policy == "ta_wide" else ra_magnitude])
        picture = OPERATIONS[name](picture, -value if signed and signs[step] < 0.5 else value, interpolation)
    return picture
