"""A run to its end. With --elastic, one that loses ranks goes on with the others, from the last step that all have made."""

import json
from dataclasses import asdict, replace
from typing import Any

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.runs.log import warn
from alexnet_dist.support.plural import plural
from alexnet_dist.support.processes import Process
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.setup import Memory, open_run
from alexnet_dist.training.trainer import Trainer
from alexnet_dist.training.watchdog import Watchdog


def train(config: TrainingConfig, world: Ranks, signals: StopSignals, watchdog: Watchdog) -> int:
    """Collective: trains; returns the exit code. Raises SharedError for bad input, where MPI can't do what --elastic asks for,
    and where too few ranks are left."""
    if config.elastic:
        world.make_elastic()
    ranks, memory = world.all_processes(), None
    while True:
        trainer = None
        try:
            with open_run(config, world, memory=memory, watchdog=watchdog) as run:
                trainer, memory = Trainer(run, signals), None
                code = trainer.run()
            world.commit()
            return code
        except world.failures as error:
            from alexnet_dist.comm.elastic import is_loss  # here, because one rank alone needs no MPI

            if not (world.commits and is_loss(error)):
                raise
            memory = memory if trainer is None else _memory_of(trainer)
            left, memory = _go_on(world, ranks, memory, config.min_ranks)
            if left == ranks:
                raise
            ranks = left


def _memory_of(trainer: Trainer) -> Memory:
    """What this rank holds after the last step that was applied, which on some ranks may not have been counted."""
    engine, progress = trainer.engine, trainer.progress
    engine.end_averaged()
    if engine.applied > progress.step:
        progress = replace(progress, step=progress.step + 1, step_in_epoch=progress.step_in_epoch + 1)
    return Memory(trainer.sources, progress, engine.values, engine.state, "")


def _go_on(world: Any, before: list[Process], memory: Memory | None, least: int) -> tuple[list[Process], Memory | None]:
    """Collective over those of a World that are left: who they are, and what they go on from, the same progress on all:
    None, the beginning, if some had not begun."""
    from alexnet_dist.comm.elastic import is_loss, regroup

    for tries_left in reversed(range(len(before))):
        try:
            left = regroup(world, before, least)
            offers = world.all_texts([json.dumps(asdict(memory.progress))] if memory else [])
            world.commit()  # all go on, or all try again
            break
        except world.failures as error:  # another one was lost meanwhile
            if not (tries_left and is_loss(error)):
                raise
    if left == before:  # it was something else
        return left, memory
    lost = ", ".join(f"rank {rank} ({process})" for rank, process in enumerate(before) if process not in left)
    said = f"lost {lost}: {plural(len(left), 'rank')} go{'es' * (len(left) == 1)} on"
    if memory is None or len(offers) < len(left):
        if world.rank == 0:
            warn(0, 1, f"{said} from the beginning")
        return left, None
    # All have applied the same steps; who has counted more of their images, or ended the epoch, knows more.
    best = max((Progress.from_json(json.loads(text)) for text in offers), key=_knowledge)
    return left, replace(memory, progress=best, said=f"{said} after step {best.step}")


def _knowledge(progress: Progress) -> tuple[int, int, float]:
    return progress.step, progress.epoch, progress.sums.images
