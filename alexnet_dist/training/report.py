"""What a run reports while it trains: a log for people, metrics for programs."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_dist.data.sources import Sources
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import summary
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.runs.log import RunLog, log
from alexnet_dist.runs.metrics import PREDICTIONS
from alexnet_dist.runs.timeline import Timeline, slowest, write_trace
from alexnet_dist.support.plural import plural
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.evaluation import Evaluation
from alexnet_dist.training.not_finite import RESTORES
from alexnet_dist.training.predictions import Prediction, predictions_csv, titles
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.schedule import Plateau

if TYPE_CHECKING:
    from alexnet_dist.training.setup import Run


class Report:
    """The log and the metrics of a run."""

    def __init__(self, out: RunLog, config: TrainingConfig, global_batch: int, num_classes: int) -> None:
        self._out, self._config, self._global_batch, self._num_classes = out, config, global_batch, num_classes
        self.start_clock()

    def start_clock(self) -> None:
        """To be called before the first step of an epoch, so that its speed doesn't include what came before."""
        self._step_mark = self._line_mark = self._epoch_mark = time.perf_counter()
        self._line_images = self._epoch_images = self._epoch_seconds = 0.0

    def step(self, progress: Progress, sums: Sums, lr: float, seconds: dict[str, float], steps: int) -> None:
        """A line of metrics for each step, and one of progress for every --print-freq'th and the last of `steps`."""
        now = time.perf_counter()
        took, self._step_mark = now - self._step_mark, now
        self._epoch_seconds = now - self._epoch_mark
        self._epoch_images += sums.images
        self._line_images += sums.images
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
        if progress.step_in_epoch % self._config.print_freq and progress.step_in_epoch != steps:
            return
        speed, epochs = self._line_images / (now - self._line_mark), self._config.epochs
        left = (steps * (epochs - progress.epoch) - progress.step_in_epoch) * self._global_batch / max(speed, 1e-9)
        log.info(
            "epoch %d/%d  step %d/%d  loss %.4f  top-1 %.1f%%  lr %.3g  %.1f images/s  ETA %s",
            progress.epoch + 1, epochs, progress.step_in_epoch, steps,
            means["loss"], 100 * means["top1"], lr, speed, duration(left),
        )  # fmt: skip
        self._line_mark, self._line_images = now, 0.0

    def epoch(self, progress: Progress, lr: float, skipped: int, validation: "Validation | None") -> None:
        """The results of an epoch, in whose last step the learning rate was `lr`; `validation` if there was one."""
        train = progress.sums.means(self._num_classes)
        log.info(
            "epoch %d/%d  train loss %.4f top-1 %.2f%%  %s",
            progress.epoch + 1, self._config.epochs, train["loss"], 100 * train["top1"],
            validation or "not validated",
        )  # fmt: skip
        if skipped:
            log.warning("skipped in this epoch: %s that could not be read", plural(skipped, "image"))
        if progress.void:
            log.warning("so far, %s changed nothing (--on-nan skip, or no image was readable)", _made(progress.void))
        means = validation.result.means() if validation else dict.fromkeys(train)
        self._out.metrics(
            "epochs",
            epoch=progress.epoch + 1,
            step=progress.step,
            lr=lr,
            **{f"train_{name}": value for name, value in train.items()},
            **{f"val_{name}": value for name, value in means.items()},
            val_images=validation.result.images if validation else None,
            seconds=round(self._epoch_seconds, 3),
            val_seconds=round(validation.seconds, 3) if validation else None,
            images_per_second=round(self._epoch_images / self._epoch_seconds, 3) if self._epoch_seconds else None,
            skipped=skipped,
            void=progress.void,
            best=validation is not None and validation.best,
        )

    def ranks(self, progress: Progress, seconds: list[dict[str, float]], hosts: list[str]) -> None:
        """Each rank's seconds by phase in the epoch that ends, and its host; and which rank the others have waited for."""
        for rank, (by_phase, host) in enumerate(zip(seconds, hosts, strict=True)):
            place = {"epoch": progress.epoch + 1, "step": progress.step, "rank": rank, "host": host}
            self._out.metrics("ranks", **place, **_columns(by_phase))
        if sentence := slowest(seconds, hosts):
            log.info("%s", sentence)

    def predictions(self, sources: Sources, predictions: Sequence[Prediction]) -> None:
        """What the best weights say of the validation images, for predictions.csv; none on other ranks than 0."""
        if not predictions:
            return
        names = sources.class_names or [str(number) for number in range(self._num_classes)]
        self._out.replace(PREDICTIONS, predictions_csv(predictions, names, titles(sources.val)))

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
        """The end of the run."""
        log.info("finished after %s and %s", plural(progress.epoch, "epoch"), plural(progress.step, "step"))
        if progress.skipped:
            log.warning("in all epochs together, %s an image could not be read", plural(progress.skipped, "time"))
        if progress.void:
            log.warning("in all, %s changed nothing (--on-nan skip, or no image was readable)", _made(progress.void))
        self._event("complete", progress, skipped=progress.skipped)

    def _event(self, event: str, progress: Progress, **details: Any) -> None:
        self._out.metrics("events", epoch=_epoch(progress), step=progress.step, event=event, **details)

    def failed(self, error: Exception) -> None:
        """What ends the run, which the program says on stderr."""
        self._out.note(f"error: {error}")

    def sync(self) -> None:
        """Flushes what has been reported to the disk; any thread may call this."""
        self._out.sync()

    def close(self) -> None:
        """Closes the files."""
        self._out.close()


