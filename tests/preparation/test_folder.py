"""alexnet-prepare folder: the lists it writes, read back, and what it refuses."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparations import fails, listed

from alexnet_dist.data.class_names import class_names_beside
from alexnet_dist.data.decode import decode
from alexnet_dist.prepare import main


def make_folder(root: Path, counts: dict[str, int], color: int = 0) -> Path:
    for name, count in counts.items():
        for index in range(count):
            path = root / name / ("deep" if index % 3 == 2 else "") / f"{index}.{('jpg', 'PNG', 'JPEG')[index % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (color, index, 0)).save(path)
    return root


def test_folder_is_split_class_by_class(tmp_path, capsys):
    source = make_folder(tmp_path / "photos", {"dog": 30, "cat": 10, "eel": 1})
    (source / "cat" / "notes.txt").write_text("no image")
    (source / "cat" / "._0.jpg").write_text("what macOS puts there")
    (source / ".hidden").mkdir()
    (source / "stray.jpg").write_text("in no class")
    output = tmp_path / "lists"
    assert main(["folder", str(source), "--output", str(output), "--val-fraction", "0.2"]) == 0
    assert class_names_beside(output / "images.list") == ["cat", "dog", "eel"]
    train, validation = listed(output / "images.list"), listed(output / "val.list")
    assert np.bincount([label for label, _ in train]).tolist() == [8, 24, 1]
    assert np.bincount([label for label, _ in validation]).tolist() == [2, 6]
    assert len({path for _, path in train + validation}) == 41
    for label, path in train + validation:
        assert path.relative_to(source.resolve()).parts[0] == ["cat", "dog", "eel"][label]
        decode(path)
    report = capsys.readouterr().out
    assert "images.list: 33 images, 1 to 24 of each of 3 classes" in report
    assert "val.list: 8 images, 0 to 6 of each of 3 classes\n  none of eel\n" in report
    assert f"{source}: left out: 1 image beside the class folders, in none of them: stray.jpg\n" in report
    assert f"{source}: left out: 1 hidden file or folder: cat/._0.jpg\n" in report
    assert f"{source}: left out: 1 file not named as an image (.jpg, .jpeg, .png): cat/notes.txt\n" in report


def test_paths_are_relative_inside_the_output_folder_and_absolute_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", {"a": 2})
    assert main(["folder", "photos"]) == 0
    assert (tmp_path / "images.list").read_text().startswith("0 photos/a/")
    (tmp_path / "lists").mkdir()
    assert main(["folder", "photos", "--output", "lists"]) == 0
    assert (tmp_path / "lists" / "images.list").read_text().startswith(f"0 {tmp_path}/photos/a/")
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    try:
        assert all(path.exists() for _, path in listed(moved / "images.list"))
    finally:
        moved.rename(tmp_path)


def test_split_follows_the_seed(tmp_path):
    source = make_folder(tmp_path / "photos", {"a": 40, "b": 40})
    contents = []
    for name, seed in [("x", 1), ("y", 1), ("z", 2)]:
        assert main(["folder", str(source), "--output", str(tmp_path / name), "--seed", str(seed)]) == 0
        contents.append((tmp_path / name / "val.list").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_validation_folder_with_the_same_class_names(tmp_path, capsys):
    train = make_folder(tmp_path / "train", {"a": 3, "b": 3, "c": 3})
    val = make_folder(tmp_path / "val", {"c": 2, "a": 1})
    assert main(["folder", str(train), "--val-dir", str(val), "--output", str(tmp_path)]) == 0
    assert len(listed(tmp_path / "images.list")) == 9
    assert sorted(label for label, _ in listed(tmp_path / "val.list")) == [0, 2, 2]
    capsys.readouterr()
    make_folder(val, {"d": 1})
    message = fails(capsys, "folder", train, "--val-dir", val, "--output", tmp_path, "--force")
    assert "'d'" in message
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    assert "hold no image" in fails(capsys, "folder", train, "--val-dir", empty, "--output", tmp_path / "new")


def test_existing_lists_are_kept_without_force(tmp_path, capsys):
    source = make_folder(tmp_path / "photos", {"a": 4})
    (tmp_path / "val.list").write_text("0 precious.jpg\n")
    message = fails(capsys, "folder", source, "--output", tmp_path)
    assert "val.list" in message
    assert "--force" in message
    assert (tmp_path / "val.list").read_text() == "0 precious.jpg\n"
    assert not (tmp_path / "images.list").exists()
    assert main(["folder", str(source), "--output", str(tmp_path), "--force"]) == 0
    assert "precious" not in (tmp_path / "val.list").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "images.list", "val.list", "classes.txt"}


def test_mistakes_are_told(tmp_path, capsys):
    assert "No such file" in fails(capsys, "folder", tmp_path / "none", "--output", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no folders" in fails(capsys, "folder", empty, "--output", tmp_path / "out")
    (empty / "a").mkdir()
    assert "hold no image" in fails(capsys, "folder", empty, "--output", tmp_path / "out")
    assert "2.0" in fails(capsys, "folder", empty, "--val-fraction", 2)
    assert "--val-dir" in fails(capsys, "folder", empty, "--val-dir", empty, "--val-fraction", "0.5")
    source = make_folder(tmp_path / "photos", {"a": 2})
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot write" in fails(capsys, "folder", source, "--output", blocked / "lists")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, capsys, monkeypatch):
    source = make_folder(tmp_path / "photos", {"a": 2, "b": 2})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "b: Permission denied" in fails(capsys, "folder", source, "--output", tmp_path / "out")


@pytest.mark.parametrize("name", [" spaces before", "line\nbreak"])
def test_names_that_a_list_cannot_hold(tmp_path, capsys, name):
    source = make_folder(tmp_path, {name: 2})
    message = fails(capsys, "folder", source, "--output", tmp_path)
    assert repr(f"{name}/0.jpg")[:10] in message
    assert "rename" in message
    assert not (tmp_path / "images.list").exists()


def test_names_with_spaces_inside_and_bytes_that_are_not_utf8(tmp_path):
    source = make_folder(tmp_path / "photos", {"great white shark": 2})
    odd = os.path.join(os.fsencode(source), b"great white shark", b"caf\xe9 1.png")
    (source / "great white shark" / "1.PNG").rename(os.fsdecode(odd))
    assert main(["folder", str(source), "--output", str(tmp_path)]) == 0
    found = listed(tmp_path / "images.list") + listed(tmp_path / "val.list")
    assert os.fsdecode(odd) in {str(path) for _, path in found}
    assert all(path.exists() for _, path in found)
    assert class_names_beside(tmp_path / "images.list") == ["great white shark"]


def test_training_and_validation_images_in_one_folder(tmp_path, capsys):
    parent = tmp_path / "photos"
    make_folder(parent / "train", {"a": 3, "b": 3})
    make_folder(parent / "val", {"b": 2})
    assert main(["folder", str(parent), "--output", str(tmp_path)]) == 0
    assert class_names_beside(tmp_path / "images.list") == ["a", "b"]
    assert len(listed(tmp_path / "images.list")) == 6
    assert [label for label, _ in listed(tmp_path / "val.list")] == [1, 1]
    capsys.readouterr()
    for flags in (["--val-fraction", "0.5"], ["--val-dir", parent / "val"]):
        message = fails(capsys, "folder", parent, "--output", tmp_path / "new", *flags)
        assert f"alexnet-prepare folder {parent}/train" in message
        assert f"--val-dir {parent}/val" in message


def test_the_wrong_level_and_a_folder_without_images(tmp_path, capsys):
    wrong = tmp_path / "wrong"
    for name in ("train", "val set"):
        make_folder(wrong / name, {"a": 2, "b": 2})
    message = fails(capsys, "folder", wrong, "--output", tmp_path / "new")
    assert f"alexnet-prepare folder {wrong}/train" in message
    assert f"--val-dir '{wrong}/val set'" in message
    (wrong / "train" / "aardvark").mkdir()
    assert main(["folder", str(wrong / "train"), "--output", str(tmp_path)]) == 0
    assert class_names_beside(tmp_path / "images.list") == ["a", "b"]
    assert f"{wrong}/train: left out: 1 folder that holds no image: aardvark\n" in capsys.readouterr().out
