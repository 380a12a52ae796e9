"""What --data and --val stand for: lists, folders of classes, and the validation images beside them."""

from pathlib import Path

import pytest
from PIL import Image

from alexnet_dist.data.class_names import class_names_beside
from alexnet_dist.data.sources import SourcePaths, list_in, open_evaluated, read_sources
from alexnet_dist.errors import UserError
from alexnet_dist.preparation.folder import prepare_folder
from alexnet_dist.preparation.pack import pack
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.setup import open_sources


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def paths_of(images):
    return [(int(label), images.path(index).name) for index, label in enumerate(images.labels)]


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "images.list").write_text("".join(f"{number % 2} {number}.jpg\n" for number in range(20)))
    (tmp_path / "val.list").write_text("0 a.jpg\n1 b.jpg\n1 c.jpg\n")
    return tmp_path / "images.list"


def test_a_val_list_beside_the_list_is_taken_and_said(listed):
    sources = read_sources(SourcePaths(listed), seed=0)
    assert len(sources.train) == 20
    assert paths_of(sources.val) == [(0, "a.jpg"), (1, "b.jpg"), (1, "c.jpg")]
    (note,) = sources.notes
    assert f"{listed.parent}/val.list" in note
    assert "--val-fraction" in note


def test_what_is_asked_for_goes_before_the_val_list(listed):
    other = listed.with_name("other.list")
    other.write_text("1 d.jpg\n")
    sources = read_sources(SourcePaths(listed, val=other), seed=0)
    assert paths_of(sources.val) == [(1, "d.jpg")]
    held_out = read_sources(SourcePaths(listed, val_fraction=0.25), seed=0)
    assert (len(held_out.train), len(held_out.val)) == (15, 5)
    assert sources.notes == held_out.notes == ()


def test_without_a_val_list_a_tenth_is_held_out(listed):
    (listed.parent / "val.list").rename(listed.parent / "validation.list")
    sources = read_sources(SourcePaths(listed), seed=0)
    assert (len(sources.train), len(sources.val), sources.notes) == (18, 2, ())
    alone = read_sources(SourcePaths(listed.parent / "validation.list"), seed=0)
    (listed.parent / "validation.list").rename(listed.parent / "val.list")
    same = read_sources(SourcePaths(listed.parent / "val.list"), seed=0)  # it isn't beside itself
    assert (len(alone.train), len(alone.val)) == (len(same.train), len(same.val)) == (2, 1)


def test_a_folder_of_classes(tmp_path):
    make(
        tmp_path, *(f"cat/{number}.jpg" for number in range(12)), *(f"dog/{number}.jpg" for number in range(8)), "x.jpg"
    )
    sources = read_sources(SourcePaths(tmp_path), seed=0)
    assert (sources.num_classes, sources.class_names) == (2, ["cat", "dog"])
    assert (len(sources.train), len(sources.val)) == (18, 2)
    assert sources.notes == (f"{tmp_path}: left out: 1 image beside the class folders, in none of them: x.jpg",)
    (tmp_path / "names").write_text("Felis\nCanis\n")
    assert read_sources(SourcePaths(tmp_path, class_names=tmp_path / "names"), seed=0).class_names == ["Felis", "Canis"]
    with pytest.raises(UserError, match="2 classes, more than 1"):
        read_sources(SourcePaths(tmp_path, num_classes=1), seed=0)
    wide = read_sources(SourcePaths(tmp_path, num_classes=10), seed=0)
    assert (wide.num_classes, wide.class_names) == (10, None)


