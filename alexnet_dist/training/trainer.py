"""The loop of a training run: epochs of steps, validation, learning rate, checkpoints. The same for any number of ranks."""

import json
import math
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from alexnet_dist.data.loader import Batch, Loader
from alexnet_dist.data.source import ImageSource
from alexnet_dist.errors import SharedError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.log import log
from alexnet_dist.runs.timeline import WORK_PHASES, Timeline, slowest, write_trace
from alexnet_dist.support.files import write_text
from alexnet_dist.support.plural import plural
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.training.diagnosis import Diagnosis, Guessing
from alexnet_dist.training.evaluation import evaluate
from alexnet_dist.training.not_finite import SKIPS, Diverged
from alexnet_dist.training.optim_wrappers import AVERAGE
from alexnet_dist.training.origin import without_state
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.report import log_run_header
from alexnet_dist.training.restoring import lowered, may_restore, restore
from alexnet_dist.training.schedule import Plateau
from alexnet_dist.training.setup import Run
from alexnet_dist.training.symptoms import Probe
from alexnet_dist.training.training_loader import training_loader

STOPPED = 75  # exit code: EX_TEMPFAIL of sysexits.h, "try again later"


class Trainer:
    """Trains a run to its end, on all ranks."""

    def __init__(self, run: Run) -> None:
        self.run_, self.config, self.world, self.engine = run, run.config, run.world, run.engine
        self.sources, self.folder, self.report = run.sources, run.folder, run.report
        self.progress = run.progress
        guessing = Guessing.of(run.sources.train.labels, run.network.num_classes, run.config.label_smoothing)
        probe = Probe(run.engine.net, run.engine.values, run.world, run.engine.trained_from)
        self._diagnosis = Diagnosis(run.config, probe, guessing, run.report.diagnosis)
        self._workers = run.config.workers or run.team.size
        self._saved_step = run.progress.step if run.resumed else -1
        self._saved = False  # whether latest.safetensors is of this run
        self._reported: set[str] = set()  # messages about broken images that have been logged
        self._work_seconds = dict.fromkeys(WORK_PHASES, 0.0)  # this rank's seconds by phase in this epoch

    def run(self) -> int:
        """Trains to the end, or until a signal or the plateau stops it; returns the exit code."""
        log_run_header(self.run_)
        if self.run_.resumed is not None:
            self.report.resumed(self.progress)
        with StopSignals() as self.signals, training_loader(self.run_, self._workers) as loader:
            while self.progress.epoch < self.config.epochs and not self._plateau_is_final():
                try:
                    done = self._train_epoch(loader)
                except Diverged as problem:
                    self._restore(problem)
                    continue
                if not done:
                    self._write_timeline()
                    log.info("stopped by a signal after step %d; --resume continues it", self.progress.step)
                    return STOPPED
                self._finish_epoch()
        self._write_timeline()
        values, state = self.engine.whole() if self.config.save else (None, {})
        with self.world.shared_errors():
            if self.world.rank == 0:
                if self.config.save and values is not None:
                    self._save_weights(Path(self.config.save), self._validated(values, state))
                write_text(self.folder.complete, f"step {self.progress.step}\n")
        self.report.complete(self.progress)
        return 0

    def _plateau_is_final(self) -> bool:
        return self.config.lr_scheduler == "plateau" and self.progress.plateau.finished

    def _train_epoch(self, loader: Loader) -> bool:
        """Runs the remaining steps of this epoch; False if a signal has stopped it."""
        watch = self.engine.watch
        self.report.start_clock()
        first = self.progress.step_in_epoch
        with closing(loader.batches(self.progress.epoch, first)) as batches:
            for _ in range(first, loader.steps):
                with watch.phase("data"):
                    batch = next(batches)
                with watch.phase("wait"):
                    readable = len(batch.labels) - len(batch.broken)
                    global_count, broken, stop = self.world.sum([readable, len(batch.broken), self.signals.received])
                if stop:
                    self._save_state()
                    return False
                if broken:
                    self.progress = replace(self.progress, broken=self.progress.broken + int(broken))
                    self._report_broken(self.world.all_texts(batch.broken), self.progress.broken, self.sources.train)
                self._step(batch, int(global_count), loader.steps)
        # Validation may take long, or fail: what has been learned so far is saved first.
        if self.progress.step != self._saved_step:
            self._save_state()
        return True

    def _step(self, batch: Batch, global_count: int, steps: int) -> None:
        """One step of the epoch's `steps`, on `global_count` images over all ranks."""
        before, config = self.progress, self.config
        lr = lowered(self.run_.schedule.rate(before.epoch + before.step_in_epoch / steps, before.plateau), before)
        self._diagnosis.before_step(before.step, steps)
        sums = self.engine.step(batch, global_count, before.step, lr, skipped=before.void)
        after = replace(before, step_in_epoch=before.step_in_epoch + 1, step=before.step + 1)
        if symptom := self._symptom(sums):
            self._bear(symptom, after)
        else:
            self.progress = replace(after, sums=before.sums.plus(sums), void_in_a_row=0)
            self._diagnosis.after_step(self.progress)
        seconds = self.engine.watch.take()
        self._work_seconds = {phase: before + seconds[phase] for phase, before in self._work_seconds.items()}
        if not symptom:
            self.report.step(self.progress, sums, lr, seconds, steps)
        if config.save_every and self.progress.step % config.save_every == 0:
            self._save_state()

    def _symptom(self, sums: Sums) -> str:
        """What isn't finite in the latest step, the same on all ranks; "" if everything is."""
        if not math.isfinite(sums.loss):
            return f"the loss is {sums.loss}"
        return "" if math.isfinite(self.engine.gradient_norm) else f"the gradient's norm is {self.engine.gradient_norm}"

    def _bear(self, symptom: str, after: Progress) -> None:
        """Counts a step that has changed nothing; raises Diverged if it has changed something, or if there are too many."""
        if self.config.on_nan != "skip":
            raise self._divergence(symptom)
        self.progress = replace(after, void=after.void + 1, void_in_a_row=after.void_in_a_row + 1)
        self.report.void_step(self.progress, symptom)
        if self.progress.void_in_a_row == SKIPS:
            raise self._divergence(f"{symptom} in {SKIPS} steps in a row, too many for --on-nan skip,")

    def _divergence(self, symptom: str) -> Diverged:
        layer, remedy = self._diagnosis.divergence(self.progress)
        first = f" ({layer} is the first layer whose output isn't finite)" if layer else ""
        return Diverged(f"{symptom} after {plural(self.progress.step, 'step')}{first}: training has diverged. {remedy}")

    def _restore(self, problem: Diverged) -> None:
        """Goes back to the latest checkpoint with a lower learning rate, if --on-nan says so; else raises the problem."""
        if self.config.on_nan != "restore":
            raise problem
        if not may_restore(self.progress):
            raise Diverged(f"{problem}. Going back {self.progress.restores} times (--on-nan restore) has not helped")
        self.progress = restore(self.run_, self.progress, saved=self._saved)
        self.report.restored(str(problem), self.progress, lowered(self.run_.schedule.lr, self.progress))

    def _report_broken(self, messages: list[str], broken: int, images: ImageSource) -> None:
        """Logs images that could not be read, `broken` in all so far; raises SharedError if that is too many."""
        if self.config.strict:
            raise SharedError(messages[0])
        for message in messages:
            if message not in self._reported:
                log.warning("skipped: %s", message)
        self._reported |= set(messages)
        if broken > self.config.max_bad * len(images) or broken == len(images):
            raise SharedError(
                f"{broken} of the {len(images)} images of {images.source} can't be read, more than --max-bad "
                f"{self.config.max_bad:g} allows; the latest: {messages[-1]}"
            )

    def _finish_epoch(self) -> None:
        """Validates, if it is this epoch's turn; the epoch is reported and saved."""
        plateau, skipped, best, epoch = self.progress.plateau, self.progress.broken, False, self.progress.epoch + 1
        if epoch % self.config.validate_every and epoch != self.config.epochs:
            self.report.epoch(self.progress, None, 0.0, skipped)
        else:
            plateau, broken = self._validate()
            skipped += broken
            best = plateau.best < self.progress.plateau.best or not self.folder.best.exists()
        self._diagnosis.after_epoch(self.progress)
        self._report_slowest()
        self.progress = replace(
            self.progress,
            epoch=epoch,
            step_in_epoch=0,
            sums=Sums(),
            broken=0,
            skipped=self.progress.skipped + skipped,
            plateau=plateau,
        )
        self._save_state(best)

    def _validate(self) -> tuple[Plateau, int]:
        """Evaluates and reports; rank 0 decides on the learning rate and broadcasts it. Returns that, and how many images
        were broken."""
        start, before = time.perf_counter(), self.progress.plateau
        features = self.run_.features.val if self.run_.features else None
        with self.engine.averaged():
            result = evaluate(self.engine.net, self.sources.val, self.world, self._workers, features=features)
            if result.broken:
                self._report_broken(list(result.broken), len(result.broken), self.sources.val)
            decision = self.world.broadcast_json(asdict(before.observe(result.error, self.run_.schedule)))
            broken = len(result.broken)
            self.report.epoch(self.progress, result, time.perf_counter() - start, self.progress.broken + broken)
            self.report.plateau(before, Plateau(**decision))
            self.run_.samples.report(self.engine.net, self.sources.class_names)
        return Plateau(**decision), broken

    def _report_slowest(self) -> None:
        """Logs which rank the others have waited for in this epoch."""
        everyone = [json.loads(text) for text in self.world.all_texts([json.dumps(self._work_seconds)])]
        self._work_seconds = dict.fromkeys(WORK_PHASES, 0.0)
        if sentence := slowest(everyone, self.world.all_hosts()):
            log.info("%s", sentence)

    def _write_timeline(self) -> None:
        """Rank 0 writes the events of all ranks, if they have been recorded."""
        timeline = self.run_.timeline
        if not isinstance(timeline, Timeline):
            return
        traces = self.world.all_texts([timeline.trace(self.world.rank)])
        with self.world.shared_errors():
            if self.world.rank == 0:
                write_trace(Path(str(self.config.timeline)), traces)

    # Saving

    def _save_state(self, best: bool = False) -> None:
        """Rank 0 writes a training state, and the weights alone (those that are validated) if they are the best so far."""
        values, state = self.engine.whole()
        if self.world.sum([values is not None and not np.isfinite(values).all()])[0]:
            raise self._divergence("a weight is not finite")
        with self.world.shared_errors():
            if values is not None:
                # The best weights first: a run that is killed in between repeats the end of this epoch.
                if best:
                    self._save_weights(self.folder.best, self._validated(values, state))
                self._save_training(self.folder.state(self.progress.step), values, state)
        self._saved_step, self._saved = self.progress.step, True

    def _validated(self, values: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The weights that are validated: their average where one is kept, which it isn't of frozen layers."""
        if AVERAGE not in state:
            return values
        start = self.engine.trained_from
        state[AVERAGE][:start] = values[:start]
        return state[AVERAGE]

    def _save_training(self, path: Path, values: np.ndarray, state: dict[str, np.ndarray]) -> None:
        run, engine = self.run_, self.engine
        training = {
            "progress": asdict(self.progress),
            "seed": self.config.seed,
            "global-batch": run.global_batch,
            "opt": self.config.opt,
            "train list": run.train_list,
            "sync": engine.strategy_name,
            "ranks": self.world.size,
            "nodes": run.nodes,
            "config": asdict(self.config),
        }
        header = checkpoint.Header(run.network, self.sources.class_names, training)
        skip = without_state(run.network, self.config, state)
        checkpoint.save(path, engine.parameters, values, state, header, skip=skip)
        self.folder.point_latest(path)

    def _save_weights(self, path: Path, values: np.ndarray) -> None:
        header = checkpoint.Header(self.run_.network, self.sources.class_names)
        checkpoint.save(path, self.engine.parameters, values, {}, header)
