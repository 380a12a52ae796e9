"""alexnet-prepare digits."""

import sys

import numpy as np
import pytest
from PIL import Image
from preparations import fails, listed

from alexnet_dist.data.class_names import class_names_beside
from alexnet_dist.data.decode import decode
from alexnet_dist.prepare import main


def test_digits(tmp_path, capsys):
    datasets = pytest.importorskip("sklearn.datasets")
    assert main(["digits", "--output", str(tmp_path), "--size", "32"]) == 0
    assert "images.list: 1439 images, 140 to 147 of each of 10 classes" in capsys.readouterr().out
    lists = {name: listed(tmp_path / f"{name}.list") for name in ("images", "val", "test")}
    assert {name: len(entries) for name, entries in lists.items()} == {"images": 1439, "val": 179, "test": 179}
    everything = [entry for entries in lists.values() for entry in entries]
    assert len({path for _, path in everything}) == 1797
    assert class_names_beside(tmp_path / "images.list")[7] == "seven"
    digits = datasets.load_digits()
    for label, path in everything[::100]:
        number = int(path.stem)
        assert label == digits.target[number] == int(path.parent.name)
        image = decode(path)
        assert image.size == (32, 32)
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)) / 255 * 16
        assert abs(small - digits.images[number]).mean() < 1
    attribution = (tmp_path / "digits" / "ATTRIBUTION.txt").read_text()
    assert "Attribution 4.0" in attribution
    assert "Alpaydin" in attribution
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 1797 + 5
    everything[0][1].write_bytes(before[everything[0][1]][:50])  # as an interruption may leave it
    assert main(["digits", "--output", str(tmp_path), "--size", "32"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_digits_smaller_than_they_are(tmp_path, capsys):
    assert "--size" in fails(capsys, "digits", "--size", 3, "--output", tmp_path)


def test_digits_do_not_overwrite_other_lists(tmp_path, capsys):
    pytest.importorskip("sklearn.datasets")
    (tmp_path / "images.list").write_text("0 precious.jpg\n")
    assert "other images" in fails(capsys, "digits", "--output", tmp_path)
    assert (tmp_path / "images.list").read_text() == "0 precious.jpg\n"


def test_digits_without_scikit_learn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    message = fails(capsys, "digits", "--output", tmp_path)
    assert "pip install 'alexnet_dist[demo]'" in message
    assert list(tmp_path.iterdir()) == []
