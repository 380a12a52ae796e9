"""images.list: what is read, and what is refused in which words."""

import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.errors import UserError


def write(folder: Path, content: bytes, name: str = "images.list") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_reads_labels_paths_and_lines(tmp_path):
    content = b"\xef\xbb\xbf0 a.jpg\r\n\r\n# a comment\n  7 \t sub folder/b c.png  \n12 /absolute/d.jpeg"
    images = read_image_list(write(tmp_path, content))
    assert len(images) == 3
    assert images.labels.tolist() == [0, 7, 12]
    assert images.labels.dtype == np.int32
    assert [images.path(index) for index in range(3)] == [
        tmp_path / "a.jpg",
        tmp_path / "sub folder/b c.png",
        Path("/absolute/d.jpeg"),
    ]
    lines = [f"{tmp_path}/images.list:{number}" for number in (1, 4, 5)]
    paths = [f"{tmp_path}/a.jpg", f"{tmp_path}/sub folder/b c.png", "/absolute/d.jpeg"]
    assert [images.where(index) for index in range(3)] == [f"{a}: {b}" for a, b in zip(lines, paths, strict=True)]


def test_relative_list_is_named_as_given(tmp_path, monkeypatch):
    write(tmp_path, b"3 a.jpg\n")
    monkeypatch.chdir(tmp_path)
    images = read_image_list("images.list")
    assert images.where(0).startswith("images.list:1: ")
    assert images.path(0) == Path("a.jpg")


def test_path_that_is_not_utf8_finds_its_file(tmp_path):
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"pixels")
    images = read_image_list(write(tmp_path, b"0 " + name + b"\n"))
    assert images.path(0).read_bytes() == b"pixels"


@pytest.mark.parametrize(
    ("line", "num_classes", "words"),
    [
        (b"5", None, ["'5'", "no image path"]),
        (b"cat cat.jpg", None, ["'cat cat.jpg'", "not a whole number"]),
        (b"1.5 cat.jpg", None, ["'1.5 cat.jpg'", "not a whole number"]),
        (b"+1 cat.jpg", None, ["not a whole number"]),
        (b"-1 cat.jpg", None, ["'-1 cat.jpg'", "negative"]),
        (b"10 cat.jpg", 10, ["'10 cat.jpg'", "not below 10", "--num-classes"]),
        (b"65536 cat.jpg", None, ["'65536 cat.jpg'", "not below 65536", "--num-classes"]),
        (b"9" * 5000 + b" cat.jpg", None, ["--num-classes"]),
        (b"\xff\xfe1 cat.jpg", None, ["\\xff", "not a whole number"]),
    ],
)
def test_bad_line_is_named(tmp_path, line, num_classes, words):
    path = write(tmp_path, b"0 good.jpg\n\n" + line + b"\n0 good.jpg\n")
    with pytest.raises(UserError) as caught:
        read_image_list(path, num_classes)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert len(message) < 500
    for word in words:
        assert word in message


def test_greatest_class_id_is_allowed(tmp_path):
    assert read_image_list(write(tmp_path, b"9 a\n"), 10).labels.tolist() == [9]
    assert read_image_list(write(tmp_path, b"65535 a\n")).labels.tolist() == [65535]
    assert read_image_list(write(tmp_path, b"70000 a\n"), 70001).labels.tolist() == [70000]


@pytest.mark.parametrize("content", [b"", b"\n \n# nothing\n", b"\xef\xbb\xbf"])
def test_empty_list(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match="names no images") as caught:
        read_image_list(path)
    assert str(path) in str(caught.value)


def test_list_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no\.list doesn't exist"):
        read_image_list(tmp_path / "no.list")
    with pytest.raises(UserError, match="is a folder"):
        read_image_list(tmp_path)
    path = write(tmp_path, b"0 a\n")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"images\.list can't be read: Permission denied"):
        read_image_list(path)


def test_fingerprint_sees_labels_paths_and_order_only(tmp_path):
    def fingerprint(content: bytes) -> str:
        return read_image_list(write(tmp_path, content)).fingerprint()

    reference = fingerprint(b"0 a\n1 b\n")
    assert len(reference) == 8
    assert fingerprint(b"# comment\r\n0   a\r\n\n1 b") == reference
    different = [b"1 b\n0 a\n", b"1 a\n1 b\n", b"0 a\n1 c\n", b"0 a\n", b"0 a\n1 b\n1 b\n"]
    assert reference not in {fingerprint(content) for content in different}
    assert fingerprint(b"0 ab\n0 c\n") != fingerprint(b"0 a\n0 bc\n")


def test_subset_keeps_its_own_lines(tmp_path):
    images = read_image_list(write(tmp_path, b"0 a\n1 b\n2 c\n"))
    part = images.subset(np.array([2, 0]))
    assert [part.path(index).name for index in range(len(part))] == ["c", "a"]
    assert part.where(0) == f"{tmp_path}/images.list:3: {tmp_path}/c"
    assert part.labels.tolist() == [2, 0]


def test_a_million_lines_take_little_memory(tmp_path):
    lines = 100_000
    content = b"".join(b"%d train/n01440764/n01440764_%d.JPEG\n" % (index % 1000, index) for index in range(lines))
    images = read_image_list(write(tmp_path, content))
    held = sum(column.nbytes for column in (images.labels, images.lines, images.starts, images.ends))
    assert held == 24 * lines
    assert images.path(lines - 1).name == f"n01440764_{lines - 1}.JPEG"
