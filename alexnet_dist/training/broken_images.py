"""Images that could not be read: each is named once, and too many of them end the run."""

from alexnet_dist.data.decode import LISTED
from alexnet_dist.data.source import ImageSource
from alexnet_dist.errors import SharedError
from alexnet_dist.runs.log import log
from alexnet_dist.support.plural import plural
from alexnet_dist.training.config import TrainingConfig


class BrokenImages:
    """What has been said of them. The same calls are made on all ranks."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._said: set[str] = set()

    def report(self, messages: list[str], broken: int, images: ImageSource) -> None:
        """Logs what is new of these messages; raises SharedError if `broken` of all the images so far are too many."""
        if self._config.strict:
            raise SharedError(messages[0])
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                if len(self._said) <= LISTED:
                    log.warning("skipped: %s", message)
                if len(self._said) == LISTED:
                    log.warning("further images that can't be read are counted, and not listed")
        if broken > self._config.max_bad * len(images) or broken == len(images):
            raise SharedError(
                f"{broken} of {plural(len(images), 'image')} of {images.source} can't be read, more than --max-bad "
                f"{self._config.max_bad:g} allows; the latest: {messages[-1]}"
            )
