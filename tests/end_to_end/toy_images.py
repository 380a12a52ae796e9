"""The images that the end-to-end tests train on: three classes that differ in colour and in pattern."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")  # as `prepare folder` sorts them
PER_CLASS = 15


class Pictures:
    """Small images in a folder for each class, and lists of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.files = [
            (label, self._draw(label, number, rng)) for number in range(PER_CLASS) for label in range(len(CLASSES))
        ]

    def _draw(self, label: int, number: int, rng: np.random.Generator) -> Path:
        height, width = rng.integers(60, 100, 2)
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[(np.arange(height) // 8 % (label + 2)) == 0] += 40  # stripes, another distance for each class
        pixels[..., 2 - label] += 120
        path = self.folder / CLASSES[label] / f"image {number}.{'png' if number % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    def lines(self, count: int) -> list[str]:
        """So many lines of a list; the images come again where there are more lines than images."""
        entries = (self.files[index % len(self.files)] for index in range(count))
        return [f"{label} {path}" for label, path in entries]

    def write_lists(self, folder: Path, train: int, val: int) -> Path:
        """train.list and val.list of so many lines; returns the folder."""
        self.write_list(folder / "train.list", train)
        self.write_list(folder / "val.list", val)
        return folder

    def write_list(self, path: Path, count: int) -> Path:
        """A list of so many lines."""
        path.write_text("\n".join(self.lines(count)) + "\n")
        return path
