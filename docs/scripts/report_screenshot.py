"""python docs/scripts/report_screenshot.py RUN docs/images/report.png: the top of a run's report, for the README.

Needs what alexnet-report needs, Selenium, and Chromium with chromedriver.
"""

import argparse
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from alexnet_dist.reporting.making import write_report

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from browser import open_browser

WIDTH, HEIGHT = 1200, 2020  # pixels
COLOURS = 128  # of the picture, so that its file is small


def screenshot(page: Path) -> bytes:
    """A PNG of the page's top in the light colours, once its charts are drawn."""
    with open_browser() as browser:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.get(page.as_uri())
        WebDriverWait(browser, 60).until(lambda _: browser.execute_script("return document.body.dataset.drawn"))
        return browser.get_screenshot_as_png()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("output", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (page,) = write_report([args.run], Path(folder) / "report.html")
        picture = Image.open(BytesIO(screenshot(page))).convert("RGB")
    picture.quantize(COLOURS).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