@dataclass(frozen=True)
class Validation:
    """An epoch's validation: it took `seconds`; `best` if the weights are the best so far."""

    result: Evaluation
    seconds: float
    best: bool

    def __str__(self) -> str:
        return f"validation {self.result}  ({duration(self.seconds)})"


def _epoch(progress: Progress) -> int:
    """The epoch, counted from 1, that the last step was of; 0 before the first step."""
    return progress.epoch + (progress.step_in_epoch > 0)


def _columns(seconds: dict[str, float]) -> dict[str, float]:
    return {f"seconds_{phase}": round(value, 6) for phase, value in seconds.items()}


def _made(count: int) -> str:
    return f"{plural(count, 'step')} {'has' if count == 1 else 'have'}"


def duration(seconds: float) -> str:
    """Seconds for people: 47s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def log_run_header(run: "Run") -> None:
    """Logs what people ask about afterwards: the network, the data, batch, ranks, threads and learning rate, and where a
    resumed run continues."""
    config, sources, batch, ranks = run.config, run.sources, run.global_batch, run.world.size
    for line in summary(run.network).splitlines():
        log.info("%s", line)
    classes = f"{run.network.num_classes} {'class' if run.network.num_classes == 1 else 'classes'}"
    log.info("%d training and %s, %s", len(sources.train), plural(len(sources.val), "validation image"), classes)
    for note in sources.notes:
        log.info("%s", note)
    batch_flag = "--batch-size" if config.batch_size else "--global-batch" if config.global_batch else "default"
    share = "1 image" if batch == ranks else f"{batch / ranks:g} images"
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    log.info(
        "%s of %s; global batch %d (%s), %s a rank%s",
        plural(ranks, "rank"),
        plural(run.team.size, "thread"),
        batch,
        batch_flag,
        share,
        parts,
    )
    if batch < ranks:
        log.warning(
            "WARNING: a step has fewer images (%d) than there are ranks (%d): the others only wait", batch, ranks
        )
    scaled = (
        f"{config.lr:g} scaled from a batch of {config.lr_reference_batch}" if config.lr_reference_batch else "as given"
    )
    log.info("learning rate %g for the global batch, not for each rank (%s)", run.schedule.lr, scaled)
    log.info("output: %s", config.output_dir)
    log.info("gradients: %s (%s)", run.engine.strategy_name, run.why_strategy)
    for block in run.engine.net.blocks:
        if isinstance(block, ConvBlock):
            log.info("convolution to %s: %s", "x".join(map(str, block.map_shape)), block.convolution.name)
    if run.resumed is not None:
        _log_resumption(run, run.resumed)


def _log_resumption(run: "Run", state: dict[str, Any]) -> None:
    """Logs where the run continues, and what has changed: flags, and the list of images."""
    progress = run.progress
    log.info("resumed after %s and %s", plural(progress.epoch, "epoch"), plural(progress.step_in_epoch, "step"))
    for name, value in json.loads(json.dumps(asdict(run.config))).items():
        before = state["config"].get(name)
        if name != "resume" and value != before and name in state["config"]:
            log.info("  with another --%s: %s, before: %s", name.replace("_", "-"), value, before)
    if state["train list"] != run.train_list:
        log.warning("the training images are not those the run began with: the epoch may repeat or miss some")


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
