"""A training run: epochs of steps, validation, learning rate, checkpoints. One path for any number of ranks."""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist import checkpoint
from alexnet_dist.architecture import Network, rows, summary
from alexnet_dist.comm.world import World
from alexnet_dist.config import TrainingConfig
from alexnet_dist.data.augment import Augmentation, load_for_training
from alexnet_dist.data.image_list import ImageList
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.sources import Sources, read_sources
from alexnet_dist.engine import Engine
from alexnet_dist.errors import SharedError, UserError
from alexnet_dist.evaluate import Evaluation, evaluate
from alexnet_dist.files import check_writable, write_text
from alexnet_dist.optim import SGD
from alexnet_dist.parameters import initialize
from alexnet_dist.progress import Progress
from alexnet_dist.randomness import Purpose, generator
from alexnet_dist.report import STUCK_AFTER, Report, duration, log
from alexnet_dist.run_folder import RunFolder
from alexnet_dist.samples import Samples
from alexnet_dist.schedule import Plateau
from alexnet_dist.signals import StopSignals
from alexnet_dist.threads import Team

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
            self.sources = self._read_sources()
            self.network = self._make_network()
            if world.rank == 0:
                self.folder.check(resuming=config.resume is not None)
                if config.save:
                    check_writable(Path(config.save))
        self.team = Team(config.threads or world.node_threads())
        self.engine = Engine(
            self.network,
            world,
            self.team,
            batch=math.ceil(self.batch / world.size),
            sgd=SGD(config.momentum, config.weight_decay),
            smoothing=config.label_smoothing,
            seed=config.seed,
        )
        with world.together():
            self.samples = Samples(config.sample, config.image_size) if world.rank == 0 else None
            state = self._load_start() if world.rank == 0 else None
        state = world.broadcast_json(state)
        self.engine.broadcast()
        if state is not None:
            self.progress = Progress.from_json(state["progress"])
        self._resumed = state
        self.report = Report(self.folder.path, speaks=world.rank == 0)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.report.close()
        self.team.close()

    # Setting up

    def _read_sources(self) -> Sources:
        config = self.config
        sources = read_sources(
            Path(config.data),
            Path(config.val) if config.val else None,
            config.val_fraction,
            Path(config.class_names) if config.class_names else None,
            config.num_classes,
            config.seed,
        )
        if len(sources.train) < self.world.size:
            raise UserError(
                f"{config.data} has {len(sources.train)} training images for {self.world.size} ranks: "
                "start fewer ranks (mpirun -n) or add images"
            )
        return sources

    def _make_network(self) -> Network:
        config = self.config
        network = Network(self.sources.num_classes, config.image_size, config.dropout, config.width)
        try:
            rows(network)
        except ValueError as error:
            raise UserError(f"--image-size {config.image_size}: {error}") from error
        return network

    def _load_start(self) -> dict[str, Any] | None:
        """Fills rank 0's parameters; returns the training state of a run that is resumed."""
        config, engine = self.config, self.engine
        if config.resume is None:
            if config.load_pretrained:
                checkpoint.load(Path(config.load_pretrained), engine.layout, engine.values, None)
            else:
                initialize(engine.layout, engine.values, config.init, config.seed)
            return None
        path = Path(config.resume or self.folder.latest)
        path = path / self.folder.latest.name if path.is_dir() else path
        state = checkpoint.read_header(path).training
        checkpoint.load(path, engine.layout, engine.values, engine.momentum)
        assert state is not None  # load has found momentum
        for name, value in (("seed", config.seed), ("global batch", self.batch)):
            if state[name] != value:
                raise UserError(
                    f"{path} was trained with {name} {state[name]}, not {value}: a run continues only with the same"
                )
        return state

    # Running

    def run(self) -> int:
        """Trains to the end, or until a signal or the plateau stops it; returns the exit code."""
        if self.world.rank == 0:
            self.folder.begin()
        self._introduce()
        with StopSignals() as self.signals, self._loader() as loader:
            while self.progress.epoch < self.config.epochs and not self.progress.plateau.finished:
                if not self._train_epoch(loader):
                    log.info("stopped by a signal after step %d; --resume continues it", self.progress.step)
                    return STOPPED
                self._finish_epoch()
        with self.world.together():
            if self.world.rank == 0:
                if self.config.save:
                    self._save_weights(Path(self.config.save))
                write_text(self.folder.complete, f"step {self.progress.step}\n")
        log.info("finished after %d epochs and %d steps", self.progress.epoch, self.progress.step)
        self.report.metrics("complete", epoch=self.progress.epoch, step=self.progress.step)
        return 0

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
        config, engine, watch = self.config, self.engine, self.engine.watch
        self.report.start_clock()
        batches = loader.batches(self.progress.epoch, self.progress.step_in_epoch)
        for number in range(self.progress.step_in_epoch, loader.steps):
            with watch.phase("data"):
                batch = next(batches)
            with watch.phase("wait"):
                readable = len(batch.labels) - len(batch.broken)
                total, broken, stop = self.world.sum([readable, len(batch.broken), self.signals.received])
            if stop:
                batches.close()
                self._save_state()
                return False
            if broken:
                self.progress = replace(self.progress, broken=self.progress.broken + int(broken))
                self._report_broken(self.world.all_texts(batch.broken), self.progress.broken, self.sources.train)
            lr = self.schedule.rate(self.progress.epoch + number / loader.steps, self.progress.plateau)
            sums = engine.step(batch.images, batch.labels, batch.positions, int(total), self.progress.step, lr)
            if not math.isfinite(sums.loss):
                raise SharedError(self._divergence(f"the loss is {sums.loss}"))
            self.progress = replace(
                self.progress,
                step_in_epoch=number + 1,
                step=self.progress.step + 1,
                sums=self.progress.sums.plus(sums),
            )
            self.report.step(self.progress, sums, lr, watch.take(), loader.steps, config.epochs, config.print_freq)
            if self.progress.step == STUCK_AFTER:
                self.report.warn_if_stuck(self.progress, self.network.num_classes)
            if config.save_every and self.progress.step % config.save_every == 0:
                self._save_state()
        return True

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
            log.warning("skipped: %s", complaint)
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
        self._report_epoch(result, time.perf_counter() - start, before, plateau)
        if self.samples is not None:
            self.samples.report(self.engine.net, self.sources.class_names)
        self.progress = Progress(self.progress.epoch + 1, 0, self.progress.step, plateau=plateau)
        self._save_state(best=plateau.best < before.best)

    def _report_epoch(self, result: Evaluation, seconds: float, before: Plateau, after: Plateau) -> None:
        progress, train = self.progress, self.progress.sums.means()
        skipped = progress.broken + len(result.broken)
        log.info(
            "epoch %d/%d  train loss %.4f top-1 %.2f%%  validation %s  (%s)",
            progress.epoch + 1, self.config.epochs, train["loss"], 100 * train["top1"], result, duration(seconds),
        )  # fmt: skip
        if skipped:
            log.warning("%d images could not be read in this epoch and were skipped", skipped)
        if after.reductions > before.reductions:
            log.info("the validation error has stopped improving: reduction %d of the learning rate", after.reductions)
        if after.finished:
            log.info("the validation error has stopped improving at the last learning rate: training ends")
        self.report.warn_if_stuck(progress, self.network.num_classes)
        self.report.metrics(
            "epoch",
            epoch=progress.epoch,
            step=progress.step,
            train=train,
            validation={
                "loss": result.loss,
                "top1": result.top1 / result.images,
                "top5": result.top5 / result.images,
                "images": result.images,
            },
            skipped=skipped,
            lr=self.schedule.rate(progress.epoch + 1, after),
        )

    # Saving

    def _save_state(self, best: bool = False) -> None:
        """Rank 0 writes a training state, and the weights alone if they are the best so far."""
        with self.world.together():
            if self.world.rank == 0:
                engine, path = self.engine, self.folder.state(self.progress.step)
                if not np.isfinite(engine.values).all():
                    raise UserError(self._divergence("a weight is not finite"))
                training = {
                    "progress": asdict(self.progress),
                    "seed": self.config.seed,
                    "global batch": self.batch,
                    "train list": self.sources.train.fingerprint(),
                    "config": asdict(self.config),
                }
                header = checkpoint.Header(self.network, self.sources.class_names, training)
                checkpoint.save(path, engine.layout, engine.values, engine.momentum, header)
                self.folder.point_latest(path)
                if best:
                    self._save_weights(self.folder.best)

    def _save_weights(self, path: Path) -> None:
        header = checkpoint.Header(self.network, self.sources.class_names)
        checkpoint.save(path, self.engine.layout, self.engine.values, None, header)

    def _introduce(self) -> None:
        """Says what is about to run: the things that people ask about afterwards."""
        config, size = self.config, self.world.size
        given = "--batch-size" if config.batch_size else "--global-batch" if config.global_batch else "default"
        for line in summary(self.network).splitlines():
            log.info("%s", line)
        log.info(
            "%d training and %d validation images, %d classes", len(self.sources.train), len(self.sources.val),
            self.network.num_classes,
        )  # fmt: skip
        log.info(
            "%d ranks of %d threads; global batch %d (%s), that is %g images a rank and step", size, self.team.size,
            self.batch, given, self.batch / size,
        )  # fmt: skip
        log.info(
            "learning rate %g for the global batch, not for each rank (%s)", self.schedule.lr,
            f"{config.lr:g} scaled from a batch of {config.lr_reference_batch}"
            if config.lr_reference_batch else "as given",
        )  # fmt: skip
        log.info("output: %s", self.folder.path)
        if self._resumed is not None:
            log.info("resumed after %d epochs and %d steps", self.progress.epoch, self.progress.step_in_epoch)
            self.report.metrics("resume", epoch=self.progress.epoch, step=self.progress.step)
            if self._resumed["train list"] != self.sources.train.fingerprint():
                log.warning("the training images are not those the run began with: the epoch may repeat or miss some")
