"""The page in a real browser: it draws its charts alone, in light and dark, on a phone, for keyboards and screen readers."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser

from alexnet_dist.reporting.making import write_report

PHONE, DESK = 320, 1280

# Colours as [red, green, blue] from 0 to 255; contrast as WCAG 2 defines it.
CONTRAST = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest("script, style, svg") || !e.checkVisibility()) continue;
  const [a, b] = [rgba(getComputedStyle(e).color), behind(e)].map(luminance).sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)}`);
}
return poor;
"""


class Page:
    """A report that is open in a browser."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser, self._path = browser, path

    def open(self, width: int = DESK, scheme: str = "light") -> "Page":
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.prefer(scheme)
        for log in ("browser", "performance"):
            self.browser.get_log(log)  # what came before
        self.browser.get(self._path.as_uri())
        return self.wait(scheme)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def wait(self, scheme: str) -> "Page":
        """Until the charts are drawn for this scheme."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda _: self.ask("return document.body.dataset.drawn") == scheme)
        return self

    def ask(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=["one run", "one without drops", "two runs"])
def page(
    request: pytest.FixtureRequest, browser: Any, runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report({"one run": runs[:1], "one without drops": runs[1:], "two runs": runs}[request.param], path)
    return Page(browser, path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_without_errors_and_without_the_network(page: Page, scheme: str) -> None:
    page.open(scheme=scheme)
    assert page.browser.get_log("browser") == []
    assert page.requests() == [page.browser.current_url]
    marks = page.ask(
        "return [...document.querySelectorAll('.chart')].map(e => [e.id, e.querySelectorAll('svg path, svg text').length])"
    )
    assert len(marks) >= 7
    assert [name for name, count in marks if count < 8] == []
    broken = page.ask("return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)")
    assert broken == []


def test_it_can_t_reach_the_network(page: Page) -> None:
    page.open()
    script = (
        "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), e => done(e.message))"
    )
    page.browser.execute_async_script(script)
    assert any("Content Security Policy" in entry["message"] for entry in page.browser.get_log("browser"))
    assert page.requests() == [page.browser.current_url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_its_background(page: Page, scheme: str) -> None:
    page.open(scheme=scheme)
    page.ask("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.ask(CONTRAST) == []


def test_charts_follow_when_light_turns_to_dark(page: Page) -> None:
    colour = "return document.querySelector('#loss svg .mark-line path').getAttribute('stroke')"
    page.open()
    light = page.ask(colour)
    page.prefer("dark")
    page.wait("dark")
    assert page.ask(colour) != light
    assert page.browser.get_log("browser") == []


@pytest.mark.parametrize("width", [PHONE, 768, DESK])
def test_the_page_doesn_t_scroll_sideways(page: Page, width: int) -> None:
    page.open(width)
    page.ask("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.ask("return document.documentElement.scrollWidth") <= width
    wide = page.ask(
        "return [...document.querySelectorAll('.chart svg')].filter(e => e.getBoundingClientRect().right"
        " > e.closest('.card').getBoundingClientRect().right).map(e => e.closest('.chart').id)"
    )
    assert wide == []
    cut = page.ask(
        "return [...document.querySelectorAll('.chart svg text')].filter(e => e.getBoundingClientRect().right"
        " > e.closest('svg').getBoundingClientRect().right + 1).map(e => e.closest('.chart').id + ': ' + e.textContent)"
    )
    assert cut == []


def test_labels_and_cards_don_t_touch(page: Page) -> None:
    for width in (PHONE, DESK):
        page.open(width)
        labels = page.ask(
            "return [...document.querySelectorAll('.chart .role-axis-label')].map(axis => [...axis.querySelectorAll('text')]"
            ".filter(e => e.getAttribute('opacity') !== '0' && !/rotate\\([^0]/.test(e.getAttribute('transform')))"
            ".map(e => { const box = e.getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]; }))"
        )
        assert sum(map(len, labels)) > 20
        for one, other in (pair for axis in labels for pair in pairwise(axis)):
            assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2], (one, other)
        gaps = page.ask(
            "return [...document.querySelectorAll('.figures + .card')].map(e => e.getBoundingClientRect().top"
            " - e.previousElementSibling.getBoundingClientRect().bottom)"
        )
        assert gaps
        assert min(gaps) >= 16


def test_everything_is_reached_by_keyboard_and_seen(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open()
    wanted = page.ask("return document.querySelectorAll('a, summary').length") + page.ask(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()).length"
    )
    reached = []
    for _ in range(wanted):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        name, outline = page.ask(
            "const e = document.activeElement; return [e.outerHTML.slice(0, 80), getComputedStyle(e).outlineStyle]"
        )
        reached.append(name)
        assert outline == "solid", name
    assert len(set(reached)) > wanted / 2
    assert page.ask("return document.activeElement.tagName") == "SUMMARY"  # the last one of the page
    assert reached[0].startswith('<a class="skip"')
    opened = "return document.activeElement.parentElement.open"
    assert page.ask(opened) is False
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.ask(opened) is True


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    page.open()
    levels = page.ask("return [...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav[aria-label]", "main", "footer"):
        assert page.ask("return document.querySelectorAll(arguments[0]).length", landmark) == 1, landmark
    assert page.ask("return document.documentElement.lang") == "en"
    assert page.ask("return document.title")
    assert page.ask("return [...document.images].filter(e => !e.alt).length") == 0
    for without_name in ("table:not(:has(caption))", "[role=img]:not([aria-label])", "[role=region]:not([aria-label])"):
        assert page.ask("return document.querySelectorAll(arguments[0]).length", without_name) == 0, without_name
    ids = page.ask("return [...document.querySelectorAll('body [id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
    referred = page.ask(
        "return [...document.querySelectorAll('[aria-labelledby], a[href^=\"#\"]')]"
        ".map(e => e.getAttribute('aria-labelledby') || e.getAttribute('href').slice(1))"
    )
    assert set(referred) <= set(ids)
    # Behind each chart is a table with its numbers.
    charts = page.ask("return document.querySelectorAll('.chart').length")
    assert page.ask("return document.querySelectorAll('figure:has(.chart) details table').length") == charts


def test_its_skip_link_leads_to_the_report(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.browser.switch_to.active_element.send_keys(Keys.TAB)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.ask("return document.activeElement.id") == "main"
