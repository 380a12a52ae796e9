"""What a run says before its first step: what people ask about now, and afterwards."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.model.architecture import summary
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.runs.log import log
from alexnet_dist.support.plural import plural, share
from alexnet_dist.support.threads import available_cores

if TYPE_CHECKING:
    from alexnet_dist.training.setup import Inputs, Run

OF_THE_SCREEN = ("resume", "progress", "summary", "print_freq")  # flags by which a run isn't another one


def first_lines(inputs: "Inputs", threads: int) -> list[str]:
    """Collective: what is known before anything slow begins: data, ranks, batch and learning rate. On rank 0; on the others
    nothing."""
    config, sources, batch, ranks = inputs.config, inputs.sources, inputs.global_batch, inputs.world.size
    crowded = _crowded(inputs.world, threads)
    if inputs.world.rank:
        return []
    classes = plural(inputs.network.num_classes, "class", "classes")
    images = f"{len(sources.train)} training and {plural(len(sources.val), 'validation image')}, {classes}"
    batch_flag = "--batch-size" if config.batch_size else "--global-batch" if config.global_batch else "default"
    parts = f" in {plural(config.accumulate, 'part')}" if config.accumulate > 1 else ""
    of_ranks = f"{plural(ranks, 'rank')} of {plural(threads, 'thread')}"
    scaled = f"scaled from a batch of {config.lr_reference_batch}" if config.lr_reference_batch else "as given"
    lines = [
        f"output: {config.output_dir}",
        images,
        *sources.notes,
        f"{of_ranks}; global batch {batch} ({batch_flag}), {share(batch, ranks, 'image')} a rank{parts}",
        *crowded,
    ]
    if batch < ranks:
        lines.append(f"WARNING: a step has fewer images ({batch}) than there are ranks ({ranks}): the others only wait")
    if batch > len(sources.train):
        few = f"WARNING: an epoch is one step, since the global batch ({batch}) is larger than the training images"
        lines.append(f"{few} ({len(sources.train)}): with --global-batch 16, for example, more is learned in it")
    rate = f"{config.lr:g} {scaled}" if config.lr_reference_batch else scaled
    lr = config.schedule(batch).lr
    return [*lines, f"learning rate {lr:g} for the global batch, not for each rank ({rate})"]


def _crowded(world: Ranks, threads: int) -> list[str]:
    """Collective: a line for each host on which ranks take turns on too few cores."""
    cores = sorted(os.sched_getaffinity(0))
    mine = json.dumps([os.uname().nodename, cores, min(available_cores(), len(cores)), threads])
    everyone = world.all_texts([mine])
    lines = []
    for place in dict.fromkeys(everyone):
        host, _, count, each = json.loads(place)
        ranks = everyone.count(place)
        if ranks * each > count:
            sharing = f"{plural(ranks, 'rank')} of {plural(each, 'thread')} share {plural(count, 'core')}"
            lines.append(f"WARNING: on {host} {sharing}: they take turns, and more of them are no faster")
    return lines


def log_run_header(run: "Run") -> None:
    """Logs what has been chosen for the run, and where a resumed one continues. The layers go to the file alone, unless
    --summary wants them on the screen."""
    log.info("gradients: %s (%s)", run.engine.strategy_name, run.why_strategy)
    convolutions = [block for block in run.engine.net.blocks if isinstance(block, ConvBlock)]
    lines = [
        *summary(run.network).splitlines(),
        *(f"convolution to {'x'.join(map(str, one.map_shape))}: {one.convolution.name}" for one in convolutions),
    ]
    run.report.layers(lines)
    if run.resumed is not None:
        _log_resumption(run, run.resumed)


def _log_resumption(run: "Run", state: dict[str, Any]) -> None:
    """Logs where the run continues, and what has changed: flags, and the list of images."""
    progress = run.progress
    log.info("resumed after %s and %s", plural(progress.epoch, "epoch"), plural(progress.step_in_epoch, "step"))
    same_batch = state["global-batch"] == run.global_batch  # in whatever shares the ranks have it
    unsaid = {*OF_THE_SCREEN, *(("batch_size", "global_batch") if same_batch else ())}
    for name, value in json.loads(json.dumps(asdict(run.config))).items():
        before = state["config"].get(name)
        if name not in unsaid and value != before and name in state["config"]:
            now, then = ("not given" if one is None else one for one in (value, before))
            log.info("  with another --%s: %s, before: %s", name.replace("_", "-"), now, then)
    if state["train list"] != run.train_list:
        log.warning("the training images are not those the run began with: the epoch may repeat or miss some")
