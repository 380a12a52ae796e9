"""What is done to training images: crops, flips, colours, and large images that are decoded smaller."""

import math

import numpy as np
import pytest
from augmented import PLAIN, evaluated, noisy, saved, to_pixels, trained
from PIL import Image

from alexnet_dist.data.augment import EIGENVALUES, EIGENVECTORS, STD, normalize, paper_box, random_resized_box
from alexnet_dist.data.auto_augment import auto_augment
from alexnet_dist.data.color_jitter import color_jitter
from alexnet_dist.data.decode import ImageError, Picture
from alexnet_dist.data.erasing import erase_
from alexnet_dist.support.randomness import Purpose, generator


@pytest.mark.parametrize("policy", ["ta_wide", "ra"])
def test_colours_and_operations_follow_the_flip_and_erasing_the_normalisation(tmp_path, policy):
    path, strengths = saved(tmp_path, 90, 80), (0.4, 0.4, 0.4, 0.1)
    options = {"color_jitter": strengths, "auto_augment": policy, "ra_magnitude": 12, "random_erasing": 1.0}
    for sample in range(10):
        rng = generator(0, Purpose.AUGMENT, 0, sample)
        rng.random(), rng.normal(0, 0.1, 3)
        flipped = np.rint(to_pixels(trained(path, sample, 64, crop="none", interpolation="bicubic"))).astype(np.uint8)
        picture = color_jitter(Image.fromarray(flipped), strengths, rng)
        picture = auto_augment(picture, policy, 12, Image.Resampling.BICUBIC, rng)
        expected = np.empty((64, 64, 3), np.float32)
        normalize(picture, expected)
        erase_(expected, 1.0, rng)
        result = trained(path, sample, 64, crop="none", interpolation="bicubic", **options)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("crop", ["random-resized", "paper", "none"])
def test_interpolation_is_that_of_training_too(tmp_path, crop):
    path = saved(tmp_path, 90, 80)
    results = [trained(path, 0, 64, crop=crop, interpolation=name) for name in ("bilinear", "bicubic", "nearest")]
    assert len({result.tobytes() for result in results}) == 3
    np.testing.assert_array_equal(results[0], trained(path, 0, 64, crop=crop))
    assert abs(to_pixels(results[0]) - to_pixels(results[1])).mean() < 12  # the same place: sharper, not another crop


@pytest.mark.parametrize(("width", "height"), [(3000, 1), (1, 3000)])
def test_thin_image_is_refused_before_it_fills_the_memory(tmp_path, width, height):
    path = saved(tmp_path, width, height)
    with pytest.raises(ImageError, match=f"is too thin: {width} x {height}"):
        evaluated(path)
    assert np.isfinite(trained(path)).all()
    assert np.isfinite(trained(path, crop="paper")).all()


def test_training_without_options_is_evaluation(tmp_path):
    path = saved(tmp_path, 300, 280)
    np.testing.assert_array_equal(trained(path, crop="none", **PLAIN), evaluated(path))


def test_unknown_crop_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'middle'"):
        trained(saved(tmp_path, 8, 8), crop="middle")


@pytest.mark.parametrize("crop", ["random-resized", "paper", "none"])
def test_flip_mirrors_half_of_the_images_and_nothing_else(tmp_path, crop):
    path = saved(tmp_path, 90, 80)
    flipped = 0
    for sample in range(60):
        plain = trained(path, sample, 64, crop=crop, **PLAIN)
        result = trained(path, sample, 64, crop=crop, flip=True)
        if not np.array_equal(result, plain):
            np.testing.assert_array_equal(result, plain[:, ::-1])
            flipped += 1
    assert 18 <= flipped <= 42  # 30 expected, four standard deviations wide


def test_color_noise_is_one_offset_an_image_along_the_principal_components(tmp_path):
    path = saved(tmp_path, 90, 80)
    amounts = []
    for sample in range(300):
        plain, result = (trained(path, sample, 16, flip=False, color_noise=noise) for noise in (False, True))
        offsets = (result.astype(np.float64) - plain) * STD
        assert np.ptp(offsets, axis=(0, 1)).max() < 1e-5
        amounts.append(np.linalg.solve(EIGENVECTORS * EIGENVALUES, offsets.mean((0, 1))))
    assert abs(np.mean(amounts, 0)).max() < 0.1 * 4 / math.sqrt(300)
    assert np.std(amounts, 0) == pytest.approx(0.1, rel=0.2)
    assert abs(np.corrcoef(np.array(amounts).T) - np.eye(3)).max() < 0.25
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=2e-3)


def test_options_do_not_change_each_others_numbers(tmp_path):
    path = saved(tmp_path, 90, 80)
    for sample in range(8):
        plain = trained(path, sample, 32, flip=False)
        noisy_plain = trained(path, sample, 32, flip=False, color_noise=True)
        both = trained(path, sample, 32, flip=True, color_noise=True)
        assert np.array_equal(both, noisy_plain) or np.array_equal(both, noisy_plain[:, ::-1])
        assert np.corrcoef(plain.ravel(), noisy_plain.ravel())[0, 1] > 0.99


