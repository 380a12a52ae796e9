"""From images to the most probable classes."""

import numpy as np

from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.network import AlexNet


def predict(net: AlexNet, images: np.ndarray) -> np.ndarray:
    """Probabilities [N, classes] of normalised images [N, H, W, 3], for any N."""
    parts = [softmax(net.forward(images[lo : lo + net.batch])) for lo in range(0, len(images), net.batch)]
    return np.concatenate(parts)


def most_probable(probabilities: np.ndarray, k: int) -> list[int]:
    """The k most probable classes of one image's probabilities [classes], best first; of equal ones the lower id first."""
    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:k]]
