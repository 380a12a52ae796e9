"""What the pages say of the code is so: figures, names of files, flags."""

import re
from pathlib import Path

import flags
import pytest
from pages import DOCS

from alexnet_dist.model.architecture import Network, layer_table
from alexnet_dist.model.convolutions import ALGORITHMS

ROOT = DOCS.parent
PAGE = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
NAMES = ("index", "tutorial", "training", "how-it-works", "teachers", "run-files", "python", "programs")
OF_OTHERS = {"--editable", "--help"}


def test_figures() -> None:
    table = layer_table(Network())
    sizes = [spec.size for spec in table.parameters.specs]
    height, width, channels = table.classifier[0].input
    features = table.classifier_start / sum(sizes)
    text = PAGE.replace("\n", " ")
    for said, figure in {
        r"A gradient of AlexNet is (\d+) MB": 4 * sum(sizes) / 1e6,
        r"layers, (\d+) MB, is never": 4 * max(sizes) / 1e6,
        r"fully connected layers are (\d+) KB": 4 * height * width * channels / 1000,
        r"Of the parameters, (\d+) % are": 100 * (1 - features),
    }.items():
        match = re.search(said, text)
        assert match, said
        assert int(match[1]) == round(figure), said
    assert "four hundredths of the parameters" in text
    assert round(100 * features) == 4
    for taps, f in ALGORITHMS.items():
        assert f.r == taps
        assert f"F({f.m}, {f.r})" in text


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|sh|md))?)`", _text(name)):
        if not path.startswith("runs/") or path.endswith(".py"):
            assert any((folder / path).exists() for folder in (ROOT, ROOT / "alexnet_dist")), path


@pytest.mark.parametrize("name", NAMES)
def test_flags_that_are_named_exist(name: str) -> None:
    known = OF_OTHERS.union(*(flags.options(program.parser) for program in flags.programs().values()))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", _text(name))) <= known


def _text(name: str) -> str:
    """A page without its comments."""
    return re.sub("<!--.*?-->", "", Path(DOCS, f"{name}.md").read_text(encoding="utf-8"), flags=re.S)
