"""A trained network for use from Python: `alexnet_dist.load("best.safetensors").predict("photo.jpg")`. Needs no MPI."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_dist.data.augment import CROPS, seen
from alexnet_dist.data.decode import ImageError, ImageFile, decode
from alexnet_dist.data.decoded import Decoded, EvaluationPixels, decoded
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.loss import softmax
from alexnet_dist.model.explain import EXPLAINERS, Explained
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.predict import activations, mean_over_crops, most_probable
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.folder import weights_in
from alexnet_dist.support.threads import Team, one_blas_thread

# The path of a JPEG or PNG file, a picture of Pillow's of any format, or pixels: uint8 [height, width, 3], red first.
ImageLike = str | Path | Image.Image | NDArray[np.uint8]
Images = ImageLike | Sequence[ImageLike]  # one, or several; an array uint8 [n, height, width, 3] is several, too


class Predictor:
    """A network with its weights, memory for `batch_size` crops at once, and `threads` threads (default: one a core).

    Images are scaled, cropped at their centre and normalised as in evaluation. Calls from several threads take turns. BLAS
    has one thread during a call only. Raises UserError for a file that can't be used.
    """

    def __init__(self, path: str | Path, *, batch_size: int = 32, threads: int | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        header, flat = checkpoint.load_weights(weights_in(Path(path)))
        self.network = header.network
        self.class_names = header.class_names
        self._team = Team(threads, limit_blas=False)
        # Not at the interpreter's exit, when daemon threads end by themselves.
        weakref.finalize(self, self._team.abandon).atexit = False
        self._net = AlexNet(header.network, flat, batch_size, self._team)
        self._lock = threading.Lock()

    def predict(self, images: Images, *, ten_crop: bool = False) -> NDArray[np.float32]:
        """Probabilities [n, classes] of one or several images, in their order; each row sums to 1.

        With `ten_crop` they are the means over the paper's ten crops of each image. Raises UserError for a file that can't
        be read, ValueError for an array that isn't uint8 [height, width, 3].
        """
        return self._all(images, ten_crop, lambda part: softmax(self.logits(part, ten_crop=ten_crop)))

    def features(self, images: Images, layer: str = "fc7") -> NDArray[np.float32]:
        """What a layer yields for one or several images, [n, ...] in torchvision's order of axes; for a network of width 1:

        pool5 [n, 256, 6, 6], the convolutions' result; fc6 and fc7 [n, 4096], after the ReLU; fc8 [n, classes], the logits.
        Raises as `predict`, and ValueError for another layer.
        """
        return self._all(images, False, lambda part: self.activations(part, layer))

    def top(self, probabilities: NDArray[np.float32], k: int = 5) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each row of probabilities [n, classes], best first: (name, probability).

        A class without a name has its number.
        """
        names = self.names
        return [[(names[index], float(row[index])) for index in most_probable(row, k)] for row in probabilities]

    @property
    def names(self) -> list[str]:
        """The classes' names; a class without a name has its number."""
        return self.class_names or [str(number) for number in range(self.network.num_classes)]

    @property
    def threads(self) -> int:
        """How many threads compute, and decode images."""
        return self._team.size

    def explain(self, image: ImageLike, label: int | str | None = None, *, by: str = "grad-cam") -> NDArray[np.float32]:
        """Where the network looks: a map [height, width] in [0, 1] over an image, as large as it is when it stands upright.

        1 is what speaks most for the class `label` (its number or name; by default the most probable one), 0 what doesn't, or
        lies outside of the central crop. `by` is "grad-cam" or "occlusion" (model/explain.py). Raises as `predict`, and
        ValueError for another class or `by`.
        """
        name = _pictures(image)[0]
        number = None if label is None else self._number_of(label)
        try:
            picture = decode(name)
            part = next(self.decode([picture]))
            for problem in part.problems.values():
                raise problem
        except ImageError as error:
            raise UserError(f"{'the image' if isinstance(name, Image.Image) else name} {error}") from error
        explained = self.explained(part, None if number is None else [number], by)
        return explained.over(0, *picture.size, seen(*picture.size, self.network.image_size))

    def explained(self, part: Decoded, labels: Sequence[int] | None = None, by: str = "grad-cam") -> Explained:
        """Where the network looks in the crops of a batch of `decode`, for a class of each; by default the most probable one.

        Raises ValueError for another `by` than those of `explain`.
        """
        if by not in EXPLAINERS:
            raise ValueError(f"by is {by!r}, but must be one of {', '.join(EXPLAINERS)}")
        with self._lock, one_blas_thread():
            return EXPLAINERS[by](self._net, part.crops, labels)

    def decode(self, images: Sequence[ImageFile], *, ten_crop: bool = False) -> Iterator[Decoded]:
        """The images' crops in batches of up to `batch_size` crops (of one image at least); with what can't be read."""
        pixels = self.pixels(ten_crop)
        return decoded(images, pixels, max(1, self._net.batch // pixels.crops), self._team.size)

    def pixels(self, ten_crop: bool = False) -> EvaluationPixels:
        """What the network is given of an image."""
        return EvaluationPixels(self.network.image_size, self.network.interpolation, ten_crop)

    def logits(self, part: Decoded, *, ten_crop: bool = False) -> NDArray[np.float32]:
        """Logits [N, classes] of a batch of `decode`; with `ten_crop`, of the mean probabilities of each image's crops."""
        return mean_over_crops(self.activations(part, "fc8"), CROPS if ten_crop else 1)

    def activations(self, part: Decoded, layer: str) -> NDArray[np.float32]:
        """What a layer yields for the crops of a batch of `decode`, as `features`."""
        with self._lock, one_blas_thread():
            return activations(self._net, part.crops, layer)

    def close(self) -> None:
        """Ends the threads, as the end of a `with` block does, or the object's end. It can't be used after."""
        self._team.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all(
        self, images: Images, ten_crop: bool, output: Callable[[Decoded], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        results = []
        pictures = _pictures(images)
        for part in self.decode(pictures, ten_crop=ten_crop):
            for index, problem in part.problems.items():
                name = pictures[index]
                raise UserError(f"{f'image {index}' if isinstance(name, Image.Image) else name} {problem}") from problem
            results.append(output(part))
        return np.concatenate(results or [output(self._nothing())])

    def _number_of(self, label: int | str) -> int:
        names = self.class_names or []
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, str) or not 0 <= label < self.network.num_classes:
            raise ValueError(f"label is {label!r}, which is no class of this network")
        return int(label)

    def _nothing(self) -> Decoded:
        """A batch without images, whose results have the right shape."""
        size = self.network.image_size
        return Decoded([], np.empty((0, size, size, 3), np.float32), {})


def _pictures(images: Images) -> list[str | Path | Image.Image]:
    """A list of what `decode` reads. Raises ValueError for an array that isn't uint8 [height, width, 3]."""
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    return [Image.fromarray(_checked(image)) if isinstance(image, np.ndarray) else image for image in images]


def _checked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image is {pixels.dtype} {pixels.shape}, but must be uint8 (height, width, 3)")
    return pixels
