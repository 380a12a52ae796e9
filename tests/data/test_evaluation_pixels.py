"""Pixels of evaluation against a reference from the definition and against torchvision: one crop and ten."""

import numpy as np
import pytest
from augmented import evaluated, noisy, saved, to_pixels
from PIL import Image

from alexnet_dist.data.augment import (
    INTERPOLATIONS,
    MEAN,
    STD,
    load_for_evaluation,
    load_ten_crops_for_evaluation,
    normalize,
    short_side,
)

SHAPES = [
    (500, 375),
    (375, 500),
    (256, 256),
    (224, 224),
    (257, 300),
    (300, 1000),
    (60, 41),
    (8, 8),
    (1, 3),
    (999, 700),
    (343, 256),
]


def triangle_weights(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: bilinear interpolation, widened by the scale so that every pixel counts."""
    scale = source / target
    radius = max(scale, 1)
    centre = (np.arange(target) + 0.5) * scale
    distance = abs(np.arange(source) + 0.5 - centre[:, None]) / radius
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_evaluation_is_resize_crop_normalise(tmp_path, width, height):
    short = min(width, height)
    w, h = 256 * width // short, 256 * height // short
    passes = [
        lambda image: np.floor(np.tensordot(triangle_weights(width, w), image, (1, 1)).swapaxes(0, 1) + 0.5),
        lambda image: np.floor(np.tensordot(triangle_weights(height, h), image, 1) + 0.5),
    ]
    top, left = round((h - 224) / 2), round((w - 224) / 2)
    result = to_pixels(evaluated(saved(tmp_path, width, height)))
    shares = []
    for first, second in (passes, passes[::-1]):  # which one Pillow does first depends on the shape
        expected = second(first(noisy(width, height).astype(np.float64)))[top : top + 224, left : left + 224]
        difference = abs(result - expected)
        assert difference.max() < 1.01
        shares.append((difference > 0.01).mean())
    assert min(shares) < 0.01  # where rounding goes the other way


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("size", [224, 64, 227])
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_evaluation_is_torchvision_bit_for_bit(tmp_path, width, height, size, name):
    transforms = pytest.importorskip("torchvision.transforms")
    path = saved(tmp_path, width, height, name)
    theirs = transforms.Compose(
        [
            transforms.Resize(short_side(size)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with Image.open(path) as image:
        expected = theirs(image.convert("RGB")).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(evaluated(path, size), expected)


def test_every_pixel_value_is_normalised_in_float32():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    out = np.empty((16, 16, 3), np.float32)
    normalize(Image.fromarray(values), out)
    for channel in range(3):
        table = (np.arange(256, dtype=np.float32) / np.float32(255) - MEAN[channel]) / STD[channel]
        np.testing.assert_array_equal(out[..., channel].ravel(), table)


def test_short_side_of_the_usual_size_is_256():
    assert short_side(224) == 256
    assert short_side(64) == 73


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("width", "height"), [(60, 41), (300, 401), (257, 256)])
def test_ten_crops_are_torchvisions_bit_for_bit(tmp_path, width, height, interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    path = saved(tmp_path, width, height)
    resize = transforms.Resize(short_side(224), transforms.InterpolationMode(interpolation))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    out, central = np.full((10, 224, 224, 3), np.nan, np.float32), np.empty((224, 224, 3), np.float32)
    load_ten_crops_for_evaluation(path, 224, out, interpolation)
    with Image.open(path) as image:
        theirs = transforms.TenCrop(224)(resize(image))
    for ours, crop in zip(out, theirs, strict=True):
        np.testing.assert_array_equal(ours, normalise(transforms.ToTensor()(crop)).permute(1, 2, 0).numpy())
    load_for_evaluation(path, 224, central, interpolation)
    np.testing.assert_array_equal(central, out[4])


def test_ten_crops_are_corners_and_centre_and_their_mirror_images(tmp_path):
    path = saved(tmp_path, 73, 83)  # the short side is as long as crops of 64 want it; the long one odd
    picture = to_pixels(evaluated(path, 64))
    out = np.empty((10, 64, 64, 3), np.float32)
    load_ten_crops_for_evaluation(path, 64, out)
    pixels = np.rint([to_pixels(crop) for crop in out])
    original = noisy(73, 83)
    for crop, (top, left) in zip(pixels, [(0, 0), (0, 9), (19, 0), (19, 9), (10, 4)], strict=False):
        np.testing.assert_array_equal(crop, original[top : top + 64, left : left + 64])
    np.testing.assert_array_equal(pixels[4], np.rint(picture))
    for mirrored, crop in ((5, 1), (6, 0), (7, 3), (8, 2)):
        np.testing.assert_array_equal(pixels[mirrored], pixels[crop][:, ::-1])
    np.testing.assert_array_equal(pixels[9], original[10:74, ::-1][:, 4:68])
