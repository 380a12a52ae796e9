"""Sample images: after each epoch rank 0 logs the class that the network predicts for each."""

from pathlib import Path

from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.errors import UserError
from alexnet_dist.model.architecture import Network
from alexnet_dist.model.network import AlexNet
from alexnet_dist.model.predict import most_probable, predict
from alexnet_dist.runs.log import log
from alexnet_dist.support.workspace import empty


class Samples:
    """Decoded once, on rank 0; the other ranks have none of them. Raises UserError for an image that can't be read."""

    def __init__(self, paths: tuple[str, ...], network: Network, rank: int) -> None:
        self.paths = paths
        size = network.image_size
        self.images = empty((len(paths) if rank == 0 else 0, size, size, 3))
        for path, row in zip(paths, self.images, strict=False):
            try:
                load_for_evaluation(Path(path), size, row, network.interpolation)
            except UserError as error:
                raise UserError(f"--sample {path} {error}") from error
            except OSError as error:
                raise UserError(f"--sample {path} can't be read: {error.strerror}") from error
        self._before = [""] * len(paths)

    def report(self, net: AlexNet, class_names: list[str] | None) -> None:
        """Collective: logs the most probable class of each sample, and that of the previous report."""
        probabilities = predict(net, self.images, len(self.paths))
        for index, (path, of_sample) in enumerate(zip(self.paths, probabilities, strict=False)):
            best = most_probable(of_sample, 1)[0]
            now = f"{class_names[best] if class_names else best} {of_sample[best]:.1%}"
            before = self._before[index]
            log.info("  %s: %s%s", path, now, f" (before: {before})" if before else "")
            self._before[index] = now
