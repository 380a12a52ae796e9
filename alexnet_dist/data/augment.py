"""From an image file to one normalised float32 image of a batch: how an image is cropped, flipped, coloured and scaled.

Evaluation is torchvision's Resize, CenterCrop, ToTensor and Normalize, bit for bit (after turning pictures upright, which
torchvision doesn't do). Training cuts a random rectangle and scales it in one pass; a large JPEG is decoded at a reduced
size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_dist.data.auto_augment import auto_augment
from alexnet_dist.data.color_jitter import color_jitter
from alexnet_dist.data.decode import MAX_PIXELS, ImageError, ImageFile, decode, open_image
from alexnet_dist.data.erasing import erase_

ImageArray = NDArray[np.float32]  # [size, size, 3], C-contiguous: one image of a batch
Box = tuple[float, float, float, float]  # left, top, right, bottom; in pixels where nothing else is said
BoxChoice = Callable[[int, int, int, np.random.Generator], Box]  # of the image's width and height, and the crop's size

# Of the training images of ImageNet, on the scale of 0 to 1: red, green, blue.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
# Their principal components (one a column), as published with many reimplementations of the paper's section 4.1.
EIGENVALUES = np.array((0.2175, 0.0188, 0.0045))
EIGENVECTORS = np.array(((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)))
COLOR_NOISE_STD = 0.1

# How images are scaled, by the names that torchvision's reference script has for them.
INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "box", "hamming", "lanczos", "nearest")
}

CROPS = 10  # of load_ten_crops_for_evaluation
AREA_SHARES = (0.08, 1.0)  # of a random-resized crop
ASPECT_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    size: width and height that the network sees. crop: "random-resized" cuts 8 to 100 % of the area at an aspect ratio
    of 3:4 to 4:3 (Szegedy et al., 2015); "paper" scales the short side to 256 and cuts 224 x 224 anywhere (Krizhevsky et
    al., 2012); "none" is evaluation's central crop. flip: half of the images, left to right. color_noise: the paper's
    shift along the principal components of RGB, one shift an image. color_jitter: a strength for each of
    color_jitter.CHANGES, or (). auto_augment: one of auto_augment.POLICIES, or None; ra_magnitude, 0 to 30, is that of
    "ra". random_erasing: the probability that a rectangle is erased. interpolation: one of INTERPOLATIONS, also where
    "ta_wide" and "ra" turn and shear.
    """

    size: int = 224
    crop: str = "random-resized"
    flip: bool = True
    color_noise: bool = False
    color_jitter: tuple[float, ...] = ()
    auto_augment: str | None = None
    ra_magnitude: int = 9
    random_erasing: float = 0.0
    interpolation: str = "bilinear"


def load_for_training(image: ImageFile, augmentation: Augmentation, rng: np.random.Generator, out: ImageArray) -> None:
    """Fills out [size, size, 3] with the augmented, normalised image. Raises ImageError.

    The result depends on the arguments alone, so `rng` should be a generator of this image and epoch.
    """
    # Always drawn, in this order, also by what follows the crop: switching one option off doesn't change the random
    # numbers of the others.
    flip = rng.random() < 0.5 and augmentation.flip
    noise = EIGENVECTORS @ (EIGENVALUES * rng.normal(0, COLOR_NOISE_STD, 3))
    match augmentation.crop:
        case "random-resized":
            picture = _crop(image, augmentation, random_resized_box, rng)
        case "paper":
            picture = _crop(image, augmentation, paper_box, rng)
        case "none":
            picture = central_crop(scaled(image, augmentation.size, augmentation.interpolation), augmentation.size)
        case other:
            raise ValueError(f"crop is {other!r}, but must be random-resized, paper or none")
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = color_jitter(picture, augmentation.color_jitter, rng)
    interpolation = INTERPOLATIONS[augmentation.interpolation]
    picture = auto_augment(picture, augmentation.auto_augment, augmentation.ra_magnitude, interpolation, rng)
    normalize(picture, out, noise if augmentation.color_noise else None)
    erase_(out, augmentation.random_erasing, rng)


def load_for_evaluation(image: ImageFile, size: int, out: ImageArray, interpolation: str = "bilinear") -> None:
    """Fills out [size, size, 3] with the normalised central crop. Raises ImageError."""
    normalize(central_crop(scaled(image, size, interpolation), size), out)


