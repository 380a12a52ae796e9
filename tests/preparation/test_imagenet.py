"""alexnet-prepare imagenet on one rank: from archives and trees in the true layouts, to lists and images."""

import io
import tarfile

import numpy as np
import pytest
from ilsvrc import CLASSES, WNIDS, Ilsvrc, meta_mat, synsets, tar
from PIL import Image
from preparations import listed

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.class_names import class_names_beside
from alexnet_dist.errors import SharedError
from alexnet_dist.preparation.imagenet import class_names, prepare_imagenet, shrunk
from alexnet_dist.preparation.imagenet_archives import DEVKIT, TRAIN, VAL


@pytest.fixture(scope="module")
def ilsvrc():
    return Ilsvrc()


@pytest.fixture
def archives(tmp_path, ilsvrc):
    return ilsvrc.write_archives(tmp_path / "archives")


def prepare(source, output, size=None, force=False):
    prepare_imagenet(source, output, Ranks(), size, force)


def refused(source, output, *words, size=None):
    with pytest.raises(SharedError) as caught:
        prepare(source, output, size)
    for word in words:
        assert word in str(caught.value)


def by_name(entries):
    return {path.name: (label, path) for label, path in entries}


def expected_labels(ilsvrc):
    order = sorted(WNIDS)
    train = {name: order.index(wnid) for wnid, images in ilsvrc.train.items() for name in images}
    return train, {name: order.index(wnid) for name, wnid in ilsvrc.val_wnids.items()}


@pytest.mark.parametrize("layout", ["archives", "torchvision", "kaggle"])
@pytest.mark.parametrize("size", [None, 48])
def test_every_layout_gives_the_same_images_and_classes(tmp_path, ilsvrc, layout, size, capsys):
    source = getattr(ilsvrc, f"write_{layout}")(tmp_path / "source")
    output = tmp_path / "out"
    prepare(source, output, size)
    assert class_names_beside(output / "images.list") == list(CLASSES)
    originals = {name: image for images in (*ilsvrc.train.values(), ilsvrc.val) for name, image in images.items()}
    for name, labels in zip(("images.list", "val.list"), expected_labels(ilsvrc), strict=True):
        found = by_name(listed(output / name))
        assert {file: label for file, (label, _) in found.items()} == labels
        for file, (label, path) in found.items():
            if size is None:
                assert path.read_bytes() == originals[file]
            else:
                assert path.read_bytes() == shrunk(originals[file], size)
            if size or layout == "archives":
                assert path.relative_to(output.resolve()).parts[-2] == sorted(WNIDS)[label]
            else:
                assert path.is_relative_to(source.resolve())
    report = capsys.readouterr().out
    assert "images.list: 12 images, 3 to 5 of each of 3 classes" in report
    assert "attention" not in report


def test_the_classes_are_torchvisions():
    names = class_names()
    assert list(names) == sorted(names)
    assert len(names) == len(set(names.values())) == 1000
    assert names["n01440764"] == "tench"
    meta = pytest.importorskip("torchvision.models._meta")
    assert list(names.values()) == meta._IMAGENET_CATEGORIES


@pytest.mark.parametrize(("width", "height"), [(60, 90), (91, 50), (47, 200), (400, 333), (1000, 700)])
def test_shrinking_is_torchvisions_resize(width, height):
    transforms = pytest.importorskip("torchvision.transforms")
    waves = 128 + 60 * np.add.outer(np.sin(np.linspace(0, 20, height)), np.sin(np.linspace(0, 20, width)))
    picture = Image.fromarray(np.stack([waves, waves[::-1], 255 - waves], -1).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    small = Image.open(io.BytesIO(shrunk(file.getvalue(), 48)))
    resized = transforms.Resize(48)(Image.open(io.BytesIO(file.getvalue()))) if min(width, height) > 48 else picture
    assert small.size == resized.size
    difference = np.asarray(small.convert("L"), np.float64) - np.asarray(resized.convert("L"), np.float64)
    assert np.abs(difference).mean() < 1.5  # what JPEG loses


def test_what_is_whole_is_not_written_again(tmp_path, archives):
    output = tmp_path / "out"
    prepare(archives, output, 48)
    files = {path: (path.read_bytes(), path.stat().st_ino) for path in output.rglob("*.JPEG")}
    first, second = sorted(files)[:2]
    first.unlink()
    second.write_bytes(b"")  # as a power failure leaves it
    (output / "val.list").unlink()
    prepare(archives, output, 48)
    for path, (content, inode) in files.items():
        assert path.read_bytes() == content
        assert path in (first, second) or path.stat().st_ino == inode
    assert (output / "val.list").exists()


def test_other_settings_and_other_lists_are_refused(tmp_path, archives):
    output = tmp_path / "out"
    prepare(archives, output, 48)
    refused(archives, output, "other settings", "48", size=47)
    refused(archives, output, "other settings")
    other = tmp_path / "other"
    other.mkdir()
    (other / "val.list").write_text("0 precious.jpg\n")
    refused(archives, other, "val.list", "--force")
    assert [path.name for path in other.iterdir()] == ["val.list"]
    prepare(archives, other, force=True)
    assert len(listed(other / "val.list")) == 6
    refused(archives, tmp_path / "new", "--size", size=0)


@pytest.mark.parametrize("whole", [True, False])
def test_another_source_is_refused_unless_forced(tmp_path, ilsvrc, archives, monkeypatch, whole):
    output = tmp_path / "out"
    prepare(archives, output, 48)
    if not whole:
        (output / "images.list").unlink()  # as if it had been interrupted
    lists = (output / "val.list").read_bytes()
    other = ilsvrc.write_torchvision(tmp_path / "tree")
    refused(other, output, f"prepared from {archives}, not from {other}", "--force", size=48)
    assert (output / "val.list").read_bytes() == lists
    monkeypatch.chdir(tmp_path)
    prepare(archives.relative_to(tmp_path), output, 48)  # the same one
    prepare(other, output, 48, force=True)
    prepare(other, output, 48)
    refused(archives, output, "prepared from", size=48)


def test_a_mark_that_is_damaged(tmp_path, archives):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "imagenet.json").write_text("[1")
    refused(archives, tmp_path / "out", "imagenet.json", "can't be read")


