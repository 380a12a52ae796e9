"""alexnet_dist: train AlexNet with NumPy, MPI and Pillow, and no deep-learning framework.

`alexnet_dist.load` is for use from Python; the programs are modules that can be run (`python -m alexnet_dist.train`).
"""

from typing import TYPE_CHECKING

from alexnet_dist.support import starting

if TYPE_CHECKING:
    from pathlib import Path

    from alexnet_dist.predictor import Predictor

__version__ = "0.1.0"

if starting.PROGRAM:  # not where this is a library
    starting.keep_signals()


def load(path: "str | Path", *, batch_size: int = 32, threads: int | None = None) -> "Predictor":
    """A trained network that classifies images, see alexnet_dist.predictor.Predictor. Needs no MPI.

    `path` is a run's folder (its best weights), a checkpoint of ours or a safetensors file of torchvision's weights; a
    network classifies `batch_size` images at once, with `threads` threads (default: one a core). Raises UserError
    (alexnet_dist.errors) for a file that can't be used.
    """
    # Imported here, so that `import alexnet_dist`, which every program begins with, costs nothing.
    from alexnet_dist.predictor import Predictor

    return Predictor(path, batch_size=batch_size, threads=threads)
