"""The pictures of the pages are what their script draws, from the package's own figures; readable in light and dark."""

import re
from xml.etree import ElementTree

import draw
import numpy as np
import pytest
from PIL import Image

from alexnet_dist.kernels.conv_winograd import Winograd, points

FOLDER = draw.DOCS / "pictures"
SVG = "{http://www.w3.org/2000/svg}"
BY_HAND = {"filters-change.png"}  # what exercise 3 has drawn, after a training of minutes


@pytest.mark.parametrize("name", draw.PICTURES)
def test_it_is_drawn_anew(name: str) -> None:
    drawn = str(draw.PICTURES[name]())
    assert (FOLDER / name).read_text(encoding="utf-8") == drawn, "run python docs/scripts/draw.py"


@pytest.mark.parametrize("name", draw.PICTURES)
def test_it_can_be_read(name: str) -> None:
    """It has a title for who can't see it, both colour schemes, and no text that leaves the card."""
    root = ElementTree.fromstring((FOLDER / name).read_text(encoding="utf-8"))
    assert root.findtext(f"{SVG}title")
    assert "prefers-color-scheme: dark" in str(root.findtext(f"{SVG}style"))
    for text in root.iter(f"{SVG}text"):
        kind, words = str(text.get("class")), str(text.text)
        width = len(words) * (6.6 if "small" in kind else 8)  # about, of a wide letter
        left = float(str(text.get("x"))) - width * (1 if "end" in kind else 0.5 if "middle" in kind else 0)
        assert left >= 0, words
        assert left + width <= float(str(root.get("width"))), words


def test_figures_come_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = str(draw.winograd_tiles())
    monkeypatch.setitem(draw.ALGORITHMS, 3, Winograd(4, 3, points(0, 1, -1, 2, -2)))
    after = str(draw.winograd_tiles())
    assert "7 x 7 inputs" in before
    assert "6 x 6 inputs" in after
    monkeypatch.setattr(draw, "Network", lambda: draw.layer_table.__globals__["Network"](num_classes=10))
    assert str(draw.network()) != (FOLDER / "network.svg").read_text(encoding="utf-8")
    assert str(draw.wire()) != (FOLDER / "wire.svg").read_text(encoding="utf-8")


def test_the_tutorials_pictures_are_its_programs() -> None:
    with Image.open(FOLDER / "patterns.jpg") as there:
        drawn = draw.patterns()
        assert there.size == drawn.size
        difference = np.abs(np.asarray(there, np.float64) - np.asarray(drawn, np.float64))
    assert difference.mean() < 8  # of 255: JPEG's


def test_every_picture_is_used_and_drawn() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in draw.DOCS.glob("*.md"))
    used = set(re.findall(r"\(pictures/([\w.-]+)\)", text))
    there = {path.name for path in FOLDER.iterdir()}
    assert used == there == {*draw.PICTURES, "patterns.jpg"} | BY_HAND
