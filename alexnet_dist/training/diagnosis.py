"""Says when a run doesn't learn, what shows it, and what to do: each thing once, and nothing about a healthy run.

Looks closely (symptoms.py) at few steps: some at the run's beginning, then four in an epoch, never more than one in
WINDOW * 5. A healthy layer may have many units that are 0 for a whole batch, whose images resemble each other; so a layer
is said to be dying only after several batches, and at once only if it is dead altogether.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alexnet_dist.support.plural import plural
from alexnet_dist.training import remedies
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.symptoms import Probe, Reading

FIRST = (0, 4, 9)  # steps of the run that are looked at
WINDOW = 4  # readings after which a layer is judged
DYING = 0.9  # of a layer's units have been 0 throughout a window
EXPLODING = 0.3  # an update of so much of a layer's weights
STUCK_EPOCHS, STUCK_STEPS = 3, 300  # after both, at an epoch's end, the loss should be lower than guessing gives ...
STUCK_AFTER = 2000  # ... and after so many steps, even on ImageNet

Say = Callable[[str, Progress, str], None]  # (kind, progress, text)


@dataclass(frozen=True)
class Guessing:
    """What a network gets that knows only how frequent each class is: its mean loss, and its share of right answers."""

    loss: float
    top1: float

    @classmethod
    def of(cls, labels: np.ndarray, num_classes: int, smoothing: float) -> "Guessing":
        """For images with these labels [N]. For classes of one size the loss is ln(num_classes)."""
        shares = np.bincount(labels, minlength=num_classes) / len(labels)
        targets = (1 - smoothing) * shares + smoothing / num_classes
        targets = targets[targets > 0]
        return cls(float(-(targets * np.log(targets)).sum()), float(shares.max()))

    def explains(self, progress: Progress) -> bool:
        """Whether the results of this epoch so far are no better than that, by more than chance gives."""
        sums = progress.sums
        if not sums.images:
            return False
        luck = 3 * math.sqrt(self.top1 * (1 - self.top1) / sums.images)
        return sums.loss / sums.images > 0.99 * self.loss and sums.top1 / sums.images <= self.top1 + luck


class Diagnosis:
    """Call before_step and after_step around each step, and after_epoch. after_step is collective."""

    def __init__(self, config: TrainingConfig, probe: Probe, guessing: Guessing, say: Say) -> None:
        self._config, self._probe, self._guessing, self._say = config, probe, guessing, say
        self._said: set[str] = set()
        self._readings = 0  # in this window
        self._dead: list[str] = []
        self._update = 0.0  # the largest of a layer in the latest reading

    def before_step(self, step: int, steps: int) -> None:
        """`step` counts the run's steps before this one, `steps` are those of an epoch."""
        interval = max(5 * WINDOW, steps // WINDOW)
        self._looks = step in FIRST or step % interval == interval - 1
        if self._looks:
            self._probe.before_step()

    def after_step(self, progress: Progress) -> None:
        """Looks at the step that has been made, if it is one of those to look at."""
        if self._looks:
            self._read(self._probe.after_step(), progress)
        if progress.step == STUCK_AFTER:
            self._judge_loss(progress)

    def after_epoch(self, progress: Progress) -> None:
        """Judges the loss, when there have been enough epochs and steps since the warmup."""
        if progress.epoch + 1 >= self._config.lr_warmup_epochs + STUCK_EPOCHS and progress.step >= STUCK_STEPS:
            self._judge_loss(progress)

    def divergence(self, progress: Progress) -> tuple[str, str]:
        """Collective: the layer in which the latest step first isn't finite, "" if in none, and what to do."""
        return self._probe.first_not_finite(), remedies.for_divergence(self._config, updated=progress.step > 0)

    def _read(self, reading: Reading, progress: Progress) -> None:
        worst = max(reading.updates, key=lambda name: reading.updates[name])
        self._update = reading.updates[worst]
        if self._update > EXPLODING:
            self._once(
                "update",
                progress,
                f"step {progress.step} has changed the weights of {worst} by {self._update:.3g} of their norm (usual are "
                f"0.0001 to 0.01). {remedies.for_large_update(self._config)}",
            )
        self._readings += 1
        self._judge_units(reading.dead, progress)
        if self._readings == WINDOW:
            self._readings = 0
            self._probe.forget()

    def _judge_units(self, dead: dict[str, float], progress: Progress) -> None:
        remedy = remedies.for_dead_layers(self._config, updated=progress.step > 1)
        if not self._dead:  # what is said of layers after a dead one would follow from it
            self._dead = [name for name, share in dead.items() if share == 1]
            if self._dead:
                layers = ", ".join(self._dead)
                self._once(
                    "dead", progress, f"all units are 0 for every image, in step {progress.step}: {layers}. {remedy}"
                )
            elif self._readings == WINDOW and max(dead.values(), default=0) >= DYING:
                layers = ", ".join(f"{share:.0%} of {name}" for name, share in dead.items() if share >= DYING)
                self._once(
                    "dying", progress, f"units that were 0 for every image in {WINDOW} batches: {layers}. {remedy}"
                )

    def _judge_loss(self, progress: Progress) -> None:
        if self._guessing.explains(progress):
            sums, guessing = progress.sums, self._guessing
            self._once(
                "guessing",
                progress,
                f"not learning: after {plural(progress.step, 'step')} the training loss, {sums.loss / sums.images:.4f}, "
                f"and top-1, {sums.top1 / sums.images:.2%}, are no better than what guessing by the frequency of the classes "
                f"gives, {guessing.loss:.4f} and {guessing.top1:.2%}. "
                f"{remedies.for_guessing(self._config, self._update, self._dead)}",
            )

    def _once(self, kind: str, progress: Progress, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(kind, progress, text)
