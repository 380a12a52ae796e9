"""A network set by hand that tells a red square from a green one, so that the part of a picture that decides is known."""

import numpy as np
from PIL import Image

from alexnet_dist.model.architecture import Network, parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.support.workspace import zeros

NETWORK = Network(num_classes=2, image_size=131, width=1 / 16)
NAMES = ["red", "green"]
SQUARE = 32  # pixels


def weights(network=NETWORK):
    """The flat parameters: channel 0 is how red it is around a place, channel 1 how green, from the first layer to the last."""
    parameters = parameter_map(network)
    flat = zeros((parameters.size,))
    views = parameters.views(flat)
    for number in (0, 3, 6, 8, 10):
        w = views[f"features.{number}.weight"]
        middle = w.shape[0] // 2
        for colour in (0, 1):
            if number:
                w[middle, middle, colour, colour] = 1
            else:
                w[..., :, colour] = -0.5 / w.shape[0] ** 2
                w[..., colour, colour] = 1 / w.shape[0] ** 2
    for colour in (0, 1):
        views["classifier.1.weight"][colour, :, :, colour] = 1
        views["classifier.4.weight"][colour, colour] = 1
        views["classifier.6.weight"][:, colour] = (-0.2, 0.2) if colour else (0.2, -0.2)
    return flat


def save(path, network=NETWORK):
    """Writes them as a file of weights with class names; returns its path."""
    checkpoint.save(path, parameter_map(network), weights(network), {}, checkpoint.Header(network, NAMES))
    return path


def picture(size, *squares):
    """A grey picture of size (width, height) with squares: (colour, left, top), or with the square's side besides."""
    image = Image.new("RGB", size, (120, 115, 104))
    for colour, left, top, *side in squares:
        side = side[0] if side else SQUARE
        image.paste({"red": (230, 20, 20), "green": (20, 220, 20)}[colour], (left, top, left + side, top + side))
    return image


def hottest(heat):
    """Row and column of the middle of where a map is largest: max-pooling gives neighbours the same value."""
    return tuple(float(places.mean()) for places in np.nonzero(heat > 0.99 * heat.max()))
