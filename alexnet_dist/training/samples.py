"""Sample images: after each epoch rank 0 logs the class that the network predicts for each."""

from pathlib import Path

from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.errors import UserError
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.predict import most_probable, predict
from alexnet_dist.runs.log import log
from alexnet_dist.support.workspace import empty


class Samples:
    """Decoded once; raises UserError for an image that can't be read."""

    def __init__(self, paths: tuple[str, ...], image_size: int) -> None:
        self.paths = paths
        self.images = empty((len(paths), image_size, image_size, 3))
        for path, row in zip(paths, self.images, strict=True):
            try:
                load_for_evaluation(Path(path), image_size, row)
            except UserError as error:
                raise UserError(f"--sample {path} {error}") from error
        self._before = [""] * len(paths)

    def report(self, net: AlexNet, class_names: list[str] | None) -> None:
        """Logs the most probable class of each sample, and that of the previous report."""
        if not self.paths:
            return
        for index, (path, probabilities) in enumerate(zip(self.paths, predict(net, self.images), strict=True)):
            best = most_probable(probabilities, 1)[0]
            now = f"{class_names[best] if class_names else best} {probabilities[best]:.1%}"
            before = self._before[index]
            log.info("  %s: %s%s", path, now, f" (before: {before})" if before else "")
            self._before[index] = now
