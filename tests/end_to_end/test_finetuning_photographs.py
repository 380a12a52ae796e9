"""A folder of five classes of photographs, fine-tuned from given weights by the README's own command lines."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from launcher import alone, epoch_results, needs_mpirun, train
from PIL import Image
from safetensors.numpy import load_file

from alexnet_dist.runs.checkpoint import read_header

pytestmark = needs_mpirun

ROOT = Path(__file__).parent.parent.parent
START = "launch/local.sh 2 --recipe finetune --load-pretrained imagenet.safetensors --data flowers --output-dir "
TUNED = f"{START}runs/flowers-tuned"
FROZEN = f"{START}runs/flowers-frozen --freeze all-but-last --crop none --no-flip"
FLOWERS = ("dahlia", "iris", "lily", "rose", "tulip")
OTHERS = ("bark", "brick", "cloud", "grass", "sand", "water")
SMALL = ["--width", 1 / 8, "--image-size", 64]
EPOCHS = 9  # the recipe divides the rate after 7


def photograph(texture: int, rng: np.random.Generator) -> Image.Image:
    """Waves, across and down, whose lengths and colour belong to the texture, each somewhat otherwise, under noise."""
    rows, columns = np.mgrid[:90, :120]
    lengths = 5 + 4 * np.array([texture % 3, texture // 3 % 3]) + rng.normal(0, 0.4, 2)
    across, down = (
        np.sin(2 * np.pi * (axis / length + rng.random()))
        for axis, length in zip((columns, rows), lengths, strict=True)
    )
    color = np.cos(np.array([0, 2, 4]) + 1.7 * texture) * 45 + rng.normal(0, 12, 3)
    pixels = 128 + 35 * (across + down)[..., None] + color + rng.normal(0, 20, (90, 120, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def take_photographs(folder: Path, names: tuple[str, ...], first: int, count: int) -> None:
    rng = np.random.default_rng(first)
    for texture, name in enumerate(names, first):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            photograph(texture, rng).save(folder / name / f"{number}.jpg", quality=90)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with 200 photographs of flowers, and a network that has learned from photographs of other things."""
    folder = tmp_path_factory.mktemp("photographs")
    take_photographs(folder / "flowers", FLOWERS, 0, 40)
    take_photographs(folder / "others", OTHERS, len(FLOWERS), 25)
    flags = ["--data", "others", *SMALL, "--global-batch", 8, "--opt", "adamw", "--lr", 0.001, "--epochs", 8]
    flags += ["--dropout", 0, "--crop", "none"]
    train(2, [*flags, "--output-dir", "before", "--save", "imagenet.safetensors"], folder).ok()
    return folder


@pytest.mark.parametrize("command", [TUNED, FROZEN], ids=["tuned", "frozen"])
def test_five_classes_of_photographs_are_learned_by_one_command(site, command):
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    program, *flags = shlex.split(command)
    job = alone([ROOT / program, *flags, *SMALL, "--epochs", EPOCHS], site).ok()
    run = site / flags[flags.index("--output-dir") + 1]
    assert epoch_results(run)[-1]["val_top1"] > 0.5  # chance is a fifth
    assert read_header(run / "best.safetensors").class_names == list(FLOWERS)
    assert "a new last layer, for 5 classes" in job.out
    before, after = (load_file(path) for path in (site / "imagenet.safetensors", run / "latest.safetensors"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == ({"classifier.6.weight", "classifier.6.bias"} if "--freeze" in flags else set(before))
