"""Every kind of preparation says how far it has come."""

import pytest
from PIL import Image

from alexnet_dist.prepare import main
from alexnet_dist.support import tracking


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    """What a command says on stderr, in a folder with 70 images of two classes, where a line is always due."""
    monkeypatch.setattr(tracking, "INTERVAL", 0.0)
    monkeypatch.setattr(tracking, "find_terminal", lambda number: None)
    monkeypatch.chdir(tmp_path)
    for number in range(70):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)

    def run(*argv):
        assert main([*argv]) == 0
        return capsys.readouterr().err.splitlines()

    return run


def test_folder(said):
    once = ["folders of classes: 0 of 2", "folders of classes: 1 of 2"]
    assert said("folder", "photos") == once
    assert said("folder", "photos", "--val-dir", "photos", "--force") == 2 * once


def test_shards(said):
    assert said("pack", "photos", "--output", "shards") == ["images: 0 of 70", "images: 64 of 70"]
    assert said("unpack", "shards", "--output", "again") == ["images: 0 of 70", "images: 64 of 70"]
    assert said("index", "shards") == ["shards: 0 of 1"]


def test_digits(said):
    pytest.importorskip("sklearn.datasets")
    assert said("digits", "--size", "8") == [f"images: {number} of 1797" for number in range(1797)]