def load_ten_crops_for_evaluation(
    image: ImageFile, size: int, out: NDArray[np.float32], interpolation: str = "bilinear"
) -> None:
    """Fills out [10, size, size, 3] with ten normalised crops, over whose probabilities the paper averages. Raises
    ImageError.

    They are the corners (top left, top right, bottom left, bottom right) and the centre of the scaled image, and the same
    of its mirror image: torchvision's TenCrop. The paper (section 4.1) cuts to the central square first.
    """
    picture = scaled(image, size, interpolation)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    right, bottom = picture.width - size, picture.height - size
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    crops = [
        crop
        for side in (picture, mirrored)
        for crop in (*(_square(side, left, top, size) for left, top in corners), central_crop(side, size))
    ]
    for crop, row in zip(crops, out, strict=True):
        normalize(crop, row)


def scaled(image: ImageFile, size: int, interpolation: str) -> Image.Image:
    """The picture with its short side scaled to `short_side(size)`.

    Raises ImageError, also for an image so thin that its scaled long side would fill the memory.
    """
    picture = decode(image)
    extents = _scaled_extents(*picture.size, size)
    if extents[0] * extents[1] > MAX_PIXELS:
        raise ImageError(f"is too thin: {picture.width} x {picture.height} pixels")
    # Scaling only a crop would be faster, but some pixels would differ by one.
    return picture.resize(extents, INTERPOLATIONS[interpolation])


def central_crop(picture: Image.Image, size: int) -> Image.Image:
    """The central size x size pixels."""
    return _square(picture, *_centred(picture.size, size), size)


def seen(width: int, height: int, size: int) -> Box:
    """Which part of an image of width x height pixels evaluation's central crop of `size` shows: left, top, right, bottom as
    shares of the image's width and height."""
    w, h = _scaled_extents(width, height, size)
    left, top = _centred((w, h), size)
    return left / w, top / h, (left + size) / w, (top + size) / h


def short_side(size: int) -> int:
    """To how many pixels an image's short side is scaled before a crop of `size`: 256 for 224."""
    return round(size * 256 / 224)


def random_resized_box(width: int, height: int, size: int, rng: np.random.Generator) -> Box:
    """A rectangle of random area and shape inside width x height; after ten that don't fit, the central one.

    `size` is not used.
    """
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(10):
        area = width * height * rng.uniform(*AREA_SHARES)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(round(height * ASPECT_RATIOS[1]), 1))
    h = min(height, max(round(width / ASPECT_RATIOS[0]), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def paper_box(width: int, height: int, size: int, rng: np.random.Generator) -> Box:
    """A random size x size square of the image scaled to `short_side(size)`, in the pixels of the original."""
    short = min(width, height)
    scale = short / short_side(size)
    left, top = (int(rng.integers(extent * short_side(size) // short - size + 1)) * scale for extent in (width, height))
    return left, top, min(left + size * scale, width), min(top + size * scale, height)


def normalize(image: Image.Image, out: ImageArray, noise: NDArray[np.float64] | None = None) -> None:
    """out [H, W, 3] = (pixels of the RGB image / 255 + noise [3] - MEAN) / STD, in float32."""
    # Divisions, as torchvision does them, for the same bits. On whole rows, because a loop over three channels is slow;
    # a look-up table of the 256 x 3 values takes twice as long.
    h, w, _ = out.shape
    rows = out.reshape(h, w * 3)
    np.divide(np.asarray(image).reshape(h, w * 3), np.float32(255), out=rows)
    rows -= np.tile(MEAN if noise is None else MEAN - noise.astype(np.float32), w)
    rows /= np.tile(STD, w)


def _scaled_extents(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of an image whose short side has been scaled to `short_side(size)`."""
    short, long = sorted((width, height))
    extents = short_side(size), short_side(size) * long // short
    return extents if width <= height else extents[::-1]


def _centred(extents: tuple[int, int], size: int) -> tuple[int, int]:
    """Where the central size x size pixels begin: left, top."""
    left, top = (round((extent - size) / 2) for extent in extents)
    return left, top


def _square(picture: Image.Image, left: int, top: int, size: int) -> Image.Image:
    return picture.crop((left, top, left + size, top + size))


def _crop(image: ImageFile, how: Augmentation, box_choice: BoxChoice, rng: np.random.Generator) -> Image.Image:
    """The chosen rectangle of the image, scaled to size x size."""
    size = how.size
    with open_image(image) as picture:
        width, height = picture.size
        box = box_choice(width, height, size, rng)
        smallest = min(box[2] - box[0], box[3] - box[1])
        reduction = next((reduction for reduction in picture.reductions if smallest >= reduction * size), 1)
        pixels = picture.rgb(reduction)
    left, top, right, bottom = (edge / reduction for edge in box)
    return pixels.resize((size, size), INTERPOLATIONS[how.interpolation], (left, top, right, bottom))
