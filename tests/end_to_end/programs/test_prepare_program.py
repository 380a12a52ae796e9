"""alexnet-prepare writes lists of a folder's images, and its classes."""

from commands import VALIDATION
from toy_images import CLASSES, PER_CLASS


def test_prepare_writes_lists(site):
    train_lines, val_lines = ((site / name).read_text().splitlines() for name in ("images.list", "val.list"))
    assert len(val_lines) == len(CLASSES) * PER_CLASS * VALIDATION
    assert len(set(train_lines + val_lines)) == len(CLASSES) * PER_CLASS
    assert (site / "classes.txt").read_text().splitlines() == list(CLASSES)
    for line in train_lines + val_lines:
        label, path = line.split(" ", 1)
        assert path.startswith(CLASSES[int(label)] + "/")
        assert (site / path).is_file()
