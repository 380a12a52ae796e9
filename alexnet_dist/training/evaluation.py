"""Top-1 and top-5 accuracy on a list of images: each counted exactly once, on any number of ranks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.decoded import EvaluationPixels
from alexnet_dist.data.source import ImageSource
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import SharedError
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.predict import mean_over_crops
from alexnet_dist.support.labels import NO_LABEL
from alexnet_dist.support.workspace import empty
from alexnet_dist.training.progress import Sums
from alexnet_dist.training.share_of_list import ImageRows, Rows, blocks, together

# (places in the list [n], labels [n], logits [n, classes]) of n readable images of this rank
Observer = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Evaluation:
    """Sums over exactly the images that could be read, and what was wrong with the others; `classes` of the network."""

    sums: Sums
    broken: tuple[str, ...]
    classes: int

    @property
    def images(self) -> int:
        """How many images could be read."""
        return int(self.sums.images)

    @property
    def error(self) -> float:
        """The share of images whose most probable class is wrong."""
        return 1 - self.sums.top1 / self.sums.images

    def means(self) -> dict[str, float]:
        """Mean loss, and the accuracies as shares of 1."""
        return self.sums.means(self.classes)

    def __str__(self) -> str:
        means, counts = self.means(), self.sums
        top5 = f"top-5 {means['top5']:.2%} ({counts.top5:.0f})  " if "top5" in means else ""
        return f"top-1 {means['top1']:.2%} ({counts.top1:.0f} of {counts.images:.0f})  {top5}loss {means['loss']:.4f}"


def evaluate(
    net: AlexNet,
    images: ImageSource,
    world: Ranks,
    workers: int,
    *,
    ten_crop: bool = False,
    order: Sequence[int] | None = None,
    observe: Observer | None = None,
    features: Rows | None = None,
    patience: Patience | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates the network on the list, each rank on its share of it. On all ranks, raises SharedError if no image could be
    read or the system can't read one for longer than `patience` has, and Interrupted when the patience of one says so.

    With `ten_crop`, on the mean probabilities of ten crops of each image. `order` says which of the network's classes is
    each of the list's, where it isn't the same. `observe` is shown every readable image's logits, in the list's classes.
    `features` are what the network's frozen layers make of these images, if that is known. `progress` is told how many of
    how many images all ranks have evaluated.

    A rank takes whole blocks of the list, of `net.block` images. For the same block, or where the network has groups, what is
    computed together, and so how it is rounded, doesn't depend on the number of ranks.
    """
    classes = net.network.num_classes
    pixels = EvaluationPixels(net.network.image_size, net.network.interpolation, ten_crop)
    block = max(1, net.block // pixels.crops)
    scratch = empty((block, classes))
    sums = Sums()
    broken: list[tuple[int, str]] = []
    rows: Rows = features or ImageRows(images, pixels)
    patience = patience or Patience()
    mine = blocks(images, rows, block, world, workers, patience=patience)
    for number, (places, batch) in enumerate(together(mine, world, patience), 1):
        x = batch.images if features else batch.images.reshape(-1, *pixels.shape)
        logits = mean_over_crops(net.forward(x), pixels.crops)
        logits = logits if order is None else logits[:, order]
        loss = cross_entropy(logits, batch.labels, scratch[: len(logits)], total=1)
        top1, top5 = count_correct(logits, batch.labels)
        sums = sums.plus(Sums(loss, top1, top5, len(batch.labels) - len(batch.broken)))
        readable = batch.labels != NO_LABEL
        broken += zip(places[~readable].tolist(), batch.broken, strict=True)
        if observe is not None:
            observe(places[readable], batch.labels[readable], logits[readable])
        if progress is not None:
            progress(min(number * block * world.size, len(images)), len(images))
    return _together(sums, broken, images, world, classes)


def _together(sums: Sums, broken: list[tuple[int, str]], images: ImageSource, world: Ranks, classes: int) -> Evaluation:
    """Collective: what all ranks have found, from what each has."""
    total = Sums(*world.sum(list(sums)))
    everyone = [json.loads(text) for text in world.all_texts([json.dumps(one) for one in broken])]
    messages = tuple(message for _, message in sorted(everyone))
    if total.images == 0:
        raise SharedError(f"none of the images of {images.source} could be read; first: {messages[0]}")
    return Evaluation(total, messages, classes)