def test_a_folder_of_training_and_validation_images(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "train/eel/3.jpg", "val/dog/4.jpg", "val/eel/5.jpg")
    sources = read_sources(SourcePaths(tmp_path), seed=0)
    assert (sources.num_classes, sources.class_names) == (3, ["cat", "dog", "eel"])
    assert paths_of(sources.train) == [(0, "1.jpg"), (1, "2.jpg"), (2, "3.jpg")]
    # No cat among them, and yet a dog is a dog.
    assert paths_of(sources.val) == paths_of(open_evaluated(tmp_path)) == [(1, "4.jpg"), (2, "5.jpg")]
    assert class_names_beside(tmp_path) == ["cat", "dog", "eel"]
    assert "validation images" in sources.notes[0]
    explicit = read_sources(SourcePaths(tmp_path / "train", val=tmp_path / "val"), seed=0)
    assert paths_of(explicit.val) == paths_of(sources.val)
    with pytest.raises(UserError, match="one level down"):
        read_sources(SourcePaths(tmp_path, val_fraction=0.1), seed=0)
    make(tmp_path, "val/fox/6.jpg")
    with pytest.raises(UserError, match="'fox'"):
        read_sources(SourcePaths(tmp_path), seed=0)


def test_a_folder_is_evaluated_as_it_is(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/2.jpg")
    assert paths_of(open_evaluated(tmp_path)) == [(0, "1.jpg"), (1, "2.jpg")]


def evaluated(folder):
    """What evaluation reads of a folder."""
    return list_in(folder, validation=True)[0]


def test_a_folder_of_classes_that_holds_lists_stands_for_them(tmp_path):
    """What val.list names is not trained on."""
    make(tmp_path, *(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(10)))
    as_it_is = read_sources(SourcePaths(tmp_path), seed=0)
    assert evaluated(tmp_path) == tmp_path
    prepare_folder(tmp_path, tmp_path)
    found, listed = (read_sources(SourcePaths(data), seed=0) for data in (tmp_path, tmp_path / "images.list"))
    assert (found.num_classes, found.class_names) == (as_it_is.num_classes, as_it_is.class_names)
    assert found.train.fingerprint() == listed.train.fingerprint() != as_it_is.train.fingerprint()
    assert found.val.fingerprint() == listed.val.fingerprint() != as_it_is.val.fingerprint()
    read = f"{tmp_path} holds a list, which is read: {tmp_path}"
    assert found.notes == (f"{read}/images.list", *listed.notes)
    assert f"validation images: {tmp_path}/val.list" in found.notes[1]
    for data in (tmp_path, tmp_path / "images.list"):
        given = read_sources(SourcePaths(data, val=tmp_path), seed=0)
        assert given.val.fingerprint() == listed.val.fingerprint()
        assert given.notes[-1] == f"{read}/val.list"
    held_out = read_sources(SourcePaths(tmp_path, val_fraction=0.5), seed=0)
    assert (len(held_out.train), len(held_out.val)) == (9, 9)
    assert held_out.notes == (f"{tmp_path} holds a list, which is read: {tmp_path}/images.list",)
    assert evaluated(tmp_path) == tmp_path / "val.list"
    (tmp_path / "val.list").unlink()
    assert evaluated(tmp_path) == tmp_path / "images.list"
    assert len(read_sources(SourcePaths(tmp_path), seed=0).val) == 2  # of its 18
    prepare_folder(tmp_path, tmp_path, force=True)  # which lists what lies in the folders
    assert len(read_sources(SourcePaths(tmp_path), seed=0).train) == 18


def test_other_folders_that_hold_lists_are_taken_as_before(tmp_path):
    make(tmp_path, "photos/train/cat/1.jpg", "photos/val/cat/2.jpg", "shards/000000.tar")
    for folder in ("photos", "shards"):
        make(tmp_path, f"{folder}/images.list", f"{folder}/val.list")
        assert evaluated(tmp_path / folder) == tmp_path / folder
    assert paths_of(read_sources(SourcePaths(tmp_path / "photos"), seed=0).train) == [(0, "1.jpg")]


def test_the_wrong_level_and_a_folder_without_images(tmp_path):
    make(tmp_path, *(f"{name}/{number % 2}/{number}.jpg" for name in ("train", "val set") for number in range(4)))
    with pytest.raises(UserError, match=f"folder {tmp_path}/train .*--val-dir '{tmp_path}/val set', or --val"):
        read_sources(SourcePaths(tmp_path), seed=0)
    (tmp_path / "train" / "-").mkdir()  # sorted before the others
    sources = read_sources(SourcePaths(tmp_path / "train", val=tmp_path / "val set"), seed=0)
    assert (sources.num_classes, sources.class_names) == (2, ["0", "1"])
    assert sources.notes == (f"{tmp_path}/train: left out: 1 folder that holds no image: -",)


@pytest.fixture
def validation(listed):
    """A function that writes validation images of other class names than cat, dog and eel; it returns their list."""
    (listed.parent / "classes.txt").write_text("cat\ndog\neel\n")

    def write(*names):
        path = listed.parent / "other" / "val.list"
        make(listed.parent, *(f"other/{number}.jpg" for number in range(len(names))))
        path.write_text("".join(f"{number} {number}.jpg\n" for number in range(len(names))))
        path.with_name("classes.txt").write_text("".join(f"{name}\n" for name in names))
        return path

    return write


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat", "dog", "eel"], [0, 1, 2]),
        (["eel", "cat", "dog"], [2, 0, 1]),
        (["dog", "eel"], [1, 2]),
        (["dog"], [1]),
    ],
)
def test_validation_images_are_of_the_classes_of_that_name(listed, validation, names, labels):
    sources = read_sources(SourcePaths(listed, val=validation(*names)), seed=0)
    assert (sources.num_classes, sources.class_names) == (3, ["cat", "dog", "eel"])
    assert sources.val.labels.tolist() == labels
    by_number = read_sources(SourcePaths(listed, val=validation(*names), ignore_class_names=True), seed=0)
    assert by_number.val.labels.tolist() == list(range(len(names)))
    assert (by_number.val.fingerprint() == sources.val.fingerprint()) == (labels == by_number.val.labels.tolist())


