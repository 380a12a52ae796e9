"""What a run reports while it trains: a log for people, metrics for programs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_dist.data.class_names import distinct
from alexnet_dist.data.sources import Sources
from alexnet_dist.errors import UserError
from alexnet_dist.runs.log import RunLog, log
from alexnet_dist.runs.metrics import PREDICTIONS
from alexnet_dist.runs.tensorboard import EventFile
from alexnet_dist.runs.timeline import Timeline, slowest, write_trace
from alexnet_dist.support.duration import duration
from alexnet_dist.support.plural import plural
from alexnet_dist.support.tracking import INTERVAL
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.evaluation import Evaluation
from alexnet_dist.training.live import open_screen
from alexnet_dist.training.not_finite import RESTORES
from alexnet_dist.training.outcome import what_is_left
from alexnet_dist.training.pace import Pace
from alexnet_dist.training.predictions import Prediction, predictions_csv, titles
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.schedule import Plateau
from alexnet_dist.training.screen import PROGRESS, WIDTH, Place, Screen, Speed, Status

if TYPE_CHECKING:
    from alexnet_dist.training.setup import Inputs, Run


class Report:
    """The log and the metrics of a run, and what `screen` shows of it. A validation is of `validated` images."""

    def __init__(
        self,
        out: RunLog,
        config: TrainingConfig,
        global_batch: int,
        num_classes: int,
        screen: Screen | None = None,
        *,
        validated: int = 0,
    ) -> None:
        self._out, self._config, self._global_batch, self._num_classes = out, config, global_batch, num_classes
        self._screen = screen or Screen()
        self._pace = Pace(config.print_freq, validated)
        self._clock = self._told = time.monotonic()
        out.listeners.append(self._screen.row)

    def start_clock(self) -> None:
        """To be called before the first step of an epoch, so that its speed doesn't include what came before."""
        self._pace.start_epoch()

    def step(self, progress: Progress, sums: Sums, lr: float, seconds: dict[str, float], steps: int) -> None:
        """A row of metrics for each step, and a line of progress when it is due, after the last of `steps` in any case."""
        pace, config = self._pace, self._config
        took = pace.step(sums.images, seconds["data"] + seconds["forward"])
        self._told = time.monotonic()
        means = sums.means(self._num_classes)
        self._out.metrics(
            "steps",
            epoch=progress.epoch + 1,
            step=progress.step,
            **means,
            lr=lr,
            images=int(sums.images),
            images_per_second=round(sums.images / took, 3),
            **_columns(seconds),
        )
        left = (steps * (config.epochs - progress.epoch) - progress.step_in_epoch) * self._global_batch
        status = Status(
            Place(progress.epoch + 1, config.epochs, progress.step_in_epoch, steps),
            means,
            lr,
            Speed(pace.now, pace.mean, pace.left(left, _validations(config, progress.epoch))),
        )
        self._screen.step(status)
        if pace.due(progress.step_in_epoch, steps):
            log.info("%s", status, extra=PROGRESS)

    def between_steps(self, what: str, done: int, images: int) -> None:
        """What the ranks do, and for how many of how many images they have done it, as far as this rank knows."""
        self._screen.between_steps(what, done, images)
        if time.monotonic() - self._told > INTERVAL and done < images:
            self._told = time.monotonic()
            log.info("%s %d of %d", what, done, images, extra=PROGRESS)

    def epoch(self, progress: Progress, lr: float, skipped: int, validation: "Validation | None") -> None:
        """The results of an epoch, in whose last step the learning rate was `lr`; `validation` if there was one."""
        train, pace = progress.sums.means(self._num_classes), self._pace
        speed = round(pace.of_epoch, 3) if pace.of_epoch else None
        made: dict[str, Any] = {"lr": lr, "seconds": round(pace.epoch_seconds, 3), "images_per_second": speed}
        earlier = {} if speed else self._out.last("epochs")
        # A start that only validates the epoch again: its flags may be others than those of the steps.
        if earlier.get("step") == progress.step:
            made |= {name: earlier[name] for name in made if name in earlier}
        told = f"epoch {progress.epoch + 1}/{self._config.epochs}"
        log.info(
            "%s  train loss %.4f  top-1 %.2f%%  lr %.3g  %s",
            told, train["loss"], 100 * train["top1"], made["lr"], duration(made["seconds"]),
        )  # fmt: skip
        log.info("%s  %s", told, validation.told(WIDTH - len(told) - 2) if validation else "not validated")
        if skipped:
            log.warning("skipped in this epoch: %s that could not be read", plural(skipped, "image"))
        if progress.void:
            log.warning("so far, %s changed nothing (--on-nan skip, or no image was readable)", _made(progress.void))
        means = validation.result.means() if validation else dict.fromkeys(train)
        pace.validation = validation.seconds if validation else pace.validation
        self._out.metrics(
            "epochs",
            epoch=progress.epoch + 1,
            step=progress.step,
            **made,
            **{f"train_{name}": value for name, value in train.items()},
            **{f"val_{name}": value for name, value in means.items()},
            val_images=validation.result.images if validation else None,
            val_seconds=round(validation.seconds, 3) if validation else None,
            skipped=skipped,
            void=progress.void,
            best=validation is not None and validation.best,
        )

    def ranks(self, progress: Progress, seconds: list[dict[str, float]], hosts: list[str]) -> None:
        """Each rank's seconds by phase in the epoch that ends, and its host; and which rank the others have waited for."""
        if not any(sum(by_phase.values()) for by_phase in seconds):  # this start has only validated the epoch again
            return
        for rank, (by_phase, host) in enumerate(zip(seconds, hosts, strict=True)):
            place = {"epoch": progress.epoch + 1, "step": progress.step, "rank": rank, "host": host}
            self._out.metrics("ranks", **place, **_columns(by_phase))
        if sentence := slowest(seconds, hosts):
            log.info("%s", sentence)

    def predictions(self, sources: Sources, predictions: Sequence[Prediction]) -> None:
        """What the best weights say of the validation images, for predictions.csv; none on other ranks than 0."""
        if not predictions:
            return
        names = distinct(sources.class_names or [str(number) for number in range(self._num_classes)])
        self._out.replace(PREDICTIONS, predictions_csv(predictions, names, titles(sources.val)))

    def layers(self, lines: Sequence[str]) -> None:
        """The table of layers and what runs them: for the log's file, and for the screen with --summary."""
        if not self._config.summary:
            self._out.note(*lines)
            return
        for line in lines:
            log.info("%s", line)

    def diagnosis(self, kind: str, progress: Progress, text: str) -> None:
        """What shows that the run trains badly, and what to do."""
        log.warning("WARNING: %s", text)
        self._event("diagnosis", progress, kind=kind, text=text)

    def plateau(self, progress: Progress, after: Plateau) -> None:
        """A reduction of the learning rate, or the end of training, if the validation error has led to one."""
        if after.reductions > progress.plateau.reductions:
            log.info("the validation error has stopped improving: reduction %d of the learning rate", after.reductions)
        elif after.finished:
            log.info("the validation error has stopped improving at the last learning rate: training ends")
        else:
            return
        self._event("plateau", progress, reductions=after.reductions, finished=after.finished)

    def void_step(self, progress: Progress, symptom: str) -> None:
        """A step that has changed nothing, since `symptom`; people are told of the first in each run of such steps."""
        if progress.void_in_a_row == 1:
            log.warning("WARNING: %s in step %d, which changes nothing (--on-nan skip)", symptom, progress.step)
        self._event("void step", progress, symptom=symptom)

    def saved(self, progress: Progress, waited: float) -> None:
        """A state is being written; training has waited for so many seconds."""
        self._event("checkpoint", progress, waited=round(waited, 6))

    def restored(self, problem: str, progress: Progress, lr: float) -> None:
        """The run goes on from `progress`, with --lr lowered to `lr`."""
        log.warning(
            "WARNING: %s. Back to step %d, with the learning rate %g instead (--on-nan restore, %d of at most %d times)",
            problem, progress.step, lr, progress.restores, RESTORES,
        )  # fmt: skip
        self._event("restored", progress, problem=problem, lr=lr)

    def began(self, progress: Progress, info: dict[str, Any]) -> None:
        """Marks in the metrics where a run begins or continues: any earlier lines of later steps are not part of it. `info`
        is for run.json."""
        place = {"epoch": _epoch(progress), "step": progress.step, "ranks": info["ranks"]}
        self._event("resume" if progress.step else "start", progress, ranks=info["ranks"])
        self._out.describe(info, place)

    def complete(self, progress: Progress) -> None:
        """The end of the run: what has come of it, and where it is."""
        done = f"finished after {plural(progress.epoch, 'epoch')} and {plural(progress.step, 'step')}"
        took = duration(time.monotonic() - self._clock)
        since = f"in {took}" if self._out.attempt == 1 else f"({took} since the latest start)"
        speed = f", {self._pace.mean:.1f} images/s in steps" if self._pace.images else ""
        log.info("%s %s%s", done, since, speed)
        if progress.skipped:
            log.warning("in all epochs together, %s an image could not be read", plural(progress.skipped, "time"))
        if progress.void:
            log.warning("in all, %s changed nothing (--on-nan skip, or no image was readable)", _made(progress.void))
        self._event("complete", progress, skipped=progress.skipped)
        if self._out.enabled:
            for line in what_is_left(self._out.folder, self._config):
                log.info("%s", line)

    def _event(self, event: str, progress: Progress, **details: Any) -> None:
        self._out.metrics("events", epoch=_epoch(progress), step=progress.step, event=event, **details)

    def failed(self, error: Exception) -> None:
        """What ends the run, which the program says on stderr."""
        self._out.note(f"error: {error}")

    def sync(self) -> None:
        """Flushes what has been reported to the disk; any thread may call this."""
        self._out.sync()

    def close(self) -> None:
        """Leaves the screen, and closes the files."""
        self._screen.close()
        self._out.close()


