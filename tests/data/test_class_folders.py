"""Folders of class folders: what is an image in them, and what isn't; what is a class, and what a set of classes."""

import os
from pathlib import Path

import pytest

from alexnet_dist.data.class_folders import folder_class_names, read_class_folder, split_folders
from alexnet_dist.data.image_list import read_image_list
from alexnet_dist.errors import UserError


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def found(folder):
    return [(int(label), folder.name(index).decode()) for index, label in enumerate(folder.labels)]


def test_classes_and_images_are_sorted(tmp_path):
    make(tmp_path, "dog/2.PNG", "dog/10.jpg", "cat/old photo.jpeg", "cat/deep/1.jpg", "Cat/1.jpg")
    folder = read_class_folder(tmp_path)
    assert folder_class_names(tmp_path) == ["Cat", "cat", "dog"]
    expected = [(0, "Cat/1.jpg"), (1, "cat/old photo.jpeg"), (1, "cat/deep/1.jpg"), (2, "dog/10.jpg"), (2, "dog/2.PNG")]
    assert found(folder) == expected
    assert folder.path(1) == tmp_path / "cat/old photo.jpeg"
    assert folder.where(4) == f"{tmp_path}/dog/2.PNG"
    assert folder.left_out == []
    (tmp_path / "dog" / "2.PNG").write_bytes(b"the bytes")
    with folder.open(4) as file:
        assert file.read() == b"the bytes"
    assert found(folder.subset(folder.labels.nonzero()[0][::2])) == expected[1::2]


def test_a_folder_without_images_is_no_class_and_said(tmp_path):
    make(tmp_path, "ant/deep/notes.txt", "bee/1.jpg", "cat/._1.jpg", "dog/deep/2.jpg")
    (tmp_path / "eel").mkdir()
    assert folder_class_names(tmp_path) == ["bee", "dog"]
    folder = read_class_folder(tmp_path)
    assert found(folder) == [(0, "bee/1.jpg"), (1, "dog/deep/2.jpg")]
    assert folder.left_out == ["left out: 3 folders that hold no image: ant, cat, eel"]
    validation = read_class_folder(tmp_path, classes=["a", "bee", "c", "dog"])  # an empty folder is none too many
    assert found(validation) == [(1, "bee/1.jpg"), (3, "dog/deep/2.jpg")]


def make_untidy(root: Path) -> Path:
    return make(
        root, *(f"{number}.jpg" for number in range(160)), "cat/1.jpg", "cat/._1.jpg", "cat/notes.txt", "cat/2.webp",
        "cat/deep/3", "cat/.cache/4.jpg", "dog/5.jpg", ".hidden/6.jpg", "classes.txt", ".7.jpg",
    )  # fmt: skip


def test_what_is_left_out_is_said(tmp_path):
    folder = read_class_folder(make_untidy(tmp_path))
    assert found(folder) == [(0, "cat/1.jpg"), (1, "dog/5.jpg")]
    assert folder.left_out == [
        "left out: 160 images beside the class folders, in none of them: 0.jpg, 1.jpg, 10.jpg, ...",
        "left out: 2 hidden files and folders: cat/.cache, cat/._1.jpg",
        "left out: 3 files not named as images (.jpg, .jpeg, .png): cat/2.webp, cat/notes.txt, cat/deep/3",
    ]


def test_links_to_folders(tmp_path):
    make(tmp_path / "elsewhere", "1.jpg")
    source = make(tmp_path / "source", "dog/1.jpg")
    (source / "cat").symlink_to(tmp_path / "elsewhere")  # a class may be one
    (source / "dog" / "more").symlink_to(tmp_path / "elsewhere")  # but what lies deeper might be a circle
    folder = read_class_folder(source)
    assert found(folder) == [(0, "cat/1.jpg"), (1, "dog/1.jpg")]
    assert folder.left_out == ["left out: 1 link to a folder, inside a class: dog/more"]