def test_an_unreadable_image_is_named_and_left_out(tmp_path, ilsvrc, capsys):
    source = ilsvrc.write_torchvision(tmp_path / "tree")
    broken, gone = (source / "train" / WNIDS[0] / f"{WNIDS[0]}_{number}.JPEG" for number in (0, 7))
    broken.write_bytes(broken.read_bytes()[:600])
    gone.unlink()
    gone.symlink_to("nowhere")
    prepare(source, tmp_path / "out", 48)
    report = capsys.readouterr().out
    assert f"attention: {broken} is truncated: left out" in report
    assert f"attention: {gone} can't be read: No such file or directory: left out" in report
    assert {broken.name, gone.name}.isdisjoint(by_name(listed(tmp_path / "out" / "images.list")))


def test_counts_that_are_not_the_devkits(tmp_path, ilsvrc, archives, capsys):
    wrong = synsets()
    wrong[0]["num_train_images"] = 6.0
    ilsvrc.write_devkit(archives, meta_mat(wrong))
    prepare(archives, tmp_path / "out")
    assert f"attention: {WNIDS[0]}.tar holds 5 images; 6 were expected" in capsys.readouterr().out


def test_archives_that_are_cut_off(tmp_path, ilsvrc, archives):
    """Wherever a download ended: never fewer images without a word."""
    for name in (TRAIN, VAL):
        whole = (archives / name).read_bytes()
        used = len(whole.rstrip(b"\0"))
        for length in (*range(100, used, used // 23), used // 512 * 512):
            (archives / name).write_bytes(whole[:length])
            refused(archives, tmp_path / "out", str(archives / name))
        (archives / name).write_bytes(whole)
    prepare(archives, tmp_path / "out")


def test_an_inner_archive_that_is_damaged(tmp_path, ilsvrc, archives):
    inner = {f"{wnid}.tar": tar(images) for wnid, images in ilsvrc.train.items()}
    damaged = bytearray(inner[f"{WNIDS[1]}.tar"])
    with tarfile.open(fileobj=io.BytesIO(damaged)) as archive:
        second = archive.getmembers()[1].offset
    damaged[second : second + 100] = bytes(100)  # Python's tarfile takes that for the end
    inner[f"{WNIDS[1]}.tar"] = bytes(damaged)
    (archives / TRAIN).write_bytes(tar(inner))
    refused(archives, tmp_path / "out", f"{TRAIN}: {WNIDS[1]}.tar", f"byte {second}")


def test_archives_that_are_missing_or_do_not_belong_together(tmp_path, ilsvrc, archives):
    output = tmp_path / "out"
    (archives / TRAIN).write_bytes(tar({f"{wnid}.tar": tar(ilsvrc.train[wnid]) for wnid in WNIDS[:2]}))
    refused(archives, output, "holds 2 classes, the devkit names 3", WNIDS[2])
    (archives / TRAIN).write_bytes(tar({f"{wnid}.tar": tar(images) for wnid, images in ilsvrc.train.items()}))
    (archives / VAL).write_bytes(tar(dict(list(ilsvrc.val.items())[1:])))
    refused(archives, output, "holds 5 images, the devkit has the classes of 6", "ILSVRC2012_val_00000001.JPEG")
    (archives / VAL).write_bytes(tar({"test_00000001.JPEG": b""}))
    refused(archives, output, VAL, "test_00000001.JPEG")
    ilsvrc.write_devkit(archives, b"no MATLAB file")
    refused(archives, output, DEVKIT, "meta.mat is no MATLAB file")
    ilsvrc.write_devkit(archives, meta_mat(synsets()[1:]))
    refused(archives, output, DEVKIT, "ground_truth.txt:1: '1' is no class")
    (archives / DEVKIT).write_bytes(b"\x1f\x8bno gzip")
    refused(archives, output, DEVKIT, "damaged")
    (archives / DEVKIT).unlink()
    refused(archives, output, f"has no {DEVKIT}")
    assert not output.exists()


def test_trees_that_are_not_whole(tmp_path, ilsvrc):
    output = tmp_path / "out"
    refused(tmp_path, output, "known layout", "ILSVRC2012_img_train.tar", "CLS-LOC")
    tree = ilsvrc.write_torchvision(tmp_path / "tree")
    (tree / "train" / "n99999999").mkdir()
    refused(tree, output, "n99999999", "in one of train/ and val/ only")
    (tree / "train" / "cats").mkdir()
    refused(tree, output, "'cats'", "no class of ImageNet")
    kaggle = ilsvrc.write_kaggle(tmp_path / "kaggle")
    images = kaggle / "ILSVRC/Data/CLS-LOC"
    (images / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    refused(kaggle, output, "5 images", "ILSVRC2012_val_00000003")
    solution = kaggle / "LOC_val_solution.csv"
    solution.write_text(solution.read_text().replace(WNIDS[2], "n00000000"))
    refused(kaggle, output, f"{solution}:", "n00000000")
    (kaggle / "LOC_synset_mapping.txt").write_text(f"{WNIDS[0]} goldfish\n")
    refused(kaggle, output, "in one of", "LOC_synset_mapping.txt")
    (kaggle / "LOC_synset_mapping.txt").unlink()
    refused(kaggle, output, "can't read", "LOC_synset_mapping.txt")
