"""Packed shards as a source of images: what is read, in which words damage is told, and files kept open."""

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.data import shards as module
from alexnet_dist.data.augment import load_for_evaluation
from alexnet_dist.data.decode import ImageError, decode
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.shards import INDEX, Shards, read_shards
from alexnet_dist.data.source import ImageSource, hold_out
from alexnet_dist.data.sources import SourcePaths, open_images, read_sources
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.pack import pack

COUNT = 30


@pytest.fixture
def listed(tmp_path):
    """A list of images of three classes, JPEG and PNG, and of noise, so that each takes some kilobytes."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(COUNT):
        path = tmp_path / f"pictures/image {number}.{'png' if number % 3 else 'JPEG'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50 + number, 3), np.uint8)).save(path)
        lines.append(f"{number % 4} pictures/{path.name}\n")
    (tmp_path / "images.list").write_text("# a comment\n" + "".join(lines))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    return tmp_path / "images.list"


@pytest.fixture
def packed(listed, tmp_path, monkeypatch):
    """The same images in several shards."""
    folder = tmp_path / "shards"
    in_shards(listed, folder, monkeypatch)
    assert len(list(folder.glob("*.tar"))) > 3
    return folder


def in_shards(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kilobytes: int = 30) -> None:
    """Packs into shards that are smaller than --shard-size allows."""
    monkeypatch.setattr("alexnet_dist.preparation.pack.MEGABYTE", 1000)
    pack(source, folder, kilobytes)


def test_images_labels_and_order_are_those_of_the_list(listed, packed):
    expected, images = read_image_list(listed), open_images(packed, 4)
    assert isinstance(images, Shards)
    source: ImageSource = images
    assert len(source) == COUNT
    assert source.labels.tolist() == expected.labels.tolist()
    for index in np.random.default_rng(1).permutation(COUNT).tolist():
        with source.open(index) as file, expected.open(index) as original:
            assert file.read() == original.read()
    assert source.where(3) == f"{packed}/000000.tar: 000000003.jpg (pictures/image 3.JPEG)"


def test_a_held_out_share_is_that_of_the_list(listed, packed):
    for of_list, of_shards in zip(
        hold_out(read_image_list(listed), 0.3, seed=5), hold_out(read_shards(packed), 0.3, seed=5), strict=True
    ):
        assert of_list.labels.tolist() == of_shards.labels.tolist()
        for index in range(len(of_list)):
            assert of_shards.name(index).endswith(b"\n" + of_list.name(index))
            with of_list.open(index) as file, of_shards.open(index) as other:
                assert file.read() == other.read()


def test_sources_take_a_folder_of_shards_with_its_class_names(packed):
    sources = read_sources(SourcePaths(packed, val=packed), seed=0)
    assert (len(sources.train), len(sources.val), sources.num_classes) == (COUNT, COUNT, 4)
    assert sources.class_names == ["a", "b", "c", "d"]


def test_the_fingerprint_sees_labels_sizes_and_order_but_not_the_division(listed, packed, tmp_path, monkeypatch):
    reference = read_shards(packed).fingerprint()
    in_shards(listed, tmp_path / "one shard", monkeypatch, kilobytes=10_000)
    assert len(list((tmp_path / "one shard").glob("*.tar"))) == 1
    assert read_shards(tmp_path / "one shard").fingerprint() == reference
    assert read_shards(packed).subset(np.arange(COUNT)[::-1]).fingerprint() != reference
    lines = listed.read_text().splitlines()
    swapped = [lines[0], lines[2], lines[1], *lines[3:]]
    relabelled = [*lines[:5], "3" + lines[5][1:], *lines[6:]]
    assert relabelled != lines
    seen = {reference, read_image_list(listed).fingerprint()}
    for number, changed in enumerate((swapped, relabelled)):
        listed.write_text("\n".join(changed))
        in_shards(listed, tmp_path / str(number), monkeypatch)
        seen.add(read_shards(tmp_path / str(number)).fingerprint())
    listed.write_text("\n".join(lines))
    with open(listed.parent / "pictures/image 7.png", "ab") as file:
        file.write(b"more")
    in_shards(listed, tmp_path / "grown", monkeypatch)
    assert len(seen | {read_shards(tmp_path / "grown").fingerprint()}) == 5


def test_few_files_are_open_and_threads_share_them(packed, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SHARDS", 2)
    before = len(os.listdir("/proc/self/fd"))

    def read_all() -> None:
        images = read_shards(packed)
        expected = [images.open(index).read() for index in range(COUNT)]
        order = np.random.default_rng(2).integers(0, COUNT, 500).tolist()
        with ThreadPoolExecutor(8) as threads:
            for index, file in zip(order, threads.map(images.open, order), strict=True):
                assert file.read() == expected[index]
        assert len(os.listdir("/proc/self/fd")) == before + 2

    read_all()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_is_missing_or_of_another_length_is_refused(packed):
    shard = packed / "000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"000001\.tar has {len(content) - 1} bytes, but {len(content)} when"):
        read_shards(packed)
    shard.unlink()
    with pytest.raises(UserError, match=r"000001\.tar can't be read \(No such file"):
        read_shards(packed)


def test_damage_after_the_start_is_the_images_error(packed):
    images = read_shards(packed)
    index = int(np.flatnonzero(images.shards == 1)[1])
    shard, out = packed / "000001.tar", np.zeros((32, 32, 3), np.float32)
    content = bytearray(shard.read_bytes())
    offset = int(images.offsets[index])
    content[offset : offset + 8] = bytes(8)
    shard.write_bytes(content)
    with pytest.raises(ImageError, match="is not a JPEG or PNG image"):
        load_for_evaluation(lambda: images.open(index), 32, out)
    os.truncate(shard, offset + 100)
    with pytest.raises(ImageError, match="is truncated: the shard has 100 of its"):
        decode(lambda: images.open(index))


def test_a_class_id_that_is_too_large_names_its_image(packed):
    with pytest.raises(
        UserError, match=r"000000003\.jpg .* is of class 3, which is not below the number of classes, 3"
    ):
        read_shards(packed, 3)


def test_shards_without_an_index_say_how_to_get_one(packed):
    (packed / INDEX).unlink()
    with pytest.raises(UserError, match=f"alexnet-prepare index {packed}"):
        open_images(packed)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_index_is_refused(packed, part):
    index = packed / INDEX
    content = bytearray(index.read_bytes())
    index.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match=r"index\.npz"):
        read_shards(packed)
    content[int(len(content) * 0.4)] ^= 1
    index.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.npz"):
        read_shards(packed)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda array: array + 10**9),
        ("sizes", lambda array: -array),
        ("shards", lambda array: array + 100),
        ("labels", lambda array: -array - 1),
        ("labels", lambda array: array[1:]),
        ("ends", lambda array: array[::-1]),
        ("ends", lambda array: array.astype(np.float64)),
        ("version", lambda array: array + 1),
        ("shard_sizes", lambda array: array[1:]),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(packed, name, change):
    with np.load(packed / INDEX) as file:
        columns = dict(file)
    columns[name] = change(columns[name])
    np.savez(packed / INDEX, **columns)
    with pytest.raises(UserError, match=rf"{INDEX} (contradicts itself|is an index of another kind or version)"):
        read_shards(packed)


def test_an_index_with_pickles_is_not_unpickled(packed):
    with np.load(packed / INDEX) as file:
        columns = dict(file)
    columns["labels"] = np.array([{}] * COUNT, object)
    np.savez(packed / INDEX, **columns)
    with pytest.raises(UserError, match="no whole index"):
        read_shards(packed)


def test_a_shard_is_read_by_any_program_for_tar_files(packed):
    import tarfile

    names = []
    for shard in sorted(packed.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += [member.name for member in tar]
            first = tar.extractfile(tar.getmembers()[0])
            assert Image.open(BytesIO(first.read())).size[1] == 40
    suffixes = ["png" if number % 3 else "jpg" for number in range(COUNT)]
    assert names == [f"{number:09}.{suffix}" for number in range(COUNT) for suffix in (suffixes[number], "cls")]
