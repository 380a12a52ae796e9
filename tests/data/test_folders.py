"""Which images there are below a folder."""

import pytest

from alexnet_dist.data.folders import images_below
from alexnet_dist.errors import UserError


def test_images_below_a_folder(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/b/c.jpeg", "notes.txt", "a/._z.png", ".git/x.png", "a/.thumbs/z.png", "jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert images_below(tmp_path) == [str(tmp_path / name) for name in ("b.JPG", "a/z.png", "a/b/c.jpeg")]
    assert images_below(tmp_path / "gone") == []


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't look into the folder"):
        images_below(tmp_path / "file")
