"""Training states that earlier versions have written are read, and continued as those versions continued them."""

from pathlib import Path

import numpy as np
import pytest
from launcher import needs_mpirun, steps, train
from PIL import Image

from alexnet_dist.runs import checkpoint

# Written by version 0.1 on one rank, after an epoch of six steps on the images below, with its default strategy.
STATE = Path(__file__).with_name("state-of-version-0.1.safetensors")
# What version 0.1 went on with, on an Intel Xeon.
LOSSES = [
    1.080592252310909,
    0.812796064309731,
    0.8133012271194805,
    0.8172624119989981,
    0.7992166258953142,
    0.5257711565587002,
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The images that it was trained on; lossless, so that they are the same everywhere."""
    folder = tmp_path_factory.mktemp("old")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(24):
        pixels = rng.integers(0, 60, (70, 70, 3)).astype(np.uint8)
        pixels[..., number % 3] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number % 3} {number}.png\n")
    (folder / "images.list").write_text("".join(lines))
    return folder


def test_weights_are_read():
    header, flat = checkpoint.load_weights(STATE)
    assert header.network.num_classes == 3
    assert header.training["sync"] == "immediate"
    assert np.isfinite(flat).all()
    assert flat.any()


@needs_mpirun
@pytest.mark.parametrize("sync", ["auto", "allreduce"])
def test_a_run_is_continued(site, sync):
    flags = ["--data", "images.list", "--width", 0.015, "--global-batch", 4, "--lr", 0.01, "--epochs", 2]
    done = train(1, [*flags, "--sync", sync, "--resume", STATE, "--output-dir", sync], site).ok()
    if sync == "auto":
        assert "gradients: local" in done.out
    continued = steps(site / sync)
    assert list(continued) == list(range(7, 13))
    assert list(continued.values()) == pytest.approx(LOSSES, rel=1e-4)