@dataclass(frozen=True)
class Validation:
    """An epoch's validation: it took `seconds`; `best` if the weights are the best so far."""

    result: Evaluation
    seconds: float
    best: bool

    def told(self, width: int) -> str:
        """For people, in a line of so many characters: in fewer words, without the seconds, where it else is longer."""
        means, counts = self.result.means(), self.result.sums
        top5 = f"top-5 {means['top5']:.2%}  " if "top5" in means else ""
        result = f"top-1 {means['top1']:.2%} ({counts.top1:.0f} of {counts.images:.0f})  {top5}loss {means['loss']:.4f}"
        line = f"validation {result}  {duration(self.seconds)}{'  (best so far)' if self.best else ''}"
        return line if len(line) <= width else f"val {result}{'  best' if self.best else ''}"


def open_report(inputs: "Inputs", said: Sequence[str]) -> Report:
    """Opens the screen, the log and the metrics; on other ranks than 0, a report that says nothing. Raises UserError.

    Lines that people were told before, `said`, go to the log's file.
    """
    config, first = inputs.config, inputs.world.rank == 0
    screen = open_screen(config.progress) if first else Screen()
    out = RunLog(inputs.folder.path, enabled=first, said=said, screen=screen.handler)
    if first and config.tensorboard:
        out.listeners.append(EventFile(inputs.folder.path, out.attempt).add)
    return Report(
        out, config, inputs.global_batch, inputs.network.num_classes, screen, validated=len(inputs.sources.val)
    )


