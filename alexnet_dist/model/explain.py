"""Where does a network look? Which parts of an image speak for a class, as a coarse map of its crop.

Grad-CAM: R. R. Selvaraju et al. (2017), arXiv 1610.02391, on the last convolution. Occlusion: M. D. Zeiler and R. Fergus
(2014), arXiv 1311.2901, section 4.2.

Legend: N images, S the size of a crop, P Q height and width of a map, K its channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_dist.model.architecture import AdaptiveAvgPool2d, Conv2d, MaxPool2d, Network, ReLU, layer_table
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.model.layers.linear import LinearBlock
from alexnet_dist.model.network import AlexNet
from alexnet_dist.support.workspace import empty

OCCLUDERS = 14  # along each side of the crop
OCCLUDER_SHARE = 0.2  # of the crop's side: several positions cover each pixel

Shares = tuple[float, float, float, float]  # left, top, right, bottom of a part of a picture; 0 to 1


@dataclass(frozen=True, eq=False)
class Explained:
    """The logits [N, classes] of N crops, and for the class labels[n] of each its map heat[n] [P, Q] in [0, 1].

    1 is where a crop speaks most for its class; a map is all 0 where nothing does. `centres` [P] says at which of a crop's
    pixels the map's rows lie, and its columns: the maps are square, as the crops are. `size` is S.
    """

    logits: np.ndarray
    labels: list[int]
    heat: np.ndarray
    centres: np.ndarray
    size: int

    def over(self, index: int, width: int, height: int, crop: Shares) -> np.ndarray:
        """A map [height, width] float32 in [0, 1] over a picture, of which `crop` is the part that the network was given.

        Between the centres it is interpolated linearly; what the network has not seen is 0.
        """
        rows = self._interpolation(height, crop[1], crop[3])
        columns = self._interpolation(width, crop[0], crop[2])
        return np.clip(rows @ self.heat[index] @ columns.T, 0, 1)

    def _interpolation(self, extent: int, start: float, end: float) -> np.ndarray:
        """[extent, P]: the share that each of the map's rows has in each of a picture's."""
        pixels = ((np.arange(extent) + 0.5) / extent - start) / (end - start) * self.size - 0.5  # of the crop
        shares = [np.interp(pixels, self.centres, one) for one in np.eye(len(self.centres))]
        seen = (pixels >= -0.5) & (pixels <= self.size - 0.5)
        return np.stack(shares, axis=1, dtype=np.float32) * seen[:, np.newaxis].astype(np.float32)


Explainer = Callable[[AlexNet, np.ndarray, Sequence[int] | None], Explained]


def grad_cam(net: AlexNet, x: np.ndarray, labels: Sequence[int] | None = None) -> Explained:
    """Maps of x [N, S, S, 3], up to `net.batch` normalised images, for a class of each (default: the most probable one).

    Each channel of the last convolution's map, after the ReLU and before the pooling, is weighted with the mean over its
    places of the class's logit's gradient; what is positive in the sum speaks for the class. Raises ValueError for a
    network without convolutions, with other layers than ReLU and poolings after the last of them, or whose classifier isn't
    of fully connected layers.
    """
    centres = _centres(net.network)
    logits, chosen = _forward(net, x, labels)
    blocks = net.features.blocks
    last, block = [(index, block) for index, block in enumerate(blocks) if isinstance(block, ConvBlock)][-1]
    maps = block.unpooled(blocks[last - 1].y[: len(x)] if last else x)
    # Max-pooling passes each gradient on to one place, average pooling divides it among some: summed over the places, it is
    # the same after them as before. Divided by P Q it would be the mean; maps are scaled anyway.
    weights = classifier_gradient(net, chosen).sum(axis=(1, 2))
    heat = np.maximum(np.einsum("npqk,nk->npq", maps, weights, optimize=True), 0)
    return Explained(logits, chosen, _scaled(heat), centres, net.network.image_size)


def occlusion(net: AlexNet, x: np.ndarray, labels: Sequence[int] | None = None) -> Explained:
    """As `grad_cam`: how much less probable does the class become where a square of the mean colour hides the image?

    It is the fall of the logarithm of its odds, p / (1 - p), which moves also where the network is sure. An image takes
    OCCLUDERS^2 forward passes.
    """
    logits, chosen = _forward(net, x, labels)
    size = net.network.image_size
    centres = (np.arange(OCCLUDERS) + 0.5) * size / OCCLUDERS - 0.5
    edges = [np.clip(np.rint(centres + side * OCCLUDER_SHARE * size / 2), 0, size).astype(int) for side in (-1, 1)]
    spans = [slice(lo, hi) for lo, hi in zip(*edges, strict=True)]
    squares = [(rows, columns) for rows in spans for columns in spans]
    heat = np.empty((len(x), len(squares)))
    hidden = empty((net.batch, size, size, 3))
    for image, label, whole, row in zip(x, chosen, logits, heat, strict=True):
        for lo in range(0, len(squares), net.batch):
            part = squares[lo : lo + net.batch]
            hidden[: len(part)] = image
            for copy, (rows, columns) in zip(hidden, part, strict=False):
                copy[rows, columns] = 0  # of normalised pixels, the mean
            row[lo : lo + len(part)] = -_log_odds(net.forward(hidden[: len(part)]), label)
        row += _log_odds(whole, label)
    maps = np.maximum(heat, 0).reshape(-1, OCCLUDERS, OCCLUDERS)
    return Explained(logits, chosen, _scaled(maps), centres, size)


EXPLAINERS: dict[str, Explainer] = {"grad-cam": grad_cam, "occlusion": occlusion}


def classifier_gradient(net: AlexNet, labels: Sequence[int]) -> np.ndarray:
    """The gradient of each image's logit of a class, labels [N], with respect to what the classifier was given in the
    latest forward pass, which must have been without dropout: [N, H, W, K]. Raises ValueError as `grad_cam`."""
    dy = np.zeros((len(labels), net.network.num_classes), np.float32)
    dy[np.arange(len(labels)), list(labels)] = 1
    for block in reversed(net.classifier.blocks):
        if not isinstance(block, LinearBlock):
            raise ValueError("Grad-CAM needs a classifier of fully connected layers")
        block.backward_relu_(dy)
        dx = empty((len(labels), block.inputs))
        block.backward_data(dy, dx)
        dy = dx
    return dy.reshape(len(labels), *layer_table(net.network).classifier[0].input)


def _forward(net: AlexNet, x: np.ndarray, labels: Sequence[int] | None) -> tuple[np.ndarray, list[int]]:
    """The logits, and the class of each image that is to be explained."""
    logits = net.forward(x).copy()
    return logits, [int(label) for label in (logits.argmax(axis=1) if labels is None else labels)]


def _log_odds(logits: np.ndarray, label: int) -> np.ndarray:
    """Of one class, [...] of logits [..., classes], in float64."""
    others = np.delete(logits.astype(np.float64), label, axis=-1)
    if not others.size:  # the only class there is
        return logits[..., label].astype(np.float64)
    largest = others.max(axis=-1, keepdims=True)
    return logits[..., label] - largest[..., 0] - np.log(np.exp(others - largest).sum(axis=-1))


def _scaled(heat: np.ndarray) -> np.ndarray:
    """Maps [N, P, Q] with values from 0 up, each divided by its largest."""
    largest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, largest, out=np.zeros(heat.shape, np.float32), where=largest > 0, casting="same_kind")


def _centres(network: Network) -> np.ndarray:
    """At which pixels of the crop, from 0, the rows of the last convolution's map lie: the middles of what they see.

    Raises ValueError as `grad_cam`.
    """
    layers = layer_table(network).features
    last = max((index for index, layer in enumerate(layers) if isinstance(layer.layer, Conv2d)), default=-1)
    if last < 0 or not all(isinstance(one.layer, ReLU | MaxPool2d | AdaptiveAvgPool2d) for one in layers[last + 1 :]):
        raise ValueError("Grad-CAM needs a network whose features end with a convolution, ReLU and poolings")
    first, spacing = 0.0, 1
    for layer in (placed.layer for placed in layers[: last + 1]):
        if isinstance(layer, Conv2d | MaxPool2d):
            padding = layer.padding if isinstance(layer, Conv2d) else 0
            first += spacing * ((layer.kernel - 1) / 2 - padding)
            spacing *= layer.stride
    return first + spacing * np.arange(layers[last].output[0])
