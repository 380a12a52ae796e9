"""A training run: epochs of steps, validation, learning rate, checkpoints. One path for any number of ranks."""

import json
import math
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from alexnet_dist.comm.world import World
from alexnet_dist.data.augment import Augmentation, load_for_training
from alexnet_dist.data.image_list import ImageList
from alexnet_dist.data.loader import Batch, Loader
from alexnet_dist.data.sharding import share
from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.model.layers import ConvBlock
from alexnet_dist.model.network import layout_of
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import RunFolder
from alexnet_dist.runs.timeline import WORKING, Nothing, Timeline, slowest
from alexnet_dist.support.files import check_writable, write_text
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.support.threads import Team
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.engine import Engine
from alexnet_dist.training.evaluation import evaluate
from alexnet_dist.training.introduction import introduce, introduce_resumption
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.report import STUCK_AFTER, Report, log
from alexnet_dist.training.samples import Samples
from alexnet_dist.training.schedule import Plateau
from alexnet_dist.training.setup import fill, make_network, open_sources, read_state, sync_of
from alexnet_dist.training.synchronization import open_engine

STOPPED = 75  # exit code: EX_TEMPFAIL of sysexits.h, "try again later"


class Trainer:
    """One run on all ranks. What is wrong with the input is raised as SharedError by the constructor."""

    def __init__(self, config: TrainingConfig, world: World) -> None:
        self.config, self.world = config, world
        self.batch = config.batch_of_all(world.size)
        self.schedule = config.schedule(self.batch)
        self.folder = RunFolder(Path(config.output_dir), config.keep)
        self.progress = Progress()
        with world.together():
            self.sources = open_sources(config, world.size)
            self.network = make_network(config, self.sources.num_classes)
            if world.rank == 0:
                self.folder.check(resuming=config.resume is not None)
                for file in (config.save, config.timeline):
                    if file:
                        check_writable(Path(file))
        self.train_list = self.sources.train.fingerprint()
        read = [self.train_list, self.sources.val.fingerprint(), self.sources.num_classes, asdict(config)]
        world.require_same(json.dumps(read), "what is read from the lists, --class-names or --config")
        self.team = Team(config.threads or world.node_threads())
        with world.together():
            self.samples = Samples(config.sample, config.image_size) if world.rank == 0 else None
            state = read_state(config, self.folder, self.batch) if world.rank == 0 else None
        state = world.broadcast_json(state)
        self.timeline = Timeline(Path(config.timeline), world) if config.timeline else Nothing()
        self._worked = dict.fromkeys(WORKING, 0.0)  # this rank's seconds by phase in this epoch
        mine = share(self.batch, world.rank, world.size)
        self.engine, self._why = open_engine(
            self._make_engine,
            world,
            sync_of(config, state, world.size),
            layout_of(self.network).size,
            len(mine),
            self.batch,
        )
        with world.together():
            if world.rank == 0:
                fill(config, self.folder, self.engine, state)
        self.engine.broadcast()
        if state is not None:
            self.progress = Progress.from_json(state["progress"])
        self._resumed = state
        self._saved_step = self.progress.step if state else -1
        self._named: set[str] = set()  # broken images that have been named
        with world.together():
            self.report = Report(self.folder.path, speaks=world.rank == 0)
            if world.rank == 0:
                self.folder.begin()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # collective: after an error some ranks may not come here
            self.engine.close()
        self.report.close()
        self.team.close()

    def _make_engine(self, sync: str) -> Engine:
        config = self.config
        return Engine(
            self.network,
            self.world,
            self.team,
            batch=math.ceil(self.batch / self.world.size),
            sgd=SGD(config.momentum, config.weight_decay),
            smoothing=config.label_smoothing,
            seed=config.seed,
            conv=config.conv,
            sync=sync,
            recorder=self.timeline,
        )

    # Running

    def run(self) -> int:
        """Trains to the end, or until a signal or the plateau stops it; returns the exit code."""
        introduce(
            self.config, self.network, self.sources, self.schedule.lr, self.batch, self.world.size, self.team.size
        )
        log.info("gradients: %s (%s)", self.engine.name, self._why)
        for block in self.engine.net.features.blocks:
            if isinstance(block, ConvBlock):
                log.info("convolution to %s: %s", "x".join(map(str, block.map_shape)), block.convolution.name)
        if self._resumed is not None:
            introduce_resumption(self.config, self.progress, self._resumed, self.train_list)
            self.report.metrics("resume", epoch=self.progress.epoch, step=self.progress.step)
        with StopSignals() as self.signals, self._loader() as loader:
            while self.progress.epoch < self.config.epochs and not self._plateau_is_final():
                if not self._train_epoch(loader):
                    self.timeline.write(self.world)
                    log.info("stopped by a signal after step %d; --resume continues it", self.progress.step)
                    return STOPPED
                self._finish_epoch()
        self.timeline.write(self.world)
        with self.world.together():
            if self.world.rank == 0:
                if self.config.save:
                    self._save_weights(Path(self.config.save))
                write_text(self.folder.complete, f"step {self.progress.step}\n")
        progress = self.progress
        log.info("finished after %d epochs and %d steps", progress.epoch, progress.step)
        if progress.skipped:
            log.warning("in all epochs together, %d times an image could not be read", progress.skipped)
        self.report.metrics("complete", epoch=progress.epoch, step=progress.step, skipped=progress.skipped)
        return 0

    def _plateau_is_final(self) -> bool:
        return self.config.lr_scheduler == "plateau" and self.progress.plateau.finished

    def _loader(self) -> Loader:
        config, images = self.config, self.sources.train
        augmentation = Augmentation(config.image_size, config.crop, config.flip, config.color_noise)

        def load(index: int, epoch: int, out: np.ndarray) -> None:
            rng = generator(config.seed, Purpose.AUGMENT, epoch, index)
            load_for_training(images.path(index), augmentation, rng, out)

        return Loader(
            images,
            load=load,
            global_batch=self.batch,
            rank=self.world.rank,
            size=self.world.size,
            image_size=config.image_size,
            workers=config.workers or self.team.size,
            shuffle=True,
            seed=config.seed,
        )

    def _train_epoch(self, loader: Loader) -> bool:
        """The steps of this epoch that are still to do; False if a signal has stopped them."""
        watch = self.engine.watch
        self.report.start_clock()
        first = self.progress.step_in_epoch
        with closing(loader.batches(self.progress.epoch, first)) as batches:
            for _ in range(first, loader.steps):
                with watch.phase("data"):
                    batch = next(batches)
                with watch.phase("wait"):
                    readable = len(batch.labels) - len(batch.broken)
                    total, broken, stop = self.world.sum([readable, len(batch.broken), self.signals.received])
                if stop:
                    self._save_state()
                    return False
                if broken:
                    self.progress = replace(self.progress, broken=self.progress.broken + int(broken))
                    self._report_broken(self.world.all_texts(batch.broken), self.progress.broken, self.sources.train)
                self._step(batch, int(total), loader.steps)
        # Validation may take long, or end the run: what has been learned until here is safe.
        if self.progress.step != self._saved_step:
            self._save_state()
        return True

    def _step(self, batch: Batch, total: int, steps: int) -> None:
        """One step of the epoch's `steps`, on `total` images over all ranks."""
        before, config = self.progress, self.config
        lr = self.schedule.rate(before.epoch + before.step_in_epoch / steps, before.plateau)
        sums = self.engine.step(batch.images, batch.labels, batch.positions, total, before.step, lr)
        if not math.isfinite(sums.loss):
            raise SharedError(self._divergence(f"the loss is {sums.loss}"))
        self.progress = replace(
            before,
            step_in_epoch=before.step_in_epoch + 1,
            step=before.step + 1,
            sums=before.sums.plus(sums),
        )
        seconds = self.engine.watch.take()
        self._worked = {phase: before + seconds[phase] for phase, before in self._worked.items()}
        self.report.step(self.progress, sums, lr, seconds, steps, self.batch, config.epochs, config.print_freq)
        if self.progress.step == STUCK_AFTER:
            self.report.warn_if_stuck(self.network.num_classes)
        if config.save_every and self.progress.step % config.save_every == 0:
            self._save_state()

    def _divergence(self, sign: str) -> str:
        return (
            f"{sign} after {self.progress.step} steps: training has diverged. Lower --lr (now {self.config.lr:g}) or "
            "warm up (--lr-warmup-epochs); the checkpoints there are from before that"
        )

    def _report_broken(self, complaints: list[str], broken: int, images: ImageList) -> None:
        """Names images that could not be read, `broken` in all so far; raises SharedError where that is too many."""
        if self.config.strict:
            raise SharedError(complaints[0])
        for complaint in complaints:
            if complaint not in self._named:
                log.warning("skipped: %s", complaint)
        self._named |= set(complaints)
        if broken > self.config.max_bad * len(images) or broken == len(images):
            raise SharedError(
                f"{broken} of the {len(images)} images of {images.source} can't be read, more than --max-bad "
                f"{self.config.max_bad:g} allows; the latest: {complaints[-1]}"
            )

    def _finish_epoch(self) -> None:
        """Validates; rank 0 decides on the learning rate and all are told; the epoch is reported and saved."""
        start = time.perf_counter()
        result = evaluate(self.engine.net, self.sources.val, self.world, self.config.workers or self.team.size)
        if result.broken:
            self._report_broken(list(result.broken), len(result.broken), self.sources.val)
        before = self.progress.plateau
        decision = self.world.broadcast_json(asdict(before.observe(result.error, self.schedule)))
        plateau = Plateau(**decision)
        skipped = self.progress.broken + len(result.broken)
        self.report.epoch(self.progress, result, time.perf_counter() - start, self.config.epochs, skipped)
        self.report.plateau(before, plateau)
        self._report_slowest()
        self.report.warn_if_stuck(self.network.num_classes)
        if self.samples is not None:
            self.samples.report(self.engine.net, self.sources.class_names)
        self.progress = Progress(
            self.progress.epoch + 1, 0, self.progress.step, skipped=self.progress.skipped + skipped, plateau=plateau
        )
        self._save_state(best=plateau.best < before.best)

    def _report_slowest(self) -> None:
        """Logs which rank the others have waited for in this epoch."""
        everyone = [json.loads(text) for text in self.world.all_texts([json.dumps(self._worked)])]
        self._worked = dict.fromkeys(WORKING, 0.0)
        if sentence := slowest(everyone, self.world.all_hosts()):
            log.info("%s", sentence)

    # Saving

    def _save_state(self, best: bool = False) -> None:
        """Rank 0 writes a training state, and the weights alone if they are the best so far."""
        with self.world.together():
            if self.world.rank == 0:
                if not np.isfinite(self.engine.values).all():
                    raise UserError(self._divergence("a weight is not finite"))
                # The best weights first: a run that dies in between does this epoch's end again.
                if best or (self.progress.step_in_epoch == 0 and not self.folder.best.exists()):
                    self._save_weights(self.folder.best)
                self._save_training(self.folder.state(self.progress.step))
        self._saved_step = self.progress.step

    def _save_training(self, path: Path) -> None:
        training = {
            "progress": asdict(self.progress),
            "seed": self.config.seed,
            "global-batch": self.batch,
            "train list": self.train_list,
            "sync": self.engine.name,
            "ranks": self.world.size,
            "config": asdict(self.config),
        }
        header = checkpoint.Header(self.network, self.sources.class_names, training)
        checkpoint.save(path, self.engine.layout, self.engine.values, self.engine.momentum, header)
        self.folder.point_latest(path)

    def _save_weights(self, path: Path) -> None:
        header = checkpoint.Header(self.network, self.sources.class_names)
        checkpoint.save(path, self.engine.layout, self.engine.values, None, header)
