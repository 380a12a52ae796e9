"""The site of docs/ is built without a warning, needs nothing from the network, and has every program and every flag."""

import html
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import flags
import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install --editable '.[docs]'")


class Loaded(HTMLParser):
    """What a browser loads with a page, without being asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loads = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}.get(tag)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            loads = "href"
        if loads and values.get(loads):
            self.addresses.append(str(values[loads]))


def elsewhere(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"(\w+:)?//", address)]


def build(folder: Path, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, *flags]
    # A proxy that isn't there: a build that asks the network for something fails.
    environment = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment |= {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(folder, "--config-file", ".mkdocs.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stderr, result.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages == {page.stem for page in site.glob("*.html")} - {"404"}


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        addresses = Loaded(page.read_text(encoding="utf-8")).addresses
        assert addresses
        assert elsewhere(addresses) == [], page.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert elsewhere(re.findall(r"(?:url\(|@import\s*)[\"']?([^\"')]+)", text)) == [], sheet.name


def test_what_is_loaded_from_elsewhere_is_noticed() -> None:
    page = (
        '<link rel="stylesheet" href="//a.b/c.css"><a href="https://x.y">z</a><script src="https://d.e/f.js"></script>'
    )
    assert elsewhere(Loaded(page).addresses) == ["//a.b/c.css", "https://d.e/f.js"]


def test_every_program_and_flag_is_in_the_reference(site: Path) -> None:
    text = html.unescape((site / "programs.html").read_text(encoding="utf-8"))
    parts = dict(re.findall(r'<h2 id="(alexnet[\w-]*)">(.*?)(?=<h2|</article>)', text, re.S))
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {name for name in installed if name.startswith("alexnet-")} <= parts.keys()
    for name, program in flags.programs().items():
        if program.parser.prog == name:
            for option in flags.options(program.parser):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", parts[name]), f"{name} {option}"
    assert str(ROOT) not in text


def test_the_reference_has_the_docstrings(site: Path) -> None:
    from alexnet_dist.predictor import Predictor

    text = re.sub(r"<[^>]+>|\s+", " ", (site / "python.html").read_text(encoding="utf-8"))
    for function in (Predictor.predict, Predictor.features, Predictor.top):
        first = str(function.__doc__).split(".")[0].split("[")[0]
        assert first in text, function.__name__


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """--strict and `validation` do what they are there for: the configuration, with a page that has a wrong anchor."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# A\n\n[nowhere](#nowhere)\n")
    settings = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    validation = settings[settings.index("\nvalidation:") :]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: A\ndocs_dir: docs\nnav: [index.md]\n{validation}")
    result = build(tmp_path / "site", "--config-file", tmp_path / "mkdocs.yml")
    assert result.returncode == 1
    assert "#nowhere" in result.stderr


def test_a_link_to_a_file_of_the_project_holds(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "a.sh").write_text("echo hello\n")
    page, settings = tmp_path / "docs" / "index.md", tmp_path / "mkdocs.yml"
    settings.write_text(f"site_name: A\nnav: [index.md]\nhooks: ['{ROOT / 'docs/scripts/links.py'}']\n")
    page.write_text("# A\n\n[one](../a.sh) and [again](../a.sh)\n")
    result = build(tmp_path / "site", "--config-file", settings)
    assert result.returncode == 0, result.stderr
    assert 'href="project/a.sh"' in (tmp_path / "site/index.html").read_text()
    assert (tmp_path / "site/project/a.sh").read_text() == "echo hello\n"
    page.write_text("# A\n\n[one](../b.sh)\n")
    assert build(tmp_path / "site", "--config-file", settings).returncode == 1
