"""Colour jitter is torchvision's, with the same factors in the same order."""

import numpy as np
import pytest
from augmented import noisy
from PIL import Image

from alexnet_dist.data.color_jitter import CHANGES, color_jitter, contrast, hue
from alexnet_dist.support.randomness import Purpose, generator


def rng(sample: int) -> np.random.Generator:
    return generator(0, Purpose.AUGMENT, 0, sample)


@pytest.mark.parametrize("strengths", [(0.4, 0.4, 0.4, 0.1), (0, 1.5, 0, 0.5), (2, 0, 0, 0), (0, 0, 0, 0)])
def test_pixels_are_torchvisions(monkeypatch, strengths):
    transforms = pytest.importorskip("torchvision.transforms")
    jitter = transforms.ColorJitter(*strengths)
    ranges = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
    picture = Image.fromarray(noisy(40, 30))
    for sample in range(20):
        draws = rng(sample)
        order, shares = draws.permutation(4), draws.random(4)
        factors = [
            None if limits is None else limits[0] + share * (limits[1] - limits[0])
            for limits, share in zip(ranges, shares, strict=True)
        ]
        monkeypatch.setattr(jitter, "get_params", lambda *_, values=(order, *factors): values)
        np.testing.assert_array_equal(
            np.asarray(color_jitter(picture, strengths, rng(sample))), np.asarray(jitter(picture))
        )


def test_orders_and_factors_are_uniform(monkeypatch):
    calls: list[tuple[str, float]] = []
    module = "alexnet_dist.data.color_jitter"
    for change in CHANGES[:3]:
        monkeypatch.setattr(f"{module}.{change.__name__}", change)
    recorders = tuple(
        (lambda picture, factor, name=change.__name__: calls.append((name, factor)) or picture)
        for change in CHANGES[:3]
    )
    monkeypatch.setattr(f"{module}.CHANGES", (*recorders, hue))
    draws, picture = 2000, Image.fromarray(noisy(3, 3))
    for sample in range(draws):
        color_jitter(picture, (0.4, 0.4, 1.5, 0), rng(sample))
    factors = {name: np.array([f for n, f in calls if n == name]) for name in ("brightness", "contrast", "saturation")}
    for name, (low, high) in {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0, 2.5)}.items():
        assert len(factors[name]) == draws
        assert low <= factors[name].min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors[name].max() <= high
        assert abs(factors[name].mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * draws)
    orders = [tuple(name for name, _ in calls[lo : lo + 3]) for lo in range(0, 3 * draws, 3)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - draws / 6) for count in counts) < 4 * np.sqrt(draws * 5 / 36)


def test_off_or_on_as_many_numbers_are_drawn():
    picture, after = Image.fromarray(noisy(9, 9)), []
    for strengths in ((), (0.4, 0.4, 0.4, 0.1), (0, 0, 0, 0.2)):
        draws = rng(3)
        color_jitter(picture, strengths, draws)
        after.append(draws.random())
    assert len(set(after)) == 1


def test_what_the_ends_of_the_scales_are():
    picture = Image.fromarray(noisy(40, 30))
    assert np.ptp(np.asarray(contrast(picture, 0))) == 0
    np.testing.assert_array_equal(np.asarray(contrast(picture, 1)), noisy(40, 30))
    red = Image.new("RGB", (2, 2), (200, 10, 10))
    assert hue(red, 1 / 3).getpixel((0, 0))[1] > 190  # a third of the circle on: green
