"""The loop of a training run: epochs of steps, validation, learning rate, checkpoints. The same for any number of ranks."""

import json
import math
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial

from alexnet_dist.data.loader import Batch, Interrupted, Loader
from alexnet_dist.data.storage import Patience
from alexnet_dist.errors import STOPPED
from alexnet_dist.runs.log import log
from alexnet_dist.support.activity import ACTIVITY
from alexnet_dist.support.plural import plural
from alexnet_dist.support.signals import StopSignals
from alexnet_dist.training.broken_images import BrokenImages
from alexnet_dist.training.config import AUTO
from alexnet_dist.training.description import describe
from alexnet_dist.training.diagnosis import Diagnosis, Guessing
from alexnet_dist.training.evaluation import evaluate
from alexnet_dist.training.frozen_features import Kept, keep_features
from alexnet_dist.training.header import log_run_header
from alexnet_dist.training.not_finite import SKIPS, Diverged
from alexnet_dist.training.predictions import TOP, Predictions
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.replicas import compare_replicas
from alexnet_dist.training.report import Validation, write_timeline
from alexnet_dist.training.restoring import lowered, may_restore, rate, restore
from alexnet_dist.training.saving import Saver
from alexnet_dist.training.schedule import Plateau
from alexnet_dist.training.setup import Run
from alexnet_dist.training.symptoms import Probe
from alexnet_dist.training.training_loader import next_batch, training_loader


