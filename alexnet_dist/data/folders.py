"""The images of a folder and of all folders in it."""

import os
from pathlib import Path

from alexnet_dist.data.decode import IMAGE_SUFFIXES
from alexnet_dist.errors import UserError


def images_below(root: str | Path) -> list[str]:
    """The path of every JPEG and PNG file below a folder, in sorted order; none if there is no such folder.

    Hidden files and folders are left out: macOS puts ._x.jpg beside x.jpg. Raises UserError for a folder that can't be read.
    """

    def refuse(error: OSError) -> None:
        # A folder may be missing, but one that can't be read is not an empty one.
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"can't look into the folder {error.filename}: {error.strerror}") from error

    found: list[str] = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        images = (file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."))
        found += [os.path.join(folder, image) for image in sorted(images)]
    return found
