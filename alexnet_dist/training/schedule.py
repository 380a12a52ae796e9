"""The learning rate as a function of the epoch so far, and of the validation errors. Pure functions, without MPI."""

import math
from dataclasses import dataclass, replace

SCHEDULERS = ("plateau", "step", "cosine", "polynomial")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes. Epochs may be fractions: rates change from step to step."""

    scheduler: str = "plateau"
    lr: float = 0.01  # at the end of the warmup
    epochs: int = 90
    warmup_epochs: float = 0.0
    warmup_decay: float = 0.01  # the warmup rises linearly from this share of the rate to all of it
    step_size: float = 30.0  # step: epochs from one reduction to the next
    gamma: float = 0.1  # step and plateau: what a reduction multiplies the rate by
    power: float = 1.0  # polynomial
    lr_min: float = 0.0  # cosine and polynomial end here
    patience: int = 5  # plateau: validations without improvement before a reduction
    reductions: int = 3  # plateau: how many; at the plateau after the last one training stops

    def rate(self, epoch: float, plateau: "Plateau") -> float:
        """The learning rate after `epoch` epochs, a fraction in the middle of one."""
        if epoch < self.warmup_epochs:
            done = epoch / self.warmup_epochs
            return self.lr * (self.warmup_decay + (1 - self.warmup_decay) * done)
        done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        if self.scheduler == "plateau":
            return self.lr * self.gamma**plateau.reductions
        if self.scheduler == "step":
            # Counted from the end of the warmup, as the others are, and as torchvision's references do.
            return self.lr * self.gamma ** math.floor((epoch - self.warmup_epochs) / self.step_size + 1e-9)
        left = 1 - min(done, 1)
        share = (1 - math.cos(math.pi * left)) / 2 if self.scheduler == "cosine" else left**self.power
        return self.lr_min + (self.lr - self.lr_min) * share


@dataclass(frozen=True)
class Plateau:
    """The state that the validation errors so far have led to."""

    best: float = math.inf
    best_loss: float = -math.inf  # of the best weights; no tie beats a state of earlier versions, which lacks it
    bad_epochs: int = 0
    reductions: int = 0
    finished: bool = False

    def observe(self, error: float, loss: float, schedule: Schedule) -> "Plateau":
        """The state after one more epoch's validation error (a share of 1) and mean loss; lower is better. The loss decides
        which of several weights with the same error are the best, and nothing else."""
        if error < self.best:
            return replace(self, best=error, best_loss=loss, bad_epochs=0)
        best_loss = loss if error == self.best and loss < self.best_loss else self.best_loss
        bad = replace(self, best_loss=best_loss, bad_epochs=self.bad_epochs + 1)
        if schedule.scheduler != "plateau" or self.bad_epochs < schedule.patience:
            return bad
        if self.reductions == schedule.reductions:
            return replace(bad, finished=True)
        return replace(bad, bad_epochs=0, reductions=self.reductions + 1)

    def is_better(self, before: "Plateau") -> bool:
        """Whether the weights observed last, since `before`, are the best so far."""
        return (self.best, self.best_loss) < (before.best, before.best_loss)

    def resumed(self, schedule: Schedule) -> "Plateau":
        """The state to go on from with a schedule that may allow more reductions than the one that ended here: the next."""
        if not self.finished or self.reductions >= schedule.reductions:
            return self
        return replace(self, bad_epochs=0, reductions=self.reductions + 1, finished=False)
