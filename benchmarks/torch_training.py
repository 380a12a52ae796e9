"""The same training in PyTorch, to compare accuracies with: takes the flags of alexnet-train.

    python benchmarks/torch_training.py --data images.list --val val.list --crop none --epochs 4 --output-dir runs/torch

One process, images decoded once and kept in memory, PyTorch's own initial weights, order, flips and dropout, drawn from
the same distributions. `--exchange` takes parts of the training from alexnet_dist instead, so that a difference between
the two can be traced to one of them; with all of them only rounding is left. Writes `steps.jsonl` and `epochs.jsonl`, as
alexnet-train does, with fewer columns. Flags that it doesn't know how to follow are refused.
"""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch_alexnet import alexnet

from alexnet_dist import cli
from alexnet_dist.data.augment import MEAN, STD, load_for_evaluation, short_side
from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.sharding import epoch_order
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.pointwise import dropout_mask
from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs.log import RunLog, log
from alexnet_dist.support.randomness import Purpose, generator
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, read_config
from alexnet_dist.training.schedule import Plateau

PARTS = ("weights", "order", "flips", "masks", "pixels")
FOLLOWED = {
    *("data", "val", "crop", "flip", "image_size", "width", "dropout", "init", "epochs", "global_batch", "opt"),
    *("lr", "momentum", "beta1", "beta2", "eps", "weight_decay", "label_smoothing", "threads", "output_dir", "seed"),
    *(field.name for field in fields(TrainingConfig) if field.name.startswith("lr_")),
}
# What has no influence on the result of a run without broken images.
IDLE = {
    "workers",
    "strict",
    "max_bad",
    "conv",
    "keep",
    "print_freq",
    "sync",
    "resume",
    "save",
    "save_every",
    "timeline",
}
VAL_BATCH = 500


