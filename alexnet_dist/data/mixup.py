"""Mixup (Zhang et al., arXiv 1710.09412): each training image is mixed with another one, and so are their labels.

The other one is the image before it in the global batch, and the first one's is the last, as in torchvision's reference
script. So a rank, which has a contiguous part of the batch, decodes one more image a step, on any number of ranks, and all
others are there already.
"""

import numpy as np
from numpy.typing import NDArray

from alexnet_dist.support.randomness import Purpose, generator


def own_share(alpha: float, seed: int, epoch: int, index: int) -> float:
    """How much image `index` keeps of itself: the larger of λ and 1 - λ, where λ is of Beta(alpha, alpha).

    Each image has a λ of its own. Which of two images of a shuffled list comes first is chance, so taking the larger
    changes no distribution; and accuracy in training can be counted by the images' own labels.
    """
    share = generator(seed, Purpose.MIXUP, epoch, index).beta(alpha, alpha)
    return float(max(share, 1 - share))


def mix_(
    images: NDArray[np.float32], before: NDArray[np.float32], shares: NDArray[np.float32], scratch: NDArray[np.float32]
) -> None:
    """Mixes images [n, H, W, 3] in place, each with the one before it, the first one with `before` [H, W, 3].

    shares [n]: what each keeps of itself. scratch [H, W, 3] is overwritten.
    """
    others = [before, *images]
    # From the end, so that each meets the one before it unmixed.
    for row in reversed(range(len(images))):
        if shares[row] < 1:
            np.multiply(others[row], 1 - shares[row], out=scratch)
            images[row] *= shares[row]
            images[row] += scratch
