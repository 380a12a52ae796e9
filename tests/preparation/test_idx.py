"""alexnet-prepare idx: files written by the tests in the format, to PNG files and lists."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparations import fails, listed

from alexnet_dist.data.augment import central_crop, scaled
from alexnet_dist.data.class_names import class_names_beside
from alexnet_dist.preparation.idx import FILES
from alexnet_dist.preparation.known_names import FASHION_MNIST
from alexnet_dist.prepare import main

SHAPES = ((12, 5, 7), (12,), (4, 5, 7), (4,))
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    """The file of an array of bytes, written without the code under test."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, shape, np.uint8) if len(shape) == 3 else rng.permutation(shape[0]).astype(np.uint8) % 4
        for shape in SHAPES
    ]


@pytest.fixture
def source(tmp_path, arrays):
    folder = tmp_path / "idx"
    folder.mkdir()
    for number, (name, array) in enumerate(zip(FILES, arrays, strict=True)):
        if number % 2:
            (folder / name).write_bytes(idx(array))
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_labels_and_names_come_back(tmp_path, source, arrays, capsys):
    output = tmp_path / "out"
    assert main(["idx", str(source), "--output", str(output)]) == 0
    assert "images.list: 12 images, 3 of each of 4 classes" in capsys.readouterr().out
    for name, images, labels in (("images.list", *arrays[:2]), ("val.list", *arrays[2:])):
        entries = listed(output / name)
        assert [label for label, _ in entries] == labels.tolist()
        for pixels, (label, path) in zip(images, entries, strict=True):
            assert path.parent.name == str(label)
            assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert class_names_beside(output / "images.list") == ["0", "1", "2", "3"]


def test_four_paths_and_names(tmp_path, source):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    paths = [str(next(source.glob(f"{name}*"))) for name in FILES]
    assert main(["idx", *paths, "--output", str(tmp_path / "a"), "--class-names", str(names)]) == 0
    assert class_names_beside(tmp_path / "a" / "val.list") == ["a", "b", "c", "d"]
    assert main(["idx", str(source), "--output", str(tmp_path / "b"), "--names", "fashion-mnist"]) == 0
    assert class_names_beside(tmp_path / "b" / "val.list") == list(FASHION_MNIST)


def test_with_a_border_the_central_crop_holds_the_whole_image(tmp_path, source, arrays, capsys):
    output, big = tmp_path / "out", tmp_path / "big"
    assert "--border is -1, but must be at least 0" in fails(capsys, "idx", source, "--border", "-1")
    assert main(["idx", str(source), "--output", str(output), "--border", "2"]) == 0
    pixels = np.asarray(Image.open(listed(output / "images.list")[0][1]))
    assert pixels.shape == (9, 11)
    assert np.array_equal(pixels[2:-2, 2:-2], arrays[0][0])
    assert pixels.sum() == arrays[0][0].sum()
    # At MNIST's own size: what evaluation sees at 28 pixels is the image itself.
    digits = np.random.default_rng(1).integers(0, 256, (1, 28, 28), np.uint8)
    for name in FILES:
        (tmp_path / name).write_bytes(idx(digits if "images" in name else np.zeros(1, np.uint8)))
    assert main(["idx", str(tmp_path), "--output", str(big), "--border", "2"]) == 0
    seen = central_crop(scaled(listed(big / "val.list")[0][1], 28, "bilinear"), 28)
    assert np.array_equal(np.asarray(seen)[..., 0], digits[0])


def test_running_again_writes_what_is_missing_or_damaged_and_nothing_else(tmp_path, source):
    output = tmp_path / "out"
    command = ["idx", str(source), "--output", str(output)]
    assert main(command) == 0
    before = files(output)
    assert len(before) == 16 + 3
    first, second, third = sorted(path for path in before if path.suffix == ".png")[:3]
    first.unlink()
    second.write_bytes(before[second][:20])
    (output / "val.list").unlink()
    kept = third.stat()
    assert main(command) == 0
    assert files(output) == before
    assert (third.stat().st_ino, third.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_other_lists_are_kept_without_force(tmp_path, source, capsys):
    (tmp_path / "val.list").write_text("0 precious.png\n")
    assert "val.list" in fails(capsys, "idx", source, "--output", tmp_path)
    assert (tmp_path / "val.list").read_text() == "0 precious.png\n"
    assert not (tmp_path / "images").exists()
    assert main(["idx", str(source), "--output", str(tmp_path), "--force"]) == 0
    assert len(listed(tmp_path / "val.list")) == 4


def cut_gzip(content):
    return gzip.compress(content)[:-9]


def flip_gzip(content):
    packed = bytearray(gzip.compress(content))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], ("truncated", "419 of 420 bytes", "12 x 5 x 7")),
        (lambda content: content + b"\0", ("longer than its header says",)),
        (lambda content: content[:9], ("truncated", "header")),
        (lambda content: b"", ("not an IDX file", "(none)")),
        (lambda content: b"\x89PNG" + content, ("not an IDX file", "89 50 4e 47")),
        (lambda content: content[:2] + b"\x0d" + content[3:], ("magic number is 0x00000d03", "0x00000803")),
        (lambda content: idx(np.zeros(12, np.uint8)), ("magic number is 0x00000801", "height, width")),
        (lambda content: idx(np.zeros((11, 5, 7), np.uint8)), ("11 images", "12 labels", "belong together")),
        (lambda content: idx(np.zeros((12, 5, 6), np.uint8)), ("5 x 6", "5 x 7")),
        (lambda content: idx(np.zeros((12, 0, 7), np.uint8)), ("no pixels", "12 x 0 x 7")),
        (cut_gzip, ("truncated", "gzip")),
        (flip_gzip, ("damaged",)),
    ],
)
def test_damage_is_told_with_the_file(tmp_path, source, arrays, capsys, change, words):
    file = source / f"{FILES[0]}.gz"
    file.write_bytes(change(idx(arrays[0])))
    message = fails(capsys, "idx", source, "--output", tmp_path / "out")
    for word in (str(file), *words):
        assert word in message
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told(tmp_path, source, capsys):
    output = ("--output", tmp_path / "out")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    assert "class id 3, but only 2" in fails(capsys, "idx", source, *output, "--class-names", names)
    assert "2 paths were given" in fails(capsys, "idx", source, source, *output)
    assert "is not a folder" in fails(capsys, "idx", source / FILES[1], *output)
    assert "--names" in fails(capsys, "idx", source, *output, "--names", "imagenet")
    (source / FILES[3]).unlink()
    assert f"neither {FILES[3]} nor" in fails(capsys, "idx", source, *output)
    gone = [str(source / name) for name in FILES]
    assert f"can't read {gone[0]}: No such file" in fails(capsys, "idx", *gone, *output)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist isn't installed")
def test_fashion_mnist_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_dist.preparation.idx.write_png", lambda path, image: None)
    assert main(["idx", str(DEBIAN), "--names", "fashion-mnist", "--output", str(tmp_path)]) == 0
    for name, images in (("images.list", 60000), ("val.list", 10000)):
        assert np.bincount([label for label, _ in listed(tmp_path / name)]).tolist() == [images // 10] * 10
