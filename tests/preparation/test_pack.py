"""alexnet-prepare pack, unpack and index from their command lines, against WebDataset's library and shards of others."""

import shlex
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.data.shards import read_shards
from alexnet_dist.data.sources import SourcePaths, read_sources
from alexnet_dist.prepare import main

COUNT = 12


@pytest.fixture
def listed(tmp_path):
    """A list of images, one of them named by an absolute path, and its class names."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(COUNT):
        path = (
            tmp_path
            / "pictures"
            / ("deep.er" if number % 2 else "")
            / f"image.no {number}.{('jpg', 'PNG')[number % 2]}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8)).save(path)
        lines.append(f"{number % 3} {path if number == 5 else path.relative_to(tmp_path)}\n")
    (tmp_path / "images.list").write_text("".join(lines))
    (tmp_path / "classes.txt").write_text("A\nB\nC\n")
    return tmp_path / "images.list"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("alexnet-prepare: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def png(number: int) -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
    return content.getvalue()


def test_pack_and_back(listed, tmp_path, capsys):
    assert run("pack", listed, "--output", tmp_path / "shards") == 0
    assert "12 of 12 images" in capsys.readouterr().out
    assert run("unpack", tmp_path / "shards", "--output", tmp_path / "back") == 0
    assert (tmp_path / "back" / "classes.txt").read_bytes() == (tmp_path / "classes.txt").read_bytes()
    before, after = read_image_list(listed), read_image_list(tmp_path / "back" / "images.list")
    assert after.labels.tolist() == before.labels.tolist()
    assert [after.path(number).read_bytes() for number in range(COUNT)] == [
        before.path(number).read_bytes() for number in range(COUNT)
    ]
    # Relative paths come back, so that only the absolute one differs.
    differing = [number for number in range(COUNT) if before.name(number) != after.name(number)]
    assert differing == [5]
    assert after.name(5) == b"000000005.png"


def test_a_folder_that_holds_lists_stands_for_them(tmp_path, capsys):
    """Those that val.list names are not packed with the others."""
    for number in range(20):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    assert run("folder", tmp_path / "pets", "--output", tmp_path / "pets") == 0
    assert run("pack", tmp_path / "pets", "--output", tmp_path / "shards") == 0
    told = capsys.readouterr().out
    assert f"which is read: {tmp_path}/pets/images.list" in told
    assert "18 of 18 images" in told


def test_packing_twice_gives_the_same_bytes(listed, tmp_path):
    for name in ("one", "two"):
        assert run("pack", listed, "--output", tmp_path / name) == 0
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert set(hashes(tmp_path / "one")) == {"000000.tar", "index.npz", "classes.txt"}
    with tarfile.open(tmp_path / "one" / "000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar} == {
            (0, 0, 0, "", 0o644)
        }


def test_shards_can_be_packed_again(listed, tmp_path):
    assert run("pack", listed, "--output", tmp_path / "one") == 0
    assert run("pack", tmp_path / "one", "--output", tmp_path / "two") == 0
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_existing_shards_are_kept_without_force(listed, tmp_path, capsys):
    assert run("pack", listed, "--output", tmp_path / "shards") == 0
    shard(tmp_path / "shards" / "000007.tar", ("x.txt", b"of an earlier pack"))
    before = hashes(tmp_path / "shards")
    assert "--force" in fails(capsys, "pack", listed, "--output", tmp_path / "shards")
    assert hashes(tmp_path / "shards") == before
    assert run("pack", listed, "--output", tmp_path / "shards", "--force") == 0
    assert set(hashes(tmp_path / "shards")) == {"000000.tar", "index.npz", "classes.txt"}
    assert run("unpack", tmp_path / "shards", "--output", tmp_path / "back") == 0
    assert "--force" in fails(capsys, "unpack", tmp_path / "shards", "--output", tmp_path / "back")
    assert run("unpack", tmp_path / "shards", "--output", tmp_path / "back", "--force") == 0


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"", "is empty"), (b"GIF89a..", "is not a JPEG or PNG image")]
)
def test_an_image_that_cannot_be_packed_is_named_and_leaves_no_index(listed, tmp_path, capsys, content, words):
    bad = tmp_path / "pictures" / "image.no 4.jpg"
    bad.unlink()
    if content is not None:
        bad.write_bytes(content)
    message = fails(capsys, "pack", listed, "--output", tmp_path / "shards")
    assert f"images.list:5: {bad} {words}" in message
    assert hashes(tmp_path / "shards") == {}


def test_mistakes_are_told(listed, tmp_path, capsys):
    assert "--shard-size is 0" in fails(capsys, "pack", listed, "--shard-size", 0, "--output", tmp_path / "x")
    assert "doesn't exist" in fails(capsys, "pack", tmp_path / "none.list", "--output", tmp_path / "x")
    assert "--output" in fails(capsys, "pack", listed)
    assert "No such file" in fails(capsys, "unpack", tmp_path / "none", "--output", tmp_path / "x")
    assert "holds no shards" in fails(capsys, "unpack", tmp_path / "pictures", "--output", tmp_path / "x")
    (tmp_path / "classes.txt").write_text("A\nB\n")
    assert "class id 2" in fails(capsys, "pack", listed, "--output", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_librarys_reader_reads_our_shards(listed, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    assert run("pack", listed, "--output", tmp_path / "shards") == 0
    samples = list(webdataset.WebDataset(str(tmp_path / "shards" / "000000.tar"), shardshuffle=False))
    images = read_image_list(listed)
    assert [sample["__key__"] for sample in samples] == [f"{number:09}" for number in range(COUNT)]
    for number, sample in enumerate(samples):
        assert int(sample["cls"]) == images.labels[number]
        assert sample[("jpg", "png")[number % 2]] == images.path(number).read_bytes()


def test_the_librarys_own_shards_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "part-0.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"class {number % 2}/{number}", "png": png(number), "cls": number % 2})
    assert run("index", tmp_path) == 0
    images = read_shards(tmp_path)
    assert images.labels.tolist() == [0, 1, 0, 1, 0]
    assert [images.open(number).read() for number in range(5)] == [png(number) for number in range(5)]


def test_shards_of_others(tmp_path, capsys):
    folder = tmp_path / "others"
    shard(folder / "a.tar", ("x/7.cls", b"1\n"), ("x/7.png", png(7)), ("x/8.PNG", png(8)), ("x/8.cls", b"0"))
    more = (("7.json", b"{}"), ("7.seg.png", b"a mask"), ("7.png", png(9)), ("7.cls", b"12"), ("notes.txt", b""))
    shard(folder / "b.tar", *more)
    assert run("index", folder) == 0
    assert "index.npz: 3 images in 2 shards" in capsys.readouterr().out
    images = read_shards(folder)
    assert images.labels.tolist() == [1, 0, 12]
    assert [images.open(number).read() for number in range(3)] == [png(7), png(8), png(9)]
    assert images.where(2) == f"{folder}/b.tar: 7.png"
    assert [images.title(number) for number in range(3)] == [b"a.tar/x/7.png", b"a.tar/x/8.PNG", b"b.tar/7.png"]
    assert run("unpack", folder, "--output", tmp_path / "back") == 0
    assert (tmp_path / "back" / "images.list").read_text() == "1 a/x/7.png\n0 a/x/8.PNG\n12 b/7.png\n"
    assert (tmp_path / "back" / "b" / "7.png").read_bytes() == png(9)


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    names = ("../up.png", "/tmp/absolute.png", "a/../../up.png", " blank.png")
    members = [(name, png(number)) for number, name in enumerate(names)]
    classes = [(name.replace(".png", ".cls"), b"0") for name in names]
    pairs = [pair for both in zip(members, classes, strict=True) for pair in both]
    shard(tmp_path / "others" / "a.tar", *pairs)
    assert run("index", tmp_path / "others") == 0
    assert run("unpack", tmp_path / "others", "--output", tmp_path / "deep" / "back") == 0
    inside = set(hashes(tmp_path / "deep" / "back"))
    assert {"images.list", "000000000.png", "000000002.png"} < inside
    assert len(inside) == 5
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"back"}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b"x")], "a.tar: a.png has no class id (KEY.cls)"),
        ([("a.png", b"x"), ("b.cls", b"1")], "a.png has no class id"),
        ([("a.png", b"x"), ("a.cls", b"cat")], "a.png has the class id 'cat'"),
        ([("a.txt", b"x")], "hold no image"),
        (None, "holds no tar files"),
    ],
)
def test_shards_that_are_not_classified_images(tmp_path, capsys, members, words):
    if members is not None:
        shard(tmp_path / "a.tar", *members)
    assert words in fails(capsys, "index", tmp_path)
    assert not (tmp_path / "index.npz").exists()


def test_a_file_that_is_no_tar_file(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(b"nothing like it" * 100)
    assert "a.tar is no whole tar file" in fails(capsys, "index", tmp_path)


def test_a_folder_of_training_and_validation_images_is_packed_in_two_commands(tmp_path, capsys):
    photos = tmp_path / "my photos"
    for name in ("train/a", "train/b", "val/b"):
        (photos / name).mkdir(parents=True)
        (photos / name / "1.png").write_bytes(png(1))
    message = fails(capsys, "pack", photos, "--output", tmp_path / "packed")
    commands = message.strip().partition("pack each: ")[2].split("; and ")
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert [len(read_shards(tmp_path / "packed" / name)) for name in ("train", "val")] == [2, 1]
    assert read_sources(SourcePaths(tmp_path / "packed"), seed=0).val.labels.tolist() == [1]
