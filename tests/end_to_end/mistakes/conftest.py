"""What the tests of mistakes share: a run without any, and copies of it to work in."""

import shutil

import pytest
from launcher import train
from refusals import BASE, GOOD, VALIDATION


@pytest.fixture(scope="session")
def done(pictures, tmp_path_factory):
    """A folder with images, lists of them, and in `run` a run of one epoch. Not to be changed."""
    folder = tmp_path_factory.mktemp("done")
    for name, first, count in (("train", 0, GOOD), ("val", GOOD, VALIDATION)):
        lines = []
        for number, (label, path) in enumerate(pictures.files[first : first + count], 1):
            image = f"{name} {number}{path.suffix}"
            shutil.copy(path, folder / image)
            lines.append(f"{label} {image}\n")
        (folder / f"{name}.list").write_text("".join(lines))
    train(2, [*BASE, "--output-dir", "run"], folder).ok()
    return folder


@pytest.fixture
def site(done, tmp_path):
    """A copy of that folder, to be worked in."""
    return shutil.copytree(done, tmp_path / "site", symlinks=True)
