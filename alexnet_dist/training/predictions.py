"""What a network says of each image of a list: collected on each rank, gathered, and written as CSV by rank 0."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.source import ImageSource
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.predict import most_probable

TOP = 5  # classes of each image, unless somebody wants another number


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of one image: its place in the list, its class, and the most probable classes with their probabilities, best first."""

    place: int
    label: int
    classes: list[int]
    probabilities: list[float]


class Predictions:
    """The `k` most probable classes of each image that this rank has evaluated."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._mine: list[Prediction] = []

    def add(self, places: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Some images' logits [n, classes]: an Observer of evaluate."""
        for place, label, row in zip(places.tolist(), labels.tolist(), softmax(logits), strict=True):
            best = most_probable(row, self._k)
            self._mine.append(Prediction(place, label, best, [float(row[index]) for index in best]))

    def gathered(self, world: Ranks) -> list[Prediction]:
        """Collective: on rank 0 those of all ranks, in the order of the list; on the others none."""
        mine = json.dumps([list(vars(one).values()) for one in self._mine]).encode()
        everyone = [Prediction(*values) for part in world.gathered(mine) for values in json.loads(part)]
        return sorted(everyone, key=lambda one: one.place)


def titles(images: ImageSource) -> Callable[[int], bytes]:
    """How results name an image: as its source does, or as messages do where it has no `title`."""

    def where(index: int) -> bytes:
        return os.fsencode(images.where(index))

    title: Callable[[int], bytes] = getattr(images, "title", where)
    return title


def predictions_csv(predictions: Sequence[Prediction], names: Sequence[str], image: Callable[[int], bytes]) -> str:
    """A line an image: its path (`image`, from its place in the list), its class, and the most probable classes."""
    k = len(predictions[0].classes) if predictions else 0
    header = [
        "image",
        "class",
        *(f"{word}_{place}" for place in range(1, k + 1) for word in ("predicted", "probability")),
    ]
    return _csv(
        header,
        (
            [
                image(one.place).replace(b"\n", rb"\n").decode(errors="backslashreplace"),
                names[one.label],
                *(
                    value
                    for index, probability in zip(one.classes, one.probabilities, strict=True)
                    for value in (names[index], f"{probability:.6g}")
                ),
            ]
            for one in predictions
        ),
    )


def confusion(predictions: Sequence[Prediction], classes: int) -> NDArray[np.int64]:
    """How many images of each class [row] are taken for each class [column]."""
    counts = np.zeros((classes, classes), np.int64)
    for one in predictions:
        counts[one.label, one.classes[0]] += 1
    return counts


def confusion_csv(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """The matrix of `confusion`: a line for each true class, a column for each predicted one."""
    return _csv(["class", *names], ([name, *row] for name, row in zip(names, counts.tolist(), strict=True)))


def per_class_csv(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """A line for each class, from the matrix of `confusion`.

    `accuracy`: the share of its images that are recognised (recall); `precision`: the share of the images taken for it that
    are of it. Empty where there are none.
    """
    rows = []
    for index, name in enumerate(names):
        right, images, taken = (int(n) for n in (counts[index, index], counts[index].sum(), counts[:, index].sum()))
        rows.append([name, images, right, _share(right, images), _share(right, taken)])
    return _csv(["class", "images", "correct", "accuracy", "precision"], rows)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.6f}" if whole else ""


def _csv(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
