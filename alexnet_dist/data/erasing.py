"""Random erasing (Zhong et al., arXiv 1708.04896), with the ranges of torchvision's RandomErasing."""

import math

import numpy as np
from numpy.typing import NDArray

AREA_SHARES = (0.02, 0.33)
ASPECT_RATIOS = (0.3, 3.3)  # of height to width
TRIES = 10


def erase_(out: NDArray[np.float32], probability: float, rng: np.random.Generator) -> None:
    """With this probability, sets a random rectangle of the normalised image [H, W, 3] to 0, which is MEAN's colour."""
    if rng.random() >= probability:
        return
    height, width, _ = out.shape
    top, left, bottom, right = rectangle(height, width, rng)
    out[top:bottom, left:right] = 0


def rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a rectangle of random area and shape that fits in; after ten that don't, of none."""
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(TRIES):
        area = height * width * rng.uniform(*AREA_SHARES)
        ratio = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return top, left, top + h, left + w
    return 0, 0, 0, 0
