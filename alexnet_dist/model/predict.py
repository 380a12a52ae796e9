"""From images to the most probable classes, and to the activations of a layer."""

import numpy as np

from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.network import AlexNet

LAYERS = ("pool5", "fc6", "fc7", "fc8")  # as the paper counts them: five convolutions, three fully connected layers


def predict(net: AlexNet, images: np.ndarray, most: int | None = None) -> np.ndarray:
    """Probabilities [N, classes] of normalised images [N, H, W, 3], for any N.

    Where the network's forward pass is collective, `most` is the N of the rank with the most images: all make as many
    passes.
    """
    count = len(images) if most is None else most
    parts = [softmax(net.forward(images[lo : lo + net.block])) for lo in range(0, count, net.block)]
    return np.concatenate([np.empty((0, net.network.num_classes), np.float32), *parts])


def activations(net: AlexNet, images: np.ndarray, layer: str) -> np.ndarray:
    """What `layer`, one of LAYERS, yields for normalised images [N, H, W, 3], for any N; in torchvision's order of axes.

    pool5 [N, 256, 6, 6] is what the fully connected layers are given, fc6 and fc7 [N, 4096] are taken after their ReLU
    (width 1), fc8 [N, classes] are the logits. Raises ValueError for another name.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer is {layer!r}, but must be one of {', '.join(LAYERS)}")
    block = dict(zip(LAYERS, (net.features.blocks[-1], *net.classifier.blocks), strict=True))[layer]

    def one_pass(part: np.ndarray) -> np.ndarray:
        net.forward(part)
        y = block.y[: len(part)]
        return y.transpose(0, 3, 1, 2).copy() if y.ndim == 4 else y.copy()

    # Without an image there is one pass all the same, for the shape of what it yields.
    return np.concatenate([one_pass(images[lo : lo + net.batch]) for lo in range(0, max(len(images), 1), net.batch)])


def mean_over_crops(logits: np.ndarray, crops: int) -> np.ndarray:
    """Logits [N, K] of the mean probabilities of each image's crops, from the crops' own, [N * crops, K].

    That mean is Krizhevsky et al.'s (2012), section 4.1. Its logarithms are logits whose softmax is the mean again.
    """
    if crops == 1:
        return logits
    mean = softmax(logits).reshape(-1, crops, logits.shape[1]).mean(axis=1)
    return np.log(np.maximum(mean, np.finfo(np.float32).tiny))


def most_probable(probabilities: np.ndarray, k: int) -> list[int]:
    """The k most probable classes of one image's probabilities [classes], best first; of equal ones the lower id first."""
    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:k]]
