"""How far a run has come: all that its continuation depends on, besides parameters and the optimizer's state."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alexnet_dist.training.schedule import Plateau


class Sums(NamedTuple):
    """What is added up over images: the losses in float64, and counts, which float64 holds exactly."""

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    images: float = 0.0

    def plus(self, other: "Sums") -> "Sums":
        """The sums over both."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    def means(self, classes: int) -> dict[str, float]:
        """Mean loss, and top-1 accuracy as a share of 1; of more than 5 classes also top-5, which else says nothing."""
        images = max(self.images, 1)
        means = {"loss": self.loss / images, "top1": self.top1 / images}
        return means | ({"top5": self.top5 / images} if classes > 5 else {})


@dataclass(frozen=True)
class Progress:
    """Epochs and steps that are done; `sums` and `broken` (images that could not be read) are of this epoch so far,
    `skipped` counts those of the epochs before, validation included.

    `void` counts the steps that have changed nothing (--on-nan skip), `void_in_a_row` the latest of them; `restores` is
    how often the run has gone back to a checkpoint (--on-nan restore).
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    broken: int = 0
    skipped: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    void: int = 0
    void_in_a_row: int = 0
    restores: int = 0

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Progress":
        """From asdict(progress) that was written as JSON and read again. Raises KeyError, TypeError or ValueError for what
        that has never been."""
        plateau = fields["plateau"]
        counts = [*(fields[name] for name in fields.keys() - {"sums", "plateau"})]
        counts += [plateau["bad_epochs"], plateau["reductions"]]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"counts are not whole numbers: {counts}")
        best = plateau["best"], plateau.get("best_loss", 0.0)  # earlier versions didn't have the loss
        if not all(isinstance(number, int | float) for number in (*fields["sums"], *best)):
            raise ValueError(f"no numbers: {fields['sums']}, {best}")
        return cls(**{**fields, "sums": Sums(*fields["sums"]), "plateau": Plateau(**fields["plateau"])})
