"""Is fine-tuning better than training from scratch? Classes that a network has never seen, a few images of each.

    python benchmarks/transfer.py --data fashion/images.list --val fashion/val.list [--seeds 3]

Trains on all images of the first half of the classes. Then, for each seed, on --images of each of the other classes: from
those weights with a new last layer, the same with the convolutions frozen, and from scratch. Prints the accuracy on all
--val images of the other classes at the last epoch. The settings, below, were the first that were tried. The last line is
JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from common import describe_machine, load_average
from learning import standard_error

from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.runs.metrics import read_rows

NETWORK = ["--image-size=64", "--width=0.25", "--crop=none", "--lr-scheduler=cosine", "--global-batch=32"]
BEFORE = [*NETWORK, "--epochs=2", "--lr=0.005", "--lr-warmup-epochs=0.2"]
AFTER = [*NETWORK, "--epochs=20", "--lr=0.005", "--lr-warmup-epochs=1"]
WAYS = {
    "from scratch": [],
    "fine-tuned": ["--load-pretrained", "{weights}"],
    "convolutions frozen": ["--load-pretrained", "{weights}", "--freeze", "features", "--no-flip"],
}


def write_classes(images: ImageList, classes: list[int], out: Path, most: int | None = None, seed: int = 0) -> None:
    """A list of the images of these classes, numbered from 0, at most so many of each, drawn at random."""
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    for number, label in enumerate(classes):
        of_class = np.flatnonzero(images.labels == label)
        if most is not None:
            of_class = np.sort(rng.permutation(of_class)[:most])
        chosen += [(number, int(index)) for index in of_class]
    out.write_text("".join(f"{number} {images.path(index).resolve()}\n" for number, index in chosen))


def train(flags: Iterable[str], data: Path, val: Path, out: Path) -> list[dict[str, Any]]:
    """The run's epochs, from its own program."""
    command = [sys.executable, "-m", "alexnet_dist.train", *flags, "--data", str(data), "--val", str(val)]
    done = subprocess.run([*command, "--output-dir", str(out), "--keep", "1"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"training has failed:\n{done.stdout}{done.stderr}")
    return read_rows(out, "epochs")


def accuracy(epochs: list[dict[str, Any]]) -> float:
    """Of the last epoch."""
    return float(epochs[-1]["val_top1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="LIST", help="training images")
    parser.add_argument("--val", type=Path, required=True, metavar="LIST", help="images to measure the accuracy on")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="of each new class (100)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each way (3)")
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 20], metavar="N", help="before and after (2 20)")
    args = parser.parse_args()
    machine = describe_machine("pillow")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    lists = [read_image_list(args.data), read_image_list(args.val)]
    count = int(lists[0].labels.max()) + 1
    old, new = list(range(count // 2)), list(range(count // 2, count))
    results: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for images, of in zip(lists, ("train", "val"), strict=True):
            write_classes(images, old, folder / f"old-{of}.list")
            write_classes(images, new, folder / f"new-{of}.list")
        before = [*BEFORE, f"--epochs={args.epochs[0]}"]
        events = train(before, folder / "old-train.list", folder / "old-val.list", folder / "before")
        print(f"{len(old)} classes, all their images: {accuracy(events):.2%}", flush=True)
        for seed in range(args.seeds):
            few = folder / f"few-{seed}.list"
            write_classes(lists[0], new, few, args.images, seed)
            for way, flags in WAYS.items():
                chosen = [word.format(weights=folder / "before" / "best.safetensors") for word in flags]
                after = [*AFTER, f"--epochs={args.epochs[1]}", *chosen, "--seed", str(seed)]
                found = accuracy(train(after, few, folder / "new-val.list", folder / f"{way}-{seed}"))
                results[way].append(found)
                print(f"seed {seed}  {way:20}{found:.2%}", flush=True)
    for way, values in results.items():
        print(f"{way:28}{mean(values):.2%} +- {standard_error(values):.2%}")
    print(f"load average {load_average()}")
    print(json.dumps({"machine": machine, "images": args.images, "epochs": args.epochs, "accuracy": results}))


if __name__ == "__main__":
    main()
