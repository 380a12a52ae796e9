"""`prepare digits`: scikit-learn's handwritten digits as images, to try the trainer with."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.preparation.known_names import DIGITS
from alexnet_dist.preparation.lists import Lists, split, write_png
from alexnet_dist.support.files import write_text
from alexnet_dist.support.tracking import track

ATTRIBUTION = """\
These images are the handwritten digits that scikit-learn ships (sklearn.datasets.load_digits), which are the test part of:
  E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
  https://doi.org/10.24432/C50P49
Licence: Creative Commons Attribution 4.0 International, https://creativecommons.org/licenses/by/4.0/
Changes: enlarged from 8x8 pixels by bicubic interpolation, values scaled from 0..16 to 0..255, saved as PNG.
"""


def prepare_digits(output: Path, size: int = 224, seed: int = 0, force: bool = False) -> None:
    """Writes scikit-learn's 1797 handwritten digits as size x size PNG files, and lists of 80, 10 and 10 % of them.

    Running it again changes nothing. Raises UserError if scikit-learn is missing, or if `output` has other lists.
    """
    if size < 8:
        raise UserError(f"--size must be at least 8 pixels, not {size}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn; install it: pip install 'alexnet_dist[demo]'") from None
    digits = load_digits()
    folder = output / "digits"
    entries = [
        (label, str(folder / f"{label}/{number:04d}.png")) for number, label in enumerate(digits.target.tolist())
    ]
    train, val, test = split(entries, (0.1, 0.1), seed)
    lists = Lists(output, {"images.list": train, "val.list": val, "test.list": test}, DIGITS)
    lists.check(force)
    write_text(folder / "ATTRIBUTION.txt", ATTRIBUTION)
    for pixels, (_, path) in zip(digits.images, track(entries, "images"), strict=True):
        image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))
        write_png(path, image.resize((size, size), Image.Resampling.BICUBIC))
    lists.write()
