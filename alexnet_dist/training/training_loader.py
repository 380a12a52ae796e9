"""The loader of a run's training images: augmented, mixed, or what frozen layers have made of them."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from alexnet_dist.data.augment import load_for_training
from alexnet_dist.data.loader import NOTHING, Batch, Interrupted, Loader
from alexnet_dist.data.mixup import own_share
from alexnet_dist.data.storage import Patience, StorageFailure
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.training.frozen_features import FrozenFeatures
from alexnet_dist.training.setup import Run


def training_loader(run: Run, features: FrozenFeatures | None, workers: int, patience: Patience) -> Loader:
    """This rank's part of the training images, or of their features, with `workers` threads. What an image becomes depends on
    seed and epoch."""
    config, images = run.config, run.sources.train
    augmentation, size = config.augmentation(), config.image_size

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        if features:
            features.load(index, out)
        else:
            rng = generator(config.seed, Purpose.AUGMENT, epoch, index)
            load_for_training(partial(images.open, index), augmentation, rng, out)

    def share(index: int, epoch: int) -> float:
        return own_share(config.mixup_alpha, config.seed, epoch, index)

    return Loader(
        images,
        load=load,
        own_share=share if config.mixup_alpha else None,
        global_batch=run.global_batch,
        rank=run.world.rank,
        size=run.world.size,
        shape=features.row if features else (size, size, 3),
        workers=workers,
        patience=patience,
        shuffle=True,
        seed=config.seed,
    )


def next_batch(batches: Iterator[Batch]) -> tuple[Batch, list[str]]:
    """This rank's next batch, and why there is none: nothing is said where a signal has come meanwhile."""
    try:
        return next(batches), []
    except Interrupted:
        return NOTHING, []
    except StorageFailure as error:
        return NOTHING, [str(error)]
