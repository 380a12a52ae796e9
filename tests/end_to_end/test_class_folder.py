"""A folder of classes is trained on and evaluated as the list of its images would be."""

import json
import shutil

from launcher import needs_mpirun, on_ranks, steps, train
from toy_images import CLASSES

from alexnet_dist.preparation.folder import prepare_folder

FLAGS = ["--epochs", 1, "--global-batch", 12, "--lr", 0.001]


def write_list(path, folder):
    """All images below `folder`, in the order of the classes and paths."""
    images = sorted((label, image) for label, name in enumerate(CLASSES) for image in (folder / name).iterdir())
    path.write_text("".join(f"{label} {image}\n" for label, image in images))


@needs_mpirun
def test_folder_and_list_give_the_same_losses(pictures, tmp_path):
    parent = tmp_path / "photos"
    shutil.copytree(pictures.folder, parent / "train")
    for name in CLASSES[1:]:
        (parent / "val" / name).mkdir(parents=True)
        first = min((parent / "train" / name).iterdir())
        shutil.move(first, parent / "val" / name)
    write_list(tmp_path / "train.list", parent / "train")
    (parent / "train" / "red" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    validation = [(label, next((parent / "val" / CLASSES[label]).iterdir())) for label in (1, 2)]
    (tmp_path / "elsewhere" / "val.list").write_text("".join(f"{label} {path}\n" for label, path in validation))
    lists = ["--data", "train.list", "--val", "elsewhere/val.list", "--num-classes", 3]
    train(2, [*lists, *FLAGS, "--output-dir", "by-list"], tmp_path).ok()
    job = train(2, ["--data", "photos", *FLAGS, "--output-dir", "by-folder"], tmp_path).ok()
    assert len(steps(tmp_path / "by-list")) == 4
    assert steps(tmp_path / "by-folder") == steps(tmp_path / "by-list")
    assert "validation images: photos/val" in job.out
    assert "photos/train: left out: 1 file not named as an image (.jpg, .jpeg, .png): red/notes.txt" in job.out
    results = [
        json.loads(on_ranks(2, ["-m", "alexnet_dist.evaluate", *command], tmp_path).ok().out)
        for command in (
            ["--load", "by-folder/best.safetensors", "--data", data, "--json"]
            for data in ("photos", "elsewhere/val.list")
        )
    ]
    assert results[0] == results[1]
    assert results[0]["images"] == 2


@needs_mpirun
def test_lists_that_a_folder_comes_to_hold_are_read_and_said(pictures, tmp_path):
    shutil.copytree(pictures.folder, tmp_path / "photos")
    flags = ["--data", "photos", *FLAGS, "--output-dir", "run"]
    train(2, flags, tmp_path).ok()
    prepare_folder(tmp_path / "photos", tmp_path / "photos", val_fraction=0.25)
    job = train(2, [*flags, "--resume", "--epochs", 2], tmp_path).ok()
    assert "training images: photos/images.list; validation images: photos/val.list" in job.out
    assert "the training images are not those the run began with" in job.out
    assert "the validation images are others than before" in job.out
    evaluate = ["-m", "alexnet_dist.evaluate", "--load", "run", "--data", "photos", "--json"]
    job = on_ranks(2, evaluate, tmp_path).ok()
    assert json.loads(job.out)["images"] == len((tmp_path / "photos" / "val.list").read_text().splitlines())
    assert "photos holds a list, which is read: photos/val.list" in job.err