@pytest.mark.parametrize("strangers", [("cat", "dog", "Eel"), ("dog", "fox"), ("cat", "cat")])
def test_validation_images_of_other_classes_are_refused(listed, validation, strangers):
    path = validation(*strangers)
    with pytest.raises(
        UserError, match=rf"{path} has other classes than {listed} \(only there: .*--ignore-class-names"
    ):
        read_sources(SourcePaths(listed, val=path), seed=0)
    config = TrainingConfig(data=str(listed), val=str(path), ignore_class_names=True)
    assert open_sources(config).val.labels.tolist() == list(range(len(strangers)))
    names = path.with_name("names")
    names.write_text("".join(f"{name}\n" for name in strangers))
    (listed.parent / "classes.txt").unlink()
    (listed.parent / "images.list").write_text("0 a.jpg\n1 b.jpg\n")
    assert len(read_sources(SourcePaths(listed, val=path, class_names=names), seed=0).val) == len(strangers)


def test_packed_validation_images_that_lack_a_class(tmp_path):
    for part, names in (("train", "abc"), ("val", "bc")):
        for name in names:
            path = tmp_path / "photos" / part / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(path)
        pack(tmp_path / "photos" / part, tmp_path / "packed" / part)
    assert read_sources(SourcePaths(tmp_path / "packed"), seed=0).val.labels.tolist() == [1, 2]
    assert open_evaluated(tmp_path / "packed").labels.tolist() == [1, 2]
    assert open_evaluated(tmp_path / "packed", ignore_class_names=True).labels.tolist() == [0, 1]
    assert open_evaluated(tmp_path / "photos", ignore_class_names=True).labels.tolist() == [1, 2]
    mixed = SourcePaths(tmp_path / "photos/train", val=tmp_path / "packed/val")
    assert read_sources(mixed, seed=0).val.labels.tolist() == [1, 2]


def test_a_class_id_beyond_the_names_of_the_validation_images(listed, validation):
    path = validation("dog", "eel")
    path.write_text("2 0.jpg\n")
    with pytest.raises(UserError, match=rf"{path} has the class id 2, but its classes\.txt names 2 classes"):
        read_sources(SourcePaths(listed, val=path), seed=0)
