"""Noisy image files, and what evaluation and training make of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dist.data.augment import MEAN, STD, Augmentation, load_for_evaluation, load_for_training
from alexnet_dist.support.randomness import Purpose, generator

PLAIN = {"flip": False, "color_noise": False}


def noisy(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: waves and noise, all values from 0 to 255."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 80 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * [1, -1, 0.5]
    return np.clip(waves + rng.normal(0, 60, (height, width, 3)), 0, 255).astype(np.uint8)


def saved(folder: Path, width: int, height: int, name: str = "a.png", **options: object) -> Path:
    path = folder / name
    Image.fromarray(noisy(width, height)).save(path, **options)
    return path


def evaluated(path: Path, size: int = 224) -> np.ndarray:
    out = np.full((size, size, 3), np.nan, np.float32)
    load_for_evaluation(path, size, out)
    return out


def trained(path: Path, sample: int = 0, size: int = 224, **options: object) -> np.ndarray:
    out = np.full((size, size, 3), np.nan, np.float32)
    load_for_training(path, Augmentation(size, **options), generator(0, Purpose.AUGMENT, 0, sample), out)
    return out


def to_pixels(row: np.ndarray) -> np.ndarray:
    return (row.astype(np.float64) * STD + MEAN) * 255
