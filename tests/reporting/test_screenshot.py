"""The script that makes the README's picture of a report."""

import subprocess
import sys
from pathlib import Path

from browser import open_browser
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_picture_is_made(runs: list[Path], tmp_path: Path) -> None:
    with open_browser():
        pass  # or this is skipped
    script, picture = ROOT / "docs" / "scripts" / "report_screenshot.py", tmp_path / "report.png"
    subprocess.run([sys.executable, script, runs[0], picture], check=True, timeout=90)
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as image:
        assert image.width == 1200
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
