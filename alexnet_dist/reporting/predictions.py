"""What the best weights of a run say of its validation images: read from predictions.csv, counted class by class."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.data.class_names import distinct
from alexnet_dist.errors import UserError

FILE = "predictions.csv"


@dataclass(frozen=True)
class Predicted:
    """One image: how results name it, the name of its class, and the most probable classes, best first."""

    image: str
    label: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether it is taken for what it is."""
        return self.classes[0] == self.label


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many images of each class [row] are taken for each class [column]."""

    names: list[str]
    counts: NDArray[np.int64]

    def classes(self) -> list[dict[str, object]]:
        """A row for each class: its images, and the shares that are recognised (accuracy) and rightly named (precision).

        The worst class comes first. A share of nothing is None.
        """
        right, images, taken = np.diag(self.counts), self.counts.sum(1), self.counts.sum(0)
        rows: list[dict[str, object]] = [
            {
                "class": name,
                "images": int(images[index]),
                "correct": int(right[index]),
                "accuracy": _share(right[index], images[index]),
                "precision": _share(right[index], taken[index]),
            }
            for index, name in enumerate(self.names)
        ]
        worst_first = np.argsort(right / np.maximum(images, 1) + (images == 0), kind="stable")
        return [rows[index] for index in worst_first]

    def pairs(self, most: int) -> list[dict[str, object]]:
        """The pairs of classes that are taken for each other most often, one way, with the share of the class's images."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        images = self.counts.sum(1)
        return [
            {
                "class": self.names[row],
                "taken for": self.names[column],
                "images": int(wrong[row, column]),
                "share": _share(wrong[row, column], images[row]),
            }
            for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
            if wrong[row, column]
        ]

    def reduced(self, most: int) -> "Confusion":
        """The classes that have the most to do with mistakes, at most so many; all, where they are no more."""
        if len(self.names) <= most:
            return self
        wrong = self.counts - np.diag(np.diag(self.counts))
        chosen = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:most])
        return Confusion([self.names[index] for index in chosen], self.counts[np.ix_(chosen, chosen)])


def read_predictions(file: Path) -> list[Predicted]:
    """The rows of a run's predictions.csv; none where there is no such file. Raises UserError for another kind of file."""
    try:
        with open(file, encoding="utf-8", newline="") as text:
            header, *rows = csv.reader(text)
        k = (len(header) - 2) // 2
        if header[:3] != ["image", "class", "predicted_1"]:
            raise ValueError("its columns are others")
        if any(len(row) < 2 + 2 * k for row in rows):
            raise ValueError("a row lacks columns")
        return [
            Predicted(image, label, tuple(rest[0 : 2 * k : 2]), tuple(float(value) for value in rest[1 : 2 * k : 2]))
            for image, label, *rest in rows
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{file} can't be read as predictions ({error}); alexnet-evaluate --predictions writes it anew"
        ) from error


def confusion(predictions: Sequence[Predicted], names: Sequence[str] | None) -> Confusion:
    """The counts of all predictions. Without `names`, the classes are those that occur, numbers in their order."""
    occurring = {name for one in predictions for name in (one.label, one.classes[0])}
    names = None if names is None else distinct(names)
    if names is None or not occurring <= set(names):
        names = sorted(occurring, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    for one in predictions:
        counts[place[one.label], place[one.classes[0]]] += 1
    return Confusion(list(names), counts)


def best_and_worst(predictions: Sequence[Predicted], most: int) -> tuple[list[Predicted], list[Predicted]]:
    """The images that are recognised, and those that are mistaken, with the greatest certainty."""
    surest = sorted(predictions, key=lambda one: -one.probabilities[0])
    return [one for one in surest if one.right][:most], [one for one in surest if not one.right][:most]


def _share(part: np.int64, whole: np.int64) -> float | None:
    return int(part) / int(whole) if whole else None