def test_the_fingerprint_is_that_of_a_list_with_the_same_lines(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg")
    folder = read_class_folder(tmp_path)
    listing = tmp_path / "images.list"
    listing.write_text("0 a/1.jpg\n1 b/2.jpg\n1 b/3.jpg\n")
    assert folder.fingerprint() == read_image_list(listing).fingerprint()
    os.rename(tmp_path / "b" / "3.jpg", tmp_path / "b" / "4.jpg")
    assert folder.fingerprint() != read_class_folder(tmp_path).fingerprint()


def test_validation_images_have_the_classes_of_the_training_images(tmp_path):
    make(tmp_path, "b/1.jpg", "d/2.jpg")
    assert found(read_class_folder(tmp_path, classes=["a", "b", "c", "d"])) == [(1, "b/1.jpg"), (3, "d/2.jpg")]
    with pytest.raises(UserError, match="'d', which is none of the 3 classes"):
        read_class_folder(tmp_path, classes=["a", "b", "c"])
    with pytest.raises(UserError, match="2 classes, more than 1"):
        read_class_folder(tmp_path, 1)
    assert len(read_class_folder(tmp_path, 1000)) == 2


@pytest.mark.parametrize(
    ("paths", "sets"),
    [
        (["train/a/1.jpg", "val/a/1.jpg"], ("train", "val")),
        (["Train/a/1.jpg", "Valid/a/1.jpg", "test/a/1.jpg"], ("Train", "Valid")),
        (["train/a/1.jpg", "val/a/1.jpg", "annotations/1.xml"], ("train", "val")),
        (["train/000000.tar", "validation/000000.tar"], ("train", "validation")),
        (["train/a/1.jpg", "test/a/1.jpg"], None),
        (["train/1.jpg", "val/1.jpg"], None),  # classes of these names
        (["a/1.jpg"], None),
        (["train.tar", "train/a/1.jpg", "val/a/1.jpg"], None),  # shards
    ],
)
def test_training_and_validation_images_in_one_folder(tmp_path, paths, sets):
    make(tmp_path, *paths)
    assert split_folders(tmp_path) == (sets and tuple(tmp_path / name for name in sets))


@pytest.mark.parametrize(
    ("paths", "word"),
    [
        (["train/a/1.jpg", "val/a/1.jpg"], "train --val-dir ROOT/val"),
        (["test/a/1.jpg", "train/a/1.jpg"], "train --val-dir ROOT/test"),
        (["test/a/1.jpg", "training/a/1.jpg", "other/1.jpg"], "training --val-dir ROOT/test"),
        (["train/a/1.jpg"], "train$"),
        (["train/a/1.jpg", "train/b/2.jpg", "val set/a/3.jpg"], "train --val-dir 'ROOT/val set'"),
        (["train/a/1.jpg", "hold-out/a/1.jpg", "notes/read.me"], "train --val-dir ROOT/hold-out"),
        (["photos/a/1.jpg", "photos/b/1.jpg"], "photos$"),
    ],
)
def test_the_wrong_level_is_refused(tmp_path, paths, word):
    make(tmp_path, *paths)
    pattern = f"alexnet-prepare folder {tmp_path}/{word.replace('ROOT', str(tmp_path))}".replace("--", r".*--")
    with pytest.raises(UserError, match=pattern):
        read_class_folder(tmp_path)


def test_classes_may_be_called_train_and_test(tmp_path):
    make(tmp_path, "train/1.jpg", "train/deep/2.jpg", "test/3.jpg", "bus/4.jpg")
    assert folder_class_names(tmp_path) == ["bus", "test", "train"]
    assert len(read_class_folder(tmp_path)) == 4


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/images/1.jpg", "dog/images/2.jpg"],
        ["cat/images/1.jpg", "cat/more/1.jpg", "dog/images/2.jpg", "dog/more/2.jpg", "eel/3.jpg"],
        ["bus/red/1.jpg", "train/steam/1.jpg", "train/electric/1.jpg"],
        ["cat/day/1.jpg", "cat/night/1.jpg", "dog/day/1.jpg", "dog/night/1.jpg"],
    ],
)
def test_images_may_lie_deeper_in_the_folder_of_a_class(tmp_path, paths):
    make(tmp_path, *paths)
    assert folder_class_names(tmp_path) == sorted({path.split("/")[0] for path in paths})
    assert len(read_class_folder(tmp_path)) == len(paths)