def _epoch(progress: Progress) -> int:
    """The epoch, counted from 1, that the last step was of; 0 before the first step."""
    return progress.epoch + (progress.step_in_epoch > 0)


def _columns(seconds: dict[str, float]) -> dict[str, float]:
    return {f"seconds_{phase}": round(value, 6) for phase, value in seconds.items()}


def _validations(config: TrainingConfig, epoch: int) -> int:
    """How many there are after `epoch` epochs: one after each --validate-every'th, and after the last."""
    every = config.validate_every
    return config.epochs // every - epoch // every + (config.epochs % every > 0)


def _made(count: int) -> str:
    return f"{plural(count, 'step')} {'has' if count == 1 else 'have'}"


def write_timeline(run: "Run") -> None:
    """Collective: rank 0 writes the events of all ranks, if they have been recorded."""
    if not isinstance(run.timeline, Timeline):
        return
    traces = run.world.gathered(run.timeline.trace(run.world.rank).encode())
    try:
        if run.world.rank == 0:
            write_trace(Path(str(run.config.timeline)), (trace.decode() for trace in traces))
    except UserError as error:  # the run itself is complete, or has been saved
        log.warning("WARNING: no timeline: %s", error)
    for _ in traces:  # the others send theirs, and rank 0 takes what it could not write
        pass
