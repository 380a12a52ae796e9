"""What a run says before it begins: the things that people ask about afterwards."""

import json
from dataclasses import asdict
from typing import Any

from alexnet_dist.data.sources import Sources
from alexnet_dist.model.architecture import Network, summary
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import log


def introduce(
    config: TrainingConfig, network: Network, sources: Sources, lr: float, batch: int, ranks: int, threads: int
) -> None:
    """Logs the network, the data, and how batch, ranks, threads and learning rate belong together."""
    for line in summary(network).splitlines():
        log.info("%s", line)
    log.info(
        "%d training and %d validation images, %d classes", len(sources.train), len(sources.val), network.num_classes
    )
    given = "--batch-size" if config.batch_size else "--global-batch" if config.global_batch else "default"
    share = f"{batch / ranks:g}"
    log.info("%d ranks of %d threads; global batch %d (%s), %s images a rank", ranks, threads, batch, given, share)
    scaled = (
        f"{config.lr:g} scaled from a batch of {config.lr_reference_batch}" if config.lr_reference_batch else "as given"
    )
    log.info("learning rate %g for the global batch, not for each rank (%s)", lr, scaled)
    log.info("output: %s", config.output_dir)


def introduce_resumption(config: TrainingConfig, progress: Progress, state: dict[str, Any], train_list: str) -> None:
    """Logs where the run goes on, and what is not as it was: flags, and the list of images."""
    log.info("resumed after %d epochs and %d steps", progress.epoch, progress.step_in_epoch)
    for name, value in json.loads(json.dumps(asdict(config))).items():
        before = state["config"].get(name)
        if name != "resume" and value != before:
            log.info("  with another --%s: %s, before: %s", name.replace("_", "-"), value, before)
    if state["train list"] != train_list:
        log.warning("the training images are not those the run began with: the epoch may repeat or miss some")
