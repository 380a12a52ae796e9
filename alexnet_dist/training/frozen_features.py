"""What frozen layers make of the images: computed once, and kept, where no augmentation changes the images.

Each rank computes some; the ranks of a node keep all in memory that they share.
"""

import json
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.comm.room import SLACK, NoSharedMemory, shared_memory_room
from alexnet_dist.data.augment import Augmentation
from alexnet_dist.data.decode import ImageError
from alexnet_dist.data.decoded import EvaluationPixels
from alexnet_dist.data.loader import Interrupted
from alexnet_dist.data.source import ImageSource
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import SharedError
from alexnet_dist.model.network import AlexNet
from alexnet_dist.runs.log import log
from alexnet_dist.support.activity import ACTIVITY
from alexnet_dist.support.labels import NO_LABEL
from alexnet_dist.support.memory import available_memory
from alexnet_dist.support.plural import plural
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.share_of_list import Block, ImageRows, blocks, together

if TYPE_CHECKING:
    from alexnet_dist.comm.node import Node
    from alexnet_dist.training.setup import Run

FLOAT = 4  # bytes
SHARE = 0.5  # of the memory that is left, which features may take


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen layers make of the images of one list, and what is wrong with those that can't be read."""

    values: NDArray[np.float32]  # [images, *row]
    problems: dict[int, str]

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of an image's features."""
        return self.values.shape[1:]

    def load(self, index: int, out: NDArray[np.float32]) -> None:
        """Fills out [*row] with the features of image `index`. Raises ImageError."""
        if index in self.problems:
            raise ImageError(self.problems[index])
        out[...] = self.values[index]


class Kept(NamedTuple):
    """The features of both lists, in memory of a node of their own."""

    train: FrozenFeatures
    val: FrozenFeatures
    node: "Node"


def keep_features(run: "Run", workers: int, patience: Patience) -> Kept | None:
    """Collective: the features of all images, if layers are frozen and features can be kept; logs which. On all ranks, raises
    SharedError where the system can't read an image, or where they must be kept and can't be, and Interrupted where `patience`
    of one says so."""
    net, world, lists = run.engine.net, run.world, (run.sources.train, run.sources.val)
    if not net.frozen.blocks:
        return None
    count = sum(map(len, lists))
    size = FLOAT * count * math.prod(net.frozen_shape)
    changes = what_changes_images(run.config)
    reason = (
        f"{', '.join(changes)} {'changes' if len(changes) == 1 else 'change'} the images"
        if changes
        else _no_room(size, world, max(run.nodes))
    )
    if not reason:
        log.info("frozen layers compute the features of %s once (%.0f MB)", plural(count, "image"), size / 1e6)
        try:
            node = world.node()
            values = [node.shared((len(images), *net.frozen_shape)) for images in lists]
        except NoSharedMemory as error:  # it has closed the node
            reason = str(error)
    if reason:
        if run.config.deterministic and not changes:
            raise SharedError(
                "--deterministic needs the features of frozen layers to be kept, for they are rounded otherwise where they are "
                f"computed in each step, and {reason}: leave it out, or make room"
            )
        log.info("frozen layers compute their features anew in each epoch: %s", reason)
        return None
    ACTIVITY.begin("features of frozen layers")
    try:
        of_train, of_val = (
            _compute(
                net,
                images,
                rows,
                node,
                _blocks(run, images, workers, patience),
                progress=partial(run.report.between_steps, f"features of {kind} images:"),
            )
            for kind, images, rows in zip(("training", "validation"), lists, values, strict=True)
        )
    except Interrupted:
        node.close()
        raise
    return Kept(of_train, of_val, node)


def _no_room(size: int, world: Ranks, ranks: int) -> str:
    """Collective: why features of `size` bytes can't be kept on nodes of at most so many ranks; "" if they can."""
    room = SHARE * available_memory()
    if ranks > 1:
        room = min(room, shared_memory_room() - SLACK)
    least = -world.largest(-room)
    return "" if size <= least else f"they would take {size / 1e6:.0f} MB, but may take {max(least, 0) / 1e6:.0f} MB"


def what_changes_images(config: TrainingConfig) -> list[str]:
    """The flags by which an image isn't the same in each epoch."""
    still = Augmentation(crop="none", flip=False)
    chosen = config.augmentation()
    names = ("crop", "flip", "color_noise", "color_jitter", "auto_augment", "random_erasing")
    changes = [name for name in names if getattr(chosen, name) != getattr(still, name)]
    return [f"--{name.replace('_', '-')}" for name in changes + ["mixup_alpha"] * bool(config.mixup_alpha)]


def _blocks(run: "Run", images: ImageSource, workers: int, patience: Patience) -> Generator[Block, None, None]:
    net = run.engine.net
    rows = ImageRows(images, EvaluationPixels(net.network.image_size, net.network.interpolation))
    return together(blocks(images, rows, net.block, run.world, workers, patience=patience), run.world, patience)


def _compute(
    net: AlexNet,
    images: ImageSource,
    values: NDArray[np.float32],
    node: "Node",
    mine: Generator[Block, None, None],
    *,
    progress: Callable[[int, int], None],
) -> FrozenFeatures:
    """Collective: fills `values` with the features of all images of a list, of which the blocks of this rank are `mine`;
    `progress` is told of how many of how many images all ranks have computed them."""
    problems = []
    for number, (places, batch) in enumerate(mine, 1):
        values[places] = net.forward_frozen(batch.images)
        broken = places[batch.labels == NO_LABEL].tolist()
        values[broken] = 0
        texts = [message.removeprefix(f"{images.where(i)} ") for i, message in zip(broken, batch.broken, strict=True)]
        problems += [json.dumps(one) for one in zip(broken, texts, strict=True)]
        progress(min(number * net.block * node.world.size, len(images)), len(images))
    node.sum_(values)
    return FrozenFeatures(values, dict(json.loads(text) for text in node.world.all_texts(problems)))
