"""Random erasing: rectangles distributed as torchvision's, set to 0 after normalisation."""

import numpy as np
import pytest
from augmented import saved, trained

from alexnet_dist.data.erasing import rectangle
from alexnet_dist.support.randomness import Purpose, generator

DRAWS = 4000


def described(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of each top, left, height and width: area, logarithm of the aspect ratio, and the place between the edges."""
    top, left, h, w = boxes.astype(np.float64).T
    return np.array([h * w / (height * width), np.log(h / w), top / (height - h), left / (width - w)])


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 40)])  # in the second, many do not fit
def test_rectangles_are_distributed_as_torchvisions(height, width):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.transforms").RandomErasing()
    boxes = np.array([rectangle(height, width, generator(0, Purpose.AUGMENT, 0, s)) for s in range(DRAWS)])
    ours = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    assert (ours[:, 2:] > 0).all()
    assert (boxes[:, 2] <= height).all()
    assert (boxes[:, 3] <= width).all()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    expected = [theirs.get_params(image, theirs.scale, theirs.ratio, [0.0])[:4] for _ in range(DRAWS)]
    for mine, other in zip(described(ours, height, width), described(np.array(expected), height, width), strict=True):
        grid = np.quantile(other, np.linspace(0.02, 0.98, 40))
        shares = [np.searchsorted(np.sort(values), grid, side="right") / DRAWS for values in (mine, other)]
        assert abs(shares[0] - shares[1]).max() < 1.63 * np.sqrt(2 / DRAWS)  # Kolmogorov and Smirnov's bound of 1 %


def test_where_no_rectangle_fits_none_is_erased():
    class Stubborn:
        def uniform(self, low, high):
            return high

    assert rectangle(1000, 10, Stubborn()) == (0, 0, 0, 0)


def test_erased_are_some_images_in_a_rectangle_of_zeros(tmp_path):
    path = saved(tmp_path, 90, 80)
    erased = 0
    for sample in range(200):
        plain, result = (trained(path, sample, 32, random_erasing=share) for share in (0.0, 0.25))
        rows, columns = (np.flatnonzero((result != plain).any(axis=(other, 2))) for other in (1, 0))
        if len(rows):
            erased += 1
            assert not result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].any()
            result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = plain[
                rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1
            ]
            np.testing.assert_array_equal(result, plain)
    assert abs(erased - 50) < 4 * np.sqrt(200 * 0.25 * 0.75)
