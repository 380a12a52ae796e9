"""Sources of images: how one is split, and that a list keeps the protocol."""

from pathlib import Path

import pytest

from alexnet_dist.data.image_list import ImageList, read_image_list
from alexnet_dist.data.source import ImageSource, hold_out
from alexnet_dist.errors import UserError


def numbered(folder: Path, count: int) -> ImageList:
    path = folder / "images.list"
    path.write_bytes(b"".join(b"0 %03d\n" % index for index in range(count)))
    return read_image_list(path)


def test_a_list_opens_its_images(tmp_path):
    (tmp_path / "000").write_bytes(b"its bytes")
    source: ImageSource = numbered(tmp_path, 2)
    with source.open(0) as file:
        assert file.read() == b"its bytes"
    with pytest.raises(FileNotFoundError):
        source.open(1)
    assert len(source) == len(source.labels) == 2
    assert source.where(1) == f"{source.source}:2: {tmp_path}/001"


@pytest.mark.parametrize(("count", "fraction", "expected"), [(100, 0.1, 10), (2, 0.01, 1), (3, 0.99, 2), (10, 0.25, 2)])
def test_hold_out_divides_the_list(tmp_path, count, fraction, expected):
    images = numbered(tmp_path, count)
    train, validation = hold_out(images, fraction, seed=3)
    names = [[part.path(index).name for index in range(len(part))] for part in (train, validation)]
    assert len(validation) == expected
    assert sorted(names[0] + names[1]) == [f"{index:03}" for index in range(count)]
    assert names == [sorted(part) for part in names]


def test_hold_out_follows_the_seed(tmp_path):
    images = numbered(tmp_path, 100)
    lines = [hold_out(images, 0.2, seed)[1].lines.tolist() for seed in (1, 1, 2)]
    assert lines[0] == lines[1]
    assert lines[0] != lines[2]
    assert lines[0] != list(range(1, 21))
    assert lines[0] != list(range(81, 101))


def test_hold_out_refuses(tmp_path):
    one = numbered(tmp_path, 1)
    with pytest.raises(UserError, match="at least 2"):
        hold_out(one, 0.5, 0)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            hold_out(one, fraction, 0)
