"""Top-1 and top-5 accuracy on a list of images: each counted exactly once, on any number of ranks."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from alexnet_dist.comm.world import World
from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.source import ImageSource
from alexnet_dist.errors import SharedError
from alexnet_dist.kernels.loss import count_correct, cross_entropy
from alexnet_dist.model.network import AlexNet
from alexnet_dist.support.workspace import empty
from alexnet_dist.training.progress import Sums


@dataclass(frozen=True)
class Evaluation:
    """Sums over exactly the images that could be read, and what was wrong with the others."""

    sums: Sums
    broken: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many images could be read."""
        return int(self.sums.images)

    @property
    def error(self) -> float:
        """The share of images whose most probable class is wrong."""
        return 1 - self.sums.top1 / self.sums.images

    def __str__(self) -> str:
        means, counts = self.sums.means(), self.sums
        return (
            f"top-1 {means['top1']:.2%} ({counts.top1:.0f} of {counts.images:.0f})  "
            f"top-5 {means['top5']:.2%} ({counts.top5:.0f})  loss {means['loss']:.4f}"
        )


def evaluate(net: AlexNet, images: ImageSource, world: World, workers: int) -> Evaluation:
    """Evaluates the network on the list, each rank on its shard. Raises SharedError if no image could be read."""
    size = net.network.image_size
    scratch = empty((net.batch, net.network.num_classes))
    sums = Sums()
    broken: list[str] = []

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        load_for_evaluation(partial(images.open, index), size, out, net.network.interpolation)

    with Loader(
        images,
        load=load,
        global_batch=net.batch * world.size,
        rank=world.rank,
        size=world.size,
        image_size=size,
        workers=workers,
    ) as loader:
        for batch in loader.batches(0):
            logits = net.forward(batch.images)
            loss = cross_entropy(logits, batch.labels, scratch[: len(logits)], total=1)
            top1, top5 = count_correct(logits, batch.labels)
            sums = sums.plus(Sums(loss, top1, top5, len(batch.labels) - len(batch.broken)))
            broken += batch.broken
    total = Sums(*world.sum(list(sums)))
    messages = world.all_texts(broken)
    if total.images == 0:
        raise SharedError(f"none of the {len(images)} images of {images.source} could be read; first: {messages[0]}")
    return Evaluation(total, tuple(messages))
