"""The configuration of a training run: one field for each flag, validated once."""

import math
from dataclasses import dataclass, fields
from typing import Any

from alexnet_dist.data.augment import INTERPOLATIONS, Augmentation
from alexnet_dist.data.auto_augment import AFFINE_INTERPOLATIONS, LEVELS, POLICIES
from alexnet_dist.errors import UserError
from alexnet_dist.model.convolutions import MODES
from alexnet_dist.model.parameters import INITIALIZERS
from alexnet_dist.training.not_finite import ON_NAN
from alexnet_dist.training.optim import OPTIMIZERS, hyperparameter_owners
from alexnet_dist.training.schedule import SCHEDULERS, Schedule
from alexnet_dist.training.screen import SCREENS
from alexnet_dist.training.strategies import sync_choices

GLOBAL_BATCH = 128  # if neither flag is given
CROPS = ("random-resized", "paper", "none")


AUTO = "auto"  # of --resume


@dataclass(frozen=True)
class TrainingConfig:
    """The flags of `alexnet-train` under their own names; --help says what each means. JSON can represent all of them."""

    data: str = "images.list"
    val: str | None = None
    val_fraction: float | None = None
    class_names: str | None = None
    num_classes: int | None = None
    ignore_class_names: bool = False
    crop: str = "random-resized"
    flip: bool = True
    color_noise: bool = False
    color_jitter: tuple[float, ...] = ()
    auto_augment: str | None = None
    ra_magnitude: int = 9
    random_erasing: float = 0.0
    mixup_alpha: float = 0.0
    interpolation: str = "bilinear"
    workers: int | None = None
    strict: bool = False
    max_bad: float = 0.1
    io_patience: float = 300.0

    image_size: int = 224
    width: float = 1.0
    dropout: float = 0.5
    init: str = "he"
    conv: str = "auto"

    epochs: int = 90
    global_batch: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    opt: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_weight_decay: float | None = None
    nesterov: bool = False
    trust_coefficient: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    on_nan: str = "stop"

    lr_scheduler: str = "plateau"
    lr_patience: int = 5
    lr_reductions: int = 3
    lr_step_size: float = 30.0
    lr_gamma: float = 0.1
    lr_power: float = 1.0
    lr_min: float = 0.0
    lr_warmup_epochs: float = 0.0
    lr_warmup_decay: float = 0.01
    lr_reference_batch: int | None = None

    output_dir: str = "runs/alexnet"
    resume: str | None = None  # "": the latest state; AUTO: the newest whole one, or a new run
    load_pretrained: str | None = None
    freeze: str | None = None
    head_lr_factor: float = 1.0
    save: str | None = None
    save_every: int = 0
    save_minutes: float | None = None
    keep: int = 3
    sample: tuple[str, ...] = ()
    progress: str = "auto"
    print_freq: int | None = None
    summary: bool = False
    validate_every: int = 1
    threads: int | None = None
    sync: str = "auto"
    deterministic: bool = False
    stall_timeout: float = 600.0
    elastic: bool = False
    min_ranks: int = 1
    timeline: str | None = None
    report: bool = True
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            self._require(field.name, not isinstance(value, float) or math.isfinite(value), "a finite number")
        for name in ("epochs", "keep", "image_size", "accumulate", "validate_every", "min_ranks"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            "global_batch",
            "batch_size",
            "workers",
            "threads",
            "num_classes",
            "lr_reference_batch",
            "print_freq",
        ):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        for name in ("lr", "head_lr_factor", "width", "lr_step_size", "trust_coefficient", "eps"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in (
            "io_patience",
            "stall_timeout",
            "weight_decay",
            "lr_patience",
            "lr_reductions",
            "lr_min",
            "lr_warmup_epochs",
            "lr_power",
        ):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("dropout", "momentum", "beta1", "beta2", "label_smoothing"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 up to, but not including, 1")
        for name in ("max_bad", "lr_gamma", "lr_warmup_decay"):
            self._require(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._require("bias_weight_decay", self.bias_weight_decay is None or self.bias_weight_decay >= 0, "at least 0")
        self._require("clip_grad_norm", self.clip_grad_norm is None or self.clip_grad_norm > 0, "more than 0")
        self._require("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1")
        self._require("val_fraction", self.val_fraction is None or 0 < self.val_fraction < 1, "between 0 and 1")
        self._require("save_minutes", self.save_minutes is None or self.save_minutes > 0, "more than 0")
        self._require("save_every", self.save_every >= 0, "at least 0 (0: after each epoch only)")
        self._require("seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        choices_of = {"conv": MODES, "sync": sync_choices(), "opt": OPTIMIZERS, "init": INITIALIZERS, "on_nan": ON_NAN}
        for name, choices in {**choices_of, "lr_scheduler": SCHEDULERS, "progress": SCREENS}.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        self._refuse_contradictions()
        self._check_augmentation()
        self._refuse_idle_hyperparameters()

    def _refuse_contradictions(self) -> None:
        """Raises UserError for flags that don't go together."""
        if self.global_batch is not None and self.batch_size is not None:
            raise UserError("--global-batch and --batch-size (of each rank) say the same thing twice: give one of them")
        if self.elastic and self.sync not in ("auto", "allreduce"):
            raise UserError(f"--elastic goes with --sync allreduce, where each rank has everything, not {self.sync}")
        if self.elastic and (self.freeze or self.on_nan == "restore"):
            raise UserError("--elastic doesn't go with --freeze or --on-nan restore")
        if self.elastic and self.batch_size is not None:
            raise UserError(
                f"--elastic doesn't go with --batch-size {self.batch_size} (of each rank): a step would have fewer images when "
                "ranks are lost, and the rest of the epoch others than it should; say --global-batch, which stays the same"
            )
        if self.deterministic:
            self._refuse_what_depends_on_ranks()
        if self.min_ranks > 1 and not self.elastic:
            raise UserError("--min-ranks is of --elastic, and does nothing without it: leave it out")
        if 0 < self.stall_timeout <= self.io_patience:
            raise UserError(
                f"--stall-timeout is {self.stall_timeout:g}, but must be more than --io-patience ({self.io_patience:g}), "
                "for which ranks may wait without being stuck; or 0: never"
            )
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov looks ahead along the momentum, but --momentum is 0: leave one of them out")

    def _refuse_what_depends_on_ranks(self) -> None:
        """Raises UserError for flags with which a run of other ranks isn't the same to the bit."""
        for flag, given, why in (
            (f"--sync {self.sync}", self.sync not in ("auto", "hybrid"), "sums the gradients of each rank's images"),
            (f"--accumulate {self.accumulate}", self.accumulate > 1, "divides each rank's images"),
            ("--elastic", self.elastic, "goes with --sync allreduce"),
            (f"--opt {self.opt}", not OPTIMIZERS[self.opt].elementwise, "scales by norms that are sums over the ranks"),
            ("--clip-grad-norm", self.clip_grad_norm is not None, "scales by a norm that is a sum over the ranks"),
        ):
            if given:
                raise UserError(f"--deterministic doesn't go with {flag}, which {why}: leave one of them out")

    def _check_augmentation(self) -> None:
        """Raises UserError for an augmentation that is out of range, or does nothing."""
        self._require("crop", self.crop in CROPS, f"one of {', '.join(CROPS)}")
        self._require("interpolation", self.interpolation in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}")
        policies = (None, *POLICIES)
        self._require("auto_augment", self.auto_augment in policies, f"one of {', '.join(POLICIES)}")
        possible = all(math.isfinite(strength) and strength >= 0 for strength in self.color_jitter)
        self._require(
            "color_jitter",
            self.color_jitter == () or (len(self.color_jitter) == 4 and possible and self.color_jitter[3] <= 0.5),
            "four numbers of at least 0, for brightness, contrast, saturation and hue; hue is at most 0.5",
        )
        self._require("random_erasing", 0 <= self.random_erasing <= 1, "from 0 to 1")
        self._require("mixup_alpha", self.mixup_alpha >= 0, "at least 0 (0: no mixup)")
        self._require("ra_magnitude", 0 <= self.ra_magnitude < LEVELS, f"from 0 to {LEVELS - 1}")
        if self.ra_magnitude != TrainingConfig.ra_magnitude and self.auto_augment != "ra":
            raise UserError("--ra-magnitude is of --auto-augment ra, and does nothing without it: leave it out")
        if self.auto_augment and self.interpolation not in AFFINE_INTERPOLATIONS:
            raise UserError(
                f"--interpolation {self.interpolation} can't turn and shear images as --auto-augment does: choose one of "
                f"{', '.join(AFFINE_INTERPOLATIONS)}"
            )

    def _refuse_idle_hyperparameters(self) -> None:
        """Raises UserError for a flag of another optimizer, which would do nothing."""
        for name, owners in hyperparameter_owners().items():
            default = getattr(TrainingConfig, name, None)  # optimizers that users add may have others
            if self.opt not in owners and getattr(self, name, default) != default:
                raise UserError(
                    f"--{name.replace('_', '-')} is of --opt {' or '.join(owners)}, and does nothing with --opt {self.opt}: "
                    "leave it out"
                )

    def _require(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, but must be {rule}")

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> "TrainingConfig":
        """From a mapping of field names, as argparse or JSON give it."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in flags.items() if name in known}
        values |= {name: tuple(values[name]) for name in ("sample", "color_jitter") if name in values}
        return cls(**values)

    def global_batch_on(self, ranks: int) -> int:
        """The global batch on this many ranks."""
        return self.batch_size * ranks if self.batch_size is not None else self.global_batch or GLOBAL_BATCH

    def augmentation(self) -> Augmentation:
        """What is done to training images, each by itself."""
        names = {field.name for field in fields(Augmentation)} - {"size"}
        return Augmentation(self.image_size, **{name: getattr(self, name) for name in names})

    def schedule(self, global_batch: int) -> Schedule:
        """The learning rates, scaled with the global batch where --lr-reference-batch asks for it."""
        scale = global_batch / self.lr_reference_batch if self.lr_reference_batch else 1.0
        return Schedule(
            scheduler=self.lr_scheduler,
            lr=self.lr * scale,
            epochs=self.epochs,
            warmup_epochs=self.lr_warmup_epochs,
            warmup_decay=self.lr_warmup_decay,
            step_size=self.lr_step_size,
            gamma=self.lr_gamma,
            power=self.lr_power,
            lr_min=self.lr_min,
            patience=self.lr_patience,
            reductions=self.lr_reductions,
        )
