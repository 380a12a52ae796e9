"""The one label that is no class, and labels of images that are mixed of two."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1  # of an image that could not be read: it counts for neither loss nor gradient nor accuracy


class Mixed(NamedTuple):
    """Of n images that are mixed of two: the labels of the second images, and the shares of the first."""

    labels: NDArray[np.int64]  # [n], classes where the share is below 1
    shares: NDArray[np.float32]  # [n], from 0.5 to 1

    def rows(self, part: slice) -> "Mixed":
        """Those of some of the images."""
        return Mixed(self.labels[part], self.shares[part])