class Trainer:
    """Trains a run to its end, on all ranks. `signals` may catch already what comes before it begins."""

    def __init__(self, run: Run, signals: StopSignals | None = None) -> None:
        self.run_, self.config, self.world, self.engine = run, run.config, run.world, run.engine
        self.sources, self.folder, self.report = run.sources, run.folder, run.report
        self.progress = run.progress
        self.signals = signals or StopSignals()
        guessing = Guessing.of(run.sources.train.labels, run.network.num_classes, run.config.label_smoothing)
        probe = Probe(run.engine.net, run.engine.values, run.world, run.engine.trained_from)
        self._diagnosis = Diagnosis(run.config, probe, guessing, run.report.diagnosis)
        self._workers = run.config.workers or run.team.size
        self._patience = Patience(run.config.io_patience, run.warn, lambda: self.signals.received)
        self._saver = Saver(run)
        self._features: Kept | None = None  # of frozen layers, once they are computed
        self._broken = BrokenImages(run.config)
        self._seconds = dict.fromkeys(run.engine.watch.seconds, 0.0)  # this rank's by phase in this epoch

    def run(self) -> int:
        """Trains to the end, or until a signal or the plateau stops it; returns the exit code."""
        if self.run_.said:
            log.warning("WARNING: %s", self.run_.said)
        else:
            log_run_header(self.run_)
        self.report.began(self.progress, describe(self.run_))
        self._saver.check_room()
        with self.signals:
            try:
                self._features = keep_features(self.run_, self._workers, self._patience)
            except Interrupted:
                log.warning(
                    "stopped by a signal before the first step: nothing is to be saved; the same command begins again"
                )
                return STOPPED
            code = self._train()
            if self._features:
                self._features.node.close()
        return code

    def _train(self) -> int:
        with self._saver, self._training_loader() as loader:
            while self.progress.epoch < self.config.epochs and not self._plateau_is_final():
                try:
                    why = self._train_epoch(loader) or self._finish_epoch()
                except Diverged as problem:
                    self._restore(problem)
                    continue
                if why:
                    self._saver.wait()
                    write_timeline(self.run_)
                    log.warning("stopped %s after step %d; to go on: %s", why, self.progress.step, self._same_command())
                    return STOPPED
            self._saver.finish(self.progress)
        write_timeline(self.run_)
        self.report.complete(self.progress)
        return 0

    def _same_command(self) -> str:
        """What a person types to go on with the run."""
        same = "the same command"
        return same if self.config.resume == AUTO else f"{same} with --resume {shlex.quote(str(self.folder.path))}"

    def _plateau_is_final(self) -> bool:
        return self.config.lr_scheduler == "plateau" and self.progress.plateau.finished

    def _train_epoch(self, loader: Loader) -> str:
        """Runs the remaining steps of this epoch; what has stopped it, or "" """
        watch = self.engine.watch
        self.report.start_clock()
        first = self.progress.step_in_epoch
        with closing(loader.batches(self.progress.epoch, first)) as batches:
            for _ in range(first, loader.steps):
                with watch.phase("data"):
                    batch, failure = next_batch(batches)
                with watch.phase("wait"):
                    readable = len(batch.labels) - len(batch.broken)
                    facts: list[float] = [readable, len(batch.broken), self.signals.received, len(failure)]
                    facts += self._of_rank_0()
                    global_count, broken, stop, failures, save, lost = self.world.sum(facts)
                if lost:
                    self._saver.wait()  # raises what went wrong
                if stop or failures:
                    self._save_state()
                    return f"({self.world.all_texts(failure)[0]})" if failures else "by a signal"
                if broken:
                    self.progress = replace(self.progress, broken=self.progress.broken + int(broken))
                    self._broken.report(self.world.all_texts(batch.broken), self.progress.broken, self.sources.train)
                if global_count:
                    self._step(batch, int(global_count), loader.steps)
                else:
                    self._pass_over()
                if save:
                    self._save_state(optional=True)
        # The only state at this step: validation may take long, or fail, and who resumes can do it again.
        self._compare_replicas()
        if self.progress.step != self._saver.saved_step:
            self._save_state()
        return ""

    def _compare_replicas(self) -> None:
        """Raises Parted if the copies are no longer the same. They were at the end of the epoch before."""
        step = self.progress.step - self.progress.step_in_epoch
        good = (
            f"go on from it (--resume {self.folder.state(step)})" if step else "start anew, with another --output-dir"
        )
        remedy = (
            f"The last step after which they were the same is {step}: {good}. If it happens again, test the memory of "
            "that host, or leave it out"
        )
        compare_replicas(self.engine, remedy)

    def _training_loader(self) -> Loader:
        return training_loader(self.run_, self._features and self._features.train, self._workers, self._patience)

    def _pass_over(self) -> None:
        """A step none of whose images could be read: nothing is changed, by momentum and weight decay neither."""
        before = self.progress
        self.progress = replace(
            before, step_in_epoch=before.step_in_epoch + 1, step=before.step + 1, void=before.void + 1
        )

    def _step(self, batch: Batch, global_count: int, steps: int) -> None:
        """One step of the epoch's `steps`, on `global_count` images over all ranks."""
        before = self.progress
        lr = rate(self.run_.schedule, before, before.step_in_epoch / steps)
        self._diagnosis.before_step(before.step, steps)
        sums = self.engine.step(batch, global_count, before.step, lr, skipped=before.void)
        after = replace(before, step_in_epoch=before.step_in_epoch + 1, step=before.step + 1)
        if symptom := self._symptom(sums):
            self._bear(symptom, after)
        else:
            self.progress = replace(after, sums=before.sums.plus(sums), void_in_a_row=0)
            self._diagnosis.after_step(self.progress)
        seconds = self.engine.watch.take()
        self._seconds = {phase: before + seconds[phase] for phase, before in self._seconds.items()}
        if not symptom:
            self.report.step(self.progress, sums, lr, seconds, steps)

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
        self._saver.wait()
        self.progress = restore(self.run_, self.progress, saved=self._saver.saved)
        self.report.restored(str(problem), self.progress, lowered(self.run_.schedule.lr, self.progress))

    def _to_be_validated(self) -> bool:
        """Whether it is this epoch's turn."""
        epoch = self.progress.epoch + 1
        return epoch % self.config.validate_every == 0 or epoch == self.config.epochs

    def _finish_epoch(self) -> str:
        """Validates, if it is this epoch's turn, saves the weights if they are the best so far, and reports the epoch. What has
        stopped validation, or "" """
        plateau, skipped = self.progress.plateau, self.progress.broken
        if self._to_be_validated():
            try:
                plateau, broken, report_best = self._validate()
            except Interrupted:  # it is done again by who resumes
                return "by a signal"
            skipped += broken
            if report_best:
                self._saver.save_best(self.progress.step, then=report_best)
        else:
            self._report_epoch(skipped, None)
        self._diagnosis.after_epoch(self.progress)
        self._report_slowest()
        self.progress = replace(
            self.progress,
            epoch=self.progress.epoch + 1,
            step_in_epoch=0,
            sums=Sums(),
            broken=0,
            skipped=self.progress.skipped + skipped,
            plateau=plateau,
        )
        return ""

    def _validate(self) -> tuple[Plateau, int, Callable[[], None] | None]:
        """Evaluates and reports; rank 0 decides on the learning rate, and whether the weights are the best so far. Returns
        that, how many images were broken, and, of the best, what reports their predictions when they are written."""
        start, before = time.perf_counter(), self.progress.plateau
        ACTIVITY.begin("validation")
        features, seen = self._features and self._features.val, Predictions(TOP)
        with self.engine.averaged():
            result = evaluate(
                self.engine.net, self.sources.val, self.world, self._workers,
                features=features, patience=self._patience, observe=seen.add,
                progress=partial(self.report.between_steps, "validating"),
            )  # fmt: skip
            if result.broken:
                self._broken.report(list(result.broken), len(result.broken), self.sources.val)
            after = before.observe(result.error, result.means()["loss"], self.run_.schedule)
            best = after.is_better(before) or not self.folder.best.exists()
            decision, best = self.world.broadcast_json([asdict(after), best])
            broken = len(result.broken)
            validation = Validation(result, time.perf_counter() - start, best)
            self._report_epoch(self.progress.broken + broken, validation)
            self.report.plateau(self.progress, Plateau(**decision))
            self.run_.samples.report(self.engine.net, self.sources.class_names)
        if not best:
            return Plateau(**decision), broken, None
        return Plateau(**decision), broken, partial(self.report.predictions, self.sources, seen.gathered(self.world))

    def _report_epoch(self, skipped: int, validation: Validation | None) -> None:
        steps = self.progress.step_in_epoch
        self.report.epoch(
            self.progress, rate(self.run_.schedule, self.progress, (steps - 1) / steps), skipped, validation
        )

    def _report_slowest(self) -> None:
        """Reports each rank's work in this epoch, and which of them the others have waited for."""
        if not any(self._seconds.values()):  # the run goes on at this epoch's end
            return
        everyone = [json.loads(text) for text in self.world.all_texts([json.dumps(self._seconds)])]
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self.report.ranks(self.progress, everyone, self.world.all_hosts())

    def _save_state(self, optional: bool = False) -> None:
        """A training state. Raises Diverged rather than save NaN.

        An `optional` one is left out while the one before can't be written, so that training goes on.
        """
        start = time.perf_counter()
        if optional and not self._saver.ready():
            return
        if not self._saver.save(self.progress):
            raise self._divergence("a weight is not finite")
        self.report.saved(self.progress, time.perf_counter() - start)

    def _of_rank_0(self) -> list[bool]:
        """Whether this step is followed by a state, and whether writing the latest has failed: rank 0 decides."""
        return [self.world.rank == 0 and self._saver.due(self.progress.step + 1), self._saver.failed]
