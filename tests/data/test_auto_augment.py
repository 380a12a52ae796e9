"""TrivialAugment Wide and RandAugment: torchvision's table of magnitudes, its pixels, and draws that are uniform."""

import numpy as np
import pytest
from augmented import noisy
from PIL import Image

from alexnet_dist.data import auto_augment
from alexnet_dist.data.auto_augment import AFFINE_INTERPOLATIONS, LEVELS, OPERATIONS, POLICIES, magnitudes
from alexnet_dist.support.randomness import Purpose, generator

BILINEAR = Image.Resampling.BILINEAR


def augmented(picture: Image.Image, policy: str | None, sample: int, magnitude: int = 9) -> Image.Image:
    rng = generator(0, Purpose.AUGMENT, 0, sample)
    return auto_augment.auto_augment(picture, policy, magnitude, BILINEAR, rng)


@pytest.fixture
def theirs():
    return pytest.importorskip("torchvision.transforms.autoaugment")


@pytest.mark.parametrize("policy", POLICIES)
def test_magnitudes_are_torchvisions(theirs, policy):
    if policy == "ta_wide":
        expected = theirs.TrivialAugmentWide()._augmentation_space(LEVELS)
    else:
        expected = theirs.RandAugment()._augmentation_space(LEVELS, (224, 224))
    ours = magnitudes(policy, 224)
    assert list(ours) == list(expected)
    for name, (values, signed) in expected.items():
        assert ours[name][1] == signed
        np.testing.assert_allclose(ours[name][0], np.broadcast_to(values.numpy(), LEVELS), rtol=1e-6)
        if name in ("Posterize", "Solarize"):  # where rounding would show
            np.testing.assert_array_equal(ours[name][0].astype(int), values.numpy().astype(int))


@pytest.mark.parametrize("interpolation", AFFINE_INTERPOLATIONS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions_to_the_pixel(theirs, policy, name, interpolation):
    # Its colours don't span all values, so that each operation has something to do.
    picture, changed = Image.fromarray((noisy(48, 48) * 0.6 + 40).astype(np.uint8)), 0
    values, signed = magnitudes(policy, 48)[name]
    if name.startswith("Shear"):  # theirs goes through an angle, whose last bit would turn ties: so no round numbers
        values = values * (1 + 1e-3 / np.pi)
    for value in [*values, *(-values if signed else ())]:
        result = OPERATIONS[name](picture, float(value), Image.Resampling[interpolation.upper()])
        expected = theirs._apply_op(picture, name, float(value), theirs.InterpolationMode(interpolation), None)
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))
        changed += not np.array_equal(np.asarray(result), np.asarray(picture))
    assert changed == 0 if name == "Identity" else changed > 15


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_uniform(monkeypatch, policy):
    calls: list[tuple[str, float]] = []

    def recorder(name):
        return lambda picture, value, how: calls.append((name, value)) or picture

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, recorder(name))
    draws, picture = 7000, Image.new("RGB", (48, 48))
    for sample in range(draws):
        augmented(picture, policy, sample, magnitude=12)
    total = draws * (1 if policy == "ta_wide" else 2)
    assert len(calls) == total
    expected = total / len(OPERATIONS)
    for name, (values, signed) in magnitudes(policy, 48).items():
        mine = np.array([value for called, value in calls if called == name])
        assert abs(len(mine) - expected) < 4 * np.sqrt(expected)
        if signed:
            assert abs((mine < 0).sum() - (mine > 0).sum()) < 4 * np.sqrt(expected)
        if policy == "ra":
            assert set(abs(mine)) == {values[12]}
        elif name == "Solarize":
            assert set(mine) == set(values)
            assert abs(mine.mean() - values.mean()) < 4 * values.std() / np.sqrt(len(mine))


def test_off_or_on_as_many_numbers_are_drawn():
    picture, after = Image.fromarray(noisy(9, 9)), []
    for policy in (None, *POLICIES):
        rng = generator(0, Purpose.AUGMENT, 0, 3)
        auto_augment.auto_augment(picture, policy, 9, BILINEAR, rng)
        after.append(rng.random())
    assert len(set(after)) == 1


def test_two_operations_of_randaugment_follow_one_another():
    picture = Image.fromarray(noisy(48, 48))
    assert augmented(picture, None, 0) is picture
    for sample in range(20):
        which, _, signs = generator(0, Purpose.AUGMENT, 0, sample).random((3, 2))
        expected = picture
        for step in range(2):
            name = list(OPERATIONS)[int(which[step] * 14)]
            values, signed = magnitudes("ra", 48)[name]
            expected = OPERATIONS[name](expected, values[9] * (-1 if signed and signs[step] < 0.5 else 1), BILINEAR)
        np.testing.assert_array_equal(np.asarray(augmented(picture, "ra", sample)), np.asarray(expected))
