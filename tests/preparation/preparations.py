"""What the tests of alexnet-prepare share: lists read back, and what it refuses."""

from pathlib import Path

import pytest

from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.prepare import main


def listed(path: Path) -> list[tuple[int, Path]]:
    images = read_image_list(path)
    return [(int(images.labels[index]), images.path(index).resolve()) for index in range(len(images))]


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("alexnet-prepare: error: ")
    assert captured.err.count("\n") == 1
    return captured.err
