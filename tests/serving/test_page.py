"""The page in a real browser: a file is chosen, its classes and map appear; a broken one is explained; nothing complains."""

import re
import time

import detector
import pytest
from browser import complaints, open_browser
from served import RED, SIZE, serving

from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs import checkpoint
from alexnet_dist.support.workspace import zeros

WAIT = 30  # seconds for an answer, on a busy machine


@pytest.fixture(scope="module")
def browser(server):
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """The page, freshly loaded; at the end, its console must be empty."""
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: "2 classes" in text(browser, "model"))
    yield browser
    assert complaints(browser) == []


@pytest.fixture
def album(tmp_path):
    detector.picture(SIZE, RED).save(tmp_path / "<b>red.png")
    detector.picture(SIZE, ("green", *RED[1:])).save(tmp_path / "green.jpg", quality=95)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.png").write_bytes((tmp_path / "<b>red.png").read_bytes()[:100])
    (tmp_path / "large.jpg").write_bytes(bytes(1_000_001))
    return tmp_path


def element(page, name):
    return page.find_element("id", name)


def text(page, name):
    return element(page, name).text


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


def choose(page, path):
    element(page, "file").send_keys(str(path))


def test_a_file_is_chosen(page, album):
    choose(page, album / "<b>red.png")
    until(lambda: text(page, "best").startswith("red, "))
    rows = [row.text.split() for row in page.find_elements("css selector", "#classes tr")]
    assert [row[0] for row in rows] == ["red", "green"]
    bars = page.find_elements("css selector", "#classes progress")
    shares = [float(bar.get_property("value")) for bar in bars]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert rows[0][1] == f"{100 * shares[0]:.1f}"
    for name in ("picture", "map"):  # both are there, and lie on each other
        assert element(page, name).get_property("naturalWidth") > 0
    assert element(page, "picture").rect == pytest.approx(element(page, "map").rect, abs=1)
    assert "in the middle" in text(page, "caption")
    assert "300 x 200 pixels, answered in" in text(page, "took")
    assert "<b>red.png: red" in text(page, "status")


def test_a_map_of_nothing(browser, album, tmp_path):
    """A network whose weights are all 0 is not said to look at the top left."""
    parameters = parameter_map(detector.NETWORK)
    header = checkpoint.Header(detector.NETWORK, detector.NAMES)
    checkpoint.save(tmp_path / "nothing.safetensors", parameters, zeros((parameters.size,)), {}, header)
    with serving(tmp_path / "nothing.safetensors") as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        choose(browser, album / "<b>red.png")
        until(lambda: text(browser, "best") == "red, 50.0 %")
        assert text(browser, "caption").startswith("No part of the image speaks for red")
        assert complaints(browser) == []


def test_another_file_takes_its_place(page, album):
    choose(page, album / "<b>red.png")
    until(lambda: text(page, "best").startswith("red, "))
    before = element(page, "map").get_property("src")
    choose(page, album / "green.jpg")
    until(lambda: text(page, "best").startswith("green, "))
    assert element(page, "map").get_property("src") != before
    assert len(page.find_elements("css selector", "#classes tr")) == 2


def test_the_colours_fade(page, album):
    choose(page, album / "<b>red.png")
    until(lambda: text(page, "best").startswith("red, "))
    strength = element(page, "strength")
    strength.send_keys("\ue011")  # Home
    assert element(page, "map").value_of_css_property("opacity") == "0"
    assert element(page, "picture").value_of_css_property("filter") == "grayscale(0)"


def test_a_file_is_dropped(page, album):
    """As a browser tells of it: the drop itself is the desktop's."""
    drop = """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.jpg", {type: "image/jpeg"}));
        const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
        document.querySelector("h1").dispatchEvent(new DragEvent("drop", options));
    """
    import base64

    page.execute_script(drop, base64.b64encode((album / "green.jpg").read_bytes()).decode())
    until(lambda: text(page, "best").startswith("green, "))
    assert "dropped.jpg" in text(page, "status")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.png", "is truncated"),
        ("large.jpg", "larger than 1 MB"),
        ("notes.txt", "notes.txt is no JPEG or PNG file"),
    ],
)
def test_a_file_that_is_no_image(browser, server, album, name, words):
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: "2 classes" in text(browser, "model"))
    choose(browser, album / "<b>red.png")
    until(lambda: text(browser, "best").startswith("red, "))
    choose(browser, album / name)
    until(lambda: words in text(browser, "error"))
    assert not element(browser, "answer").is_displayed()
    assert text(browser, "status") == ""
    # The browser itself notes the refusal, and nothing else is amiss.
    assert all("/predict?explain=grad-cam" in line and re.search("400|415", line) for line in complaints(browser))
    choose(browser, album / "green.jpg")
    until(lambda: text(browser, "best").startswith("green, "))
    assert not element(browser, "error").is_displayed()


def test_by_keyboard_alone(page):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys("\ue004").perform()  # Tab
    assert page.switch_to.active_element.get_attribute("id") == "file"
    assert element(page, "drop").value_of_css_property("outline-style") == "solid"
    assert element(page, "file").accessible_name.startswith("Drop an image here, or choose a file")
    assert element(page, "status").aria_role == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_light_and_dark_and_on_a_phone(page, album, scheme, width):
    """Nothing is wider than the window, and words stand out from what is behind them."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    choose(page, album / "<b>red.png")
    until(lambda: text(page, "best").startswith("red, "))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    paper = lightness(page.find_element("css selector", "body").value_of_css_property("background-color"))
    assert (paper > 0.5) == (scheme == "light")
    for name in ("best", "caption", "took", "status"):
        ink = lightness(element(page, name).value_of_css_property("color"))
        light, dark = max(ink, paper), min(ink, paper)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name  # WCAG 2.2, 1.4.3
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def lightness(colour):
    """The relative luminance (WCAG 2.2) of `rgb(...)` or `rgba(...)`."""
    shares = [int(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
