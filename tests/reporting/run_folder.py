"""A run's folder as training leaves it, made in a moment: metrics, predictions, the best weights, validation images."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.model.parameters import initialize
from alexnet_dist.runs import checkpoint

CLASSES = ["daisy", "tulip", "<b>rose</b> & thorn", "Löwenzahn"]
EPOCHS, STEPS = 4, 10  # of an epoch
TIME = "2026-11-28T21:52:42.123Z"


def make_run(
    folder: Path, lr: float = 0.01, classes: list[str] | None = None, images: int = 24, scheduler: str = "step"
) -> Path:
    """A run of two ranks that has finished; its images lie beside it. Its learning rate falls if the `scheduler` is step."""
    classes = classes or CLASSES
    folder.mkdir(parents=True)
    _draw(folder.parent / "images", classes, images)
    info = {
        "flags": {
            "data": "images/images.list",
            "val": "images/val.list",
            "epochs": EPOCHS,
            "lr": lr,
            "val_fraction": None,
        }
        | {"lr_scheduler": scheduler, "seed": 0, "color_jitter": [], "ignore_class_names": False},
        "started_in": str(folder.parent),
        "versions": {"alexnet_dist": "0.1.0", "numpy": "2.4.6"},
        "ranks": 2,
        "hosts": ["here", "there"],
        "processor": "a processor",
        "class_names": classes,
        "starts": [{"attempt": 1, "time": TIME, "epoch": 0, "step": 0, "ranks": 2}],
    }
    (folder / "run.json").write_text(json.dumps(info, ensure_ascii=False), encoding="utf-8")
    _rows(folder / "steps.jsonl", (_step(step, lr) for step in range(1, EPOCHS * STEPS + 1)))
    _rows(folder / "epochs.jsonl", (_epoch(epoch, lr) for epoch in range(1, EPOCHS + 1)))
    _rows(folder / "ranks.jsonl", (_rank(epoch, rank) for epoch in range(1, EPOCHS + 1) for rank in range(2)))
    _rows(folder / "events.jsonl", [{"epoch": EPOCHS, "step": EPOCHS * STEPS, "event": "complete"}])
    _predictions(folder / "predictions.csv", classes, images)
    network = Network(num_classes=len(classes), image_size=64, width=1 / 16)
    parameters = parameter_map(network)
    flat = np.zeros(parameters.size, np.float32)
    initialize(parameters, flat, "he", seed=0)
    checkpoint.save(folder / "best.safetensors", parameters, flat, {}, checkpoint.Header(network, classes))
    return folder


def _rate(step: int, lr: float) -> float:
    return lr if step <= 2 * STEPS else lr / 10


def _step(step: int, lr: float) -> dict:
    epoch = 1 + (step - 1) // STEPS
    values = {"loss": 1.5 * math.exp(-step * lr) + 0.1 * math.sin(step), "top1": 1 - math.exp(-step / 10)}
    phases = {"seconds_data": 0.01, "seconds_forward": 0.2, "seconds_backward": 0.4, "seconds_wait": 0.02}
    return {
        "epoch": epoch,
        "step": step,
        **values,
        "lr": _rate(step, lr),
        "images": 8,
        "images_per_second": 12.5,
        **phases,
    }


def _epoch(epoch: int, lr: float) -> dict:
    values = {
        "train_loss": 1 / epoch,
        "train_top1": 1 - 0.5 / epoch,
        "val_loss": 1.2 / epoch,
        "val_top1": 1 - 0.6 / epoch,
    }
    seconds = {
        "val_images": 24,
        "seconds": 70.0,
        "val_seconds": 5.0,
        "images_per_second": 12.5,
        "skipped": 0,
        "void": 0,
    }
    return {"epoch": epoch, "step": epoch * STEPS, "lr": _rate(epoch * STEPS, lr), **values, **seconds, "best": True}


def _rank(epoch: int, rank: int) -> dict:
    phases = {"seconds_data": 1.0, "seconds_forward": 20.0 + rank, "seconds_backward": 40.0, "seconds_wait": 1.0 - rank}
    return {"epoch": epoch, "step": epoch * STEPS, "rank": rank, "host": ("here", "there")[rank], **phases}


def _rows(path: Path, rows) -> None:
    lines = [json.dumps({"time": TIME, "attempt": 1, **row}) + "\n" for row in rows]
    path.write_text("".join(lines))


def _draw(folder: Path, classes: list[str], images: int) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(images):
        pixels = np.full((90, 120, 3), 60 + 40 * (number % len(classes)) % 190, np.uint8)
        pixels[20:70, 30:90] = rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{number} & more.jpg")
        lines.append(f"{number % len(classes)} {number} & more.jpg\n")
    for name in ("images.list", "val.list"):
        (folder / name).write_text("".join(lines))


def _predictions(path: Path, classes: list[str], images: int) -> None:
    """Every fifth image is taken for the class after its own."""
    lines = ["image,class,predicted_1,probability_1,predicted_2,probability_2\n"]
    for number in range(images):
        label, other = (classes[(number + more) % len(classes)] for more in (0, 1))
        best, second = (other, label) if number % 5 == 0 else (label, other)
        probability = 0.6 + 0.3 * number / images
        lines.append(f"{number} & more.jpg,{label},{best},{probability:.6g},{second},{1 - probability:.6g}\n")
    path.write_text("".join(lines), encoding="utf-8")
