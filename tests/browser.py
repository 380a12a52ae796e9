"""A real browser for tests: headless Chromium by Selenium. Where there is none, the test is skipped and says so."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # in containers it is often too small
    "--force-device-scale-factor=1",
)


@contextmanager
def open_browser(width: int = 1000, height: int = 900) -> Iterator[Any]:
    """A browser of its own with an empty profile: a Selenium WebDriver, whose logs `browser` (the console) and
    `performance` (what DevTools tells, requests among it) can be read with get_log."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the package selenium is missing")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(
            "only a browser shows what the page does, and chromium or chromedriver is missing "
            "(Debian: apt-get install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        size = f"--window-size={width},{height}"
        for flag in (*FLAGS, size, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def complaints(browser: Any) -> list[str]:
    """What the console has said since the last call, warnings and errors."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
