"""From images to the most probable classes."""

import numpy as np

from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.network import AlexNet


def predict(net: AlexNet, images: np.ndarray, most: int | None = None) -> np.ndarray:
    """Probabilities [N, classes] of normalised images [N, H, W, 3], for any N.

    Where the network's forward pass is collective, `most` is the N of the rank with the most images: all make as many
    passes.
    """
    count = len(images) if most is None else most
    parts = [softmax(net.forward(images[lo : lo + net.batch])) for lo in range(0, count, net.batch)]
    return np.concatenate([np.empty((0, net.network.num_classes), np.float32), *parts])


def most_probable(probabilities: np.ndarray, k: int) -> list[int]:
    """The k most probable classes of one image's probabilities [classes], best first; of equal ones the lower id first."""
    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:k]]
