"""Does it learn as well as PyTorch? Both train from scratch on the same list with the same recipe, several seeds each.

    python benchmarks/learning.py --data fashion/images.list --val fashion/val.list [--seeds 5] [flags of alexnet-train]

Prints the accuracy on the images of --val after each epoch, with the processor's seconds, the means of the last epoch's
with their standard errors, and the difference in units of its own: beyond two, in either direction, is hardly chance.
The recipe below is for the first 6,000 images of Fashion-MNIST; flags of alexnet-train change it. The two train side by
side, one thread each unless --threads says otherwise.

Where the means differ, `--exchange weights order flips masks pixels`, or some of these, gives both sides the same of
them: with all five, only rounding differs. The last line is JSON.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import describe_machine, load_average

from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.errors import UserError
from alexnet_dist.runs.metrics import read_rows
from alexnet_dist.training.flags import build_parser

RECIPE = ["--image-size=64", "--width=0.25", "--crop=none", "--epochs=3", "--global-batch=32", "--threads=1"]
RECIPE += ["--lr=0.005", "--lr-scheduler=cosine", "--lr-warmup-epochs=0.5"]
PARTS = ("weights", "order", "flips", "masks", "pixels")
SIDES = {
    "alexnet_dist": ["-m", "alexnet_dist.train"],
    "PyTorch": [str(Path(__file__).with_name("torch_training.py"))],
}


def beginning(path: Path, count: int, out: Path) -> Path:
    """Writes the first images of a list as a list of its own."""
    images = read_image_list(path)
    lines = [f"{images.labels[i]} {images.path(i).resolve()}\n" for i in range(min(count, len(images)))]
    out.write_text("".join(lines))
    return out


def flags_of_both(args: argparse.Namespace, rest: list[str], folder: Path) -> list[str]:
    """The recipe for both programs, with `rest` after it, so that it wins. Raises UserError for a flag that is wrong."""
    recipe = [] if given(rest) else RECIPE
    data = beginning(args.data, args.images, folder / "images.list") if args.images else args.data
    flags = ["--data", str(data), "--val", str(args.val), *recipe, *rest]
    build_parser().parse_args(flags)
    return flags


def given(rest: list[str]) -> bool:
    """Whether a file of flags takes the place of the recipe."""
    return any(word.split("=")[0] in ("--config", "--recipe") for word in rest)


def train_both(flags: list[str], seed: int, exchange: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Both sides' accuracy after each epoch, and the processor seconds that each took. They run at the same time."""
    runs = {}
    for side, program in SIDES.items():
        out = folder / f"{side}-{seed}"
        extra = ["--exchange", *exchange] if side == "PyTorch" else ["--keep", "1"]
        command = [sys.executable, *program, *flags, "--seed", str(seed), "--output-dir", str(out), *extra]
        with open(folder / f"{side}-{seed}.txt", "w") as file:
            runs[side] = out, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    results = {}
    for side, (out, process) in runs.items():
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            for _, other in runs.values():
                other.terminate()
            raise SystemExit(f"{side} has failed:\n{(folder / f'{side}-{seed}.txt').read_text()}")
        curve = [row["val_top1"] for row in read_rows(out, "epochs")]
        results[side] = {"seed": seed, "curve": curve, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}
    return results


def standard_error(values: list[float]) -> float:
    """Of the mean; 0 for a single value, of which nothing can be said."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def compare(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Prints both means and their difference; returns them, for JSON. Accuracies are shares of 1."""
    summary: dict[str, Any] = {}
    for side, runs in results.items():
        finals = [run["curve"][-1] for run in runs]
        summary[side] = {"mean": mean(finals), "standard_error": standard_error(finals), "runs": runs}
        print(f"{side:14}{summary[side]['mean']:8.2%} +- {summary[side]['standard_error']:.2%}")
    ours, theirs = summary.values()
    difference = ours["mean"] - theirs["mean"]
    error = math.hypot(ours["standard_error"], theirs["standard_error"])
    in_errors = f": {difference / error:+.1f} standard errors" if error else " (one run says nothing about chance)"
    print(f"{'difference':14}{difference:+8.2%} +- {error:.2%}{in_errors}")
    return {**summary, "difference": difference, "standard_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, metavar="LIST", help="training images")
    parser.add_argument("--val", type=Path, required=True, metavar="LIST", help="images to measure the accuracy on")
    parser.add_argument("--images", type=int, default=6000, metavar="N", help="of --data, the first N; 0: all (6000)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each side (5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the others follow it (0)")
    parser.add_argument("--exchange", nargs="*", default=[], choices=PARTS, help="what PyTorch takes from alexnet_dist")
    args, rest = parser.parse_known_args()
    machine = describe_machine("torch", "pillow")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        try:
            flags = flags_of_both(args, rest, Path(folder))
        except UserError as error:
            parser.error(str(error))
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for side, result in train_both(flags, seed, args.exchange, Path(folder)).items():
                results[side].append(result)
                curve = "  ".join(f"{value:.2%}" for value in result["curve"])
                print(f"seed {seed}  {side:14}{curve}  ({result['cpu_seconds']:.0f} s)", flush=True)
    print(f"load average {load_average()}")
    print(json.dumps({"machine": machine, "flags": rest, "exchange": args.exchange, **compare(results)}))


if __name__ == "__main__":
    main()