def test_paper_crop_is_a_window_of_the_scaled_image(tmp_path):
    path = saved(tmp_path, 256, 300)  # the short side is 256 already, so nothing is scaled
    original = noisy(256, 300).astype(np.float64)
    places = set()
    for sample in range(40):
        result = np.rint(to_pixels(trained(path, sample, crop="paper", **PLAIN)))
        matches = [
            (top, left)
            for top in range(300 - 224 + 1)
            for left in range(256 - 224 + 1)
            if np.array_equal(original[top, left : left + 8], result[0, :8])
        ]
        assert len(matches) == 1
        top, left = matches[0]
        np.testing.assert_array_equal(result, original[top : top + 224, left : left + 224])
        places.add((top, left))
    assert len(places) > 30


def test_paper_crop_reaches_every_edge():
    boxes = [paper_box(512, 640, 224, generator(0, Purpose.AUGMENT, 0, sample)) for sample in range(3000)]
    left, top, right, bottom = np.array(boxes).T
    np.testing.assert_allclose(right - left, 448)
    np.testing.assert_allclose(bottom - top, 448)
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, 512, 640)
    assert set(np.unique(left / 2)) == set(range(33))


def test_random_resized_crop_is_the_rectangle_scaled(tmp_path):
    path = saved(tmp_path, 90, 80)
    for sample in range(10):
        rng = generator(0, Purpose.AUGMENT, 0, sample)
        rng.random(), rng.normal(0, 0.1, 3)
        left, top, right, bottom = random_resized_box(90, 80, 224, rng)
        with Image.open(path) as image:
            expected = np.asarray(image.crop((left, top, right, bottom)).resize((224, 224), Image.Resampling.BILINEAR))
        difference = abs(to_pixels(trained(path, sample, **PLAIN)) - expected)
        inner = difference[10:-10, 10:-10]  # at its edges the resized box sees the pixels around it
        assert inner.max() < 1.01


def test_random_resized_boxes_have_the_published_distribution():
    width, height = 500, 375
    boxes = [random_resized_box(width, height, 224, generator(0, Purpose.AUGMENT, 1, s)) for s in range(4000)]
    left, top, right, bottom = np.array(boxes).T
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, width, height)
    area, ratio = (right - left) * (bottom - top) / (width * height), (right - left) / (bottom - top)
    assert area.min() > 0.078
    assert area.max() <= 1
    assert ratio.min() > 0.745
    assert ratio.max() < 1.342
    small = area < 0.5  # these always fit, so nothing was rejected: area and logarithm of the ratio are uniform
    assert abs(area[small].mean() - 0.29) < 0.01
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert np.log(ratio[small]).std() == pytest.approx(math.log(16 / 9) / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(("width", "height", "box"), [(1000, 10, (493, 0, 506, 10)), (10, 1000, (0, 493, 10, 506))])
def test_random_resized_box_of_a_thin_image_is_central(width, height, box):
    assert random_resized_box(width, height, 224, generator(0, Purpose.AUGMENT, 0, 0)) == box


@pytest.mark.parametrize(
    ("orientation", "shape", "reduced"),
    [(1, (1203, 1001), True), (6, (1200, 1000), True), (6, (1202, 1001), False)],
)
@pytest.mark.parametrize("crop", ["random-resized", "paper"])
def test_large_jpeg_is_decoded_smaller_with_nearly_the_same_result(
    tmp_path, monkeypatch, crop, orientation, shape, reduced
):
    smooth = Image.fromarray(noisy(60, 50)).resize(shape, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    smooth.save(path, quality=95, exif=exif)
    used = set()
    rgb = Picture.rgb
    monkeypatch.setattr(Picture, "rgb", lambda picture, reduction: used.add(reduction) or rgb(picture, reduction))
    results = [trained(path, sample, 64, crop=crop, **PLAIN) for sample in range(12)]
    assert bool(used & {4, 8}) == reduced
    monkeypatch.setattr(Picture, "reductions", ())
    for sample, result in enumerate(results):
        full = trained(path, sample, 64, crop=crop, **PLAIN)
        assert abs(to_pixels(result) - to_pixels(full)).mean() < 3  # another sample's crop is some 50 away


@pytest.mark.parametrize(("side", "reduction"), [(511, 1), (512, 2), (1023, 2), (1024, 4), (2047, 4), (2048, 8)])
def test_crop_is_reduced_as_far_as_it_stays_no_smaller_than_the_result(tmp_path, monkeypatch, side, reduction):
    # The paper's crop is 224/256 of the short side: 448 of 512 pixels, which is 224 twice.
    path = tmp_path / "a.jpg"
    Image.new("L", (side, side)).save(path)
    used = []
    rgb = Picture.rgb
    monkeypatch.setattr(Picture, "rgb", lambda picture, factor: used.append(factor) or rgb(picture, factor))
    trained(path, 0, 224, crop="paper")
    assert used == [reduction]