def check(config: TrainingConfig, take: set[str]) -> None:
    """Raises UserError for a recipe that isn't followed here."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in FOLLOWED | IDLE and value != field.default:
            raise UserError(f"PyTorch's side doesn't follow --{field.name.replace('_', '-')} {value}")
    for name, known in (("crop", ("none", "paper")), ("init", ("he", "torchvision")), ("opt", ("sgd", "adamw"))):
        if getattr(config, name) not in known:
            raise UserError(f"PyTorch's side knows --{name} {' and '.join(known)} only, not {getattr(config, name)}")
    if config.val is None:
        raise UserError("give --val: the images that alexnet-train would hold out are not known here")
    if "pixels" in take and config.crop != "none":
        raise UserError("pixels can be exchanged with --crop none only")


class Images:
    """The images of a list in memory: uint8 [N, 3, S, S], or the other side's float32, normalised.

    S is the network's image size, or, for random crops, what the short side is scaled to.
    """

    def __init__(self, path: str, size: int, *, crop: bool, ours: bool) -> None:
        images = read_image_list(path)
        self.labels = torch.from_numpy(images.labels.astype(np.int64))
        side, self.size = short_side(size) if crop else size, size
        self._pixels = torch.empty((len(images), 3, side, side), dtype=torch.float32 if ours else torch.uint8)
        row = np.empty((size, size, 3), np.float32)
        for index in range(len(images)):
            if ours:
                load_for_evaluation(images.path(index), size, row)
                self._pixels[index] = torch.from_numpy(row).permute(2, 0, 1)
            else:
                self._pixels[index] = central_pixels(images, index, short_side(size), side)
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN.tolist(), STD.tolist()))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor, flips: torch.Tensor | None = None, *, crop: bool = False) -> torch.Tensor:
        """float32 [n, 3, size, size]; mirrored where `flips` [n] says so; cropped at random, or centrally."""
        x = self._pixels[indices]
        room = x.shape[-1] - self.size
        if crop and room:
            corners = torch.randint(room + 1, (len(x), 2)).tolist()
            x = torch.stack([x[i, :, a : a + self.size, b : b + self.size] for i, (a, b) in enumerate(corners)])
        elif room:
            x = x[..., round(room / 2) :, round(room / 2) :][..., : self.size, : self.size]
        if flips is not None:
            x = torch.where(flips.view(-1, 1, 1, 1), x.flip(3), x)
        return x if x.dtype == torch.float32 else (x / 255 - self._mean) / self._std


def central_pixels(images: ImageList, index: int, short: int, side: int) -> torch.Tensor:
    """uint8 [3, side, side]: the centre of the image, after scaling its short side as torchvision's Resize does."""
    with Image.open(images.path(index)) as image:
        width, height = image.size
        scale = (short, short * height // width) if width <= height else (short * width // height, short)
        scaled = image.convert("RGB").resize(scale, Image.Resampling.BILINEAR)
    left, top = (round((extent - side) / 2) for extent in scaled.size)
    return torch.from_numpy(np.asarray(scaled.crop((left, top, left + side, top + side))).copy()).permute(2, 0, 1)


class OurDropout(torch.nn.Module):
    """Dropout with the masks of alexnet_dist's layer number `index`; `step` is to be set before each step.

    `places`: the height and width of the map whose values come in, in torchvision's order; alexnet_dist has them last.
    """

    def __init__(self, index: int, probability: float, seed: int, places: int) -> None:
        super().__init__()
        self.index, self.probability, self.seed, self.places, self.step = index, probability, seed, places, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        mask = np.empty(x.shape, np.float32)
        for position, row in enumerate(mask):
            dropout_mask(generator(self.seed, Purpose.DROPOUT, self.step, self.index, position), self.probability, row)
        of_places = mask.reshape(len(mask), self.places, -1).transpose(0, 2, 1)
        return x * torch.from_numpy(of_places.reshape(mask.shape))


class Training:
    """A training run of PyTorch's by `config`; `take`: which of PARTS it takes from alexnet_dist."""

    def __init__(self, config: TrainingConfig, take: set[str]) -> None:
        self.config, self.take = config, take
        torch.manual_seed(config.seed)
        paper, ours = config.crop == "paper", "pixels" in take
        self.train = Images(config.data, config.image_size, crop=paper, ours=ours)
        self.val = Images(str(config.val), config.image_size, crop=False, ours=ours)
        classes = 1 + int(max(self.train.labels.max(), self.val.labels.max()))
        self.network = Network(classes, config.image_size, config.dropout, config.width)
        self.net = alexnet(self.network)
        self._fill()
        self.masks = self._exchange_masks() if "masks" in take else []
        self.batch = config.global_batch_on(1)
        self.schedule, self.plateau, self.step = config.schedule(self.batch), Plateau(), 0
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        config, parameters = self.config, self.net.parameters()
        shared = {"lr": config.lr, "weight_decay": config.weight_decay}
        if config.opt == "sgd":
            return torch.optim.SGD(parameters, momentum=config.momentum, **shared)
        return torch.optim.AdamW(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **shared)

    def _fill(self) -> None:
        """The initial weights. torchvision's are PyTorch's default, which the layers have already."""
        if "weights" in self.take:
            parameters = parameter_map(self.network)
            values = np.empty(parameters.size, np.float32)
            initialize(parameters, values, self.config.init, self.config.seed)
            views = parameters.views(values)
            self.net.load_state_dict({p.name: torch.from_numpy(p.to_file(views[p.name])) for p in parameters.specs})
        elif self.config.init == "he":
            *hidden, last = (m for m in self.net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear))
            for layer in (*hidden, last):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                torch.nn.init.zeros_(layer.bias)
            torch.nn.init.normal_(last.weight, std=0.01)

    def _exchange_masks(self) -> list[OurDropout]:
        classifier = self.net.classifier
        numbers = [number for number, layer in enumerate(classifier) if isinstance(layer, torch.nn.Dropout)]
        places = int(self.net.avgpool.output_size) ** 2
        masks = [
            OurDropout(index, self.config.dropout, self.config.seed, 1 if index else places)
            for index in range(len(numbers))
        ]
        for number, layer in zip(numbers, masks, strict=True):
            classifier[number] = layer
        return masks

    def _order(self, epoch: int) -> torch.Tensor:
        if "order" in self.take:
            return torch.from_numpy(epoch_order(len(self.train), self.config.seed, epoch))
        return torch.randperm(len(self.train))

    def _flips(self, indices: torch.Tensor, epoch: int) -> torch.Tensor | None:
        if not self.config.flip:
            return None
        if "flips" in self.take:
            keys = ((self.config.seed, Purpose.AUGMENT, epoch, index) for index in indices.tolist())
            return torch.tensor([generator(*key).random() < 0.5 for key in keys])
        return torch.rand(len(indices)) < 0.5

    def epoch(self, number: int) -> Iterator[dict[str, float]]:
        """Trains one epoch; the loss, share of right answers and learning rate of each step."""
        self.net.train()
        batches = self._order(number).split(self.batch)
        for in_epoch, indices in enumerate(batches):
            lr = self.schedule.rate(number + in_epoch / len(batches), self.plateau)
            self.optimizer.param_groups[0]["lr"] = lr
            for mask in self.masks:
                mask.step = self.step
            labels = self.train.labels[indices]
            x = self.train.batch(indices, self._flips(indices, number), crop=self.config.crop == "paper")
            logits = self.net(x)
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            yield {"loss": loss.item(), "top1": float((logits.argmax(1) == labels).float().mean()), "lr": lr}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss and share of right answers, without dropout; the plateau sees the error."""
        self.net.eval()
        loss = right = 0.0
        for indices in torch.arange(len(self.val)).split(VAL_BATCH):
            logits, labels = self.net(self.val.batch(indices)), self.val.labels[indices]
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
        means = {"loss": loss / len(self.val), "top1": right / len(self.val), "images": len(self.val)}
        self.plateau = self.plateau.observe(1 - means["top1"], means["loss"], self.schedule)
        return means


def run(args: Any) -> int:
    """Trains by the flags; returns the exit code."""
    take, config = set(args.exchange or ()), read_config(args)
    check(config, take)
    if config.threads:
        torch.set_num_threads(config.threads)
    out = RunLog(Path(config.output_dir), enabled=True)
    training = Training(config, take)
    for epoch in range(config.epochs):
        for values in training.epoch(epoch):
            out.metrics("steps", epoch=epoch + 1, step=training.step, **values)
        result = training.validate()
        log.info("epoch %d/%d  validation top-1 %.2f%%", epoch + 1, config.epochs, 100 * result["top1"])
        out.metrics("epochs", epoch=epoch + 1, step=training.step, **{f"val_{name}": result[name] for name in result})
    out.close()
    return 0


def main(argv: list[str] | None = None) -> int:
    parser: cli.Parser = build_parser()
    parser.prog, parser.description = "torch_training.py", __doc__
    parser.add_argument("--exchange", nargs="*", choices=PARTS, help="parts taken from alexnet_dist (default: none)")
    return cli.run(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
