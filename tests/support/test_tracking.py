"""Progress: lines where stderr is no terminal, a bar where it is one, nothing on other ranks; the items in any case."""

import subprocess
import sys

import pytest
from terminal import COLUMNS, run_on_terminal, seen

from alexnet_dist.support import tracking

LONG = "a result of more columns than the terminal has: " + 5 * "columns " + "end"
PROGRAM = f"""
import time
from alexnet_dist.support.tracking import track
for number in track(range(3), "images"):
    print({LONG!r})
    time.sleep(0.3)
"""


@pytest.mark.parametrize(("shown", "words"), [(True, "images: 0 of 3\nimages: 1 of 3\nimages: 2 of 3\n"), (False, "")])
def test_lines(monkeypatch, capsys, shown, words):
    monkeypatch.setattr(tracking, "INTERVAL", 0.0)
    monkeypatch.setattr(tracking, "find_terminal", lambda number: None)
    assert list(tracking.track([5, 6, 7], "images", shown)) == [5, 6, 7]
    assert capsys.readouterr().err == words


def test_a_short_command_prints_no_line(capsys, monkeypatch):
    monkeypatch.setattr(tracking, "find_terminal", lambda number: None)
    assert list(tracking.track(range(3), "images")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_a_bar_on_a_terminal_that_can_show_one(kind):
    shown, results = run_on_terminal([sys.executable, "-c", PROGRAM], kind, stdout=subprocess.PIPE)
    assert results.decode().splitlines() == 3 * [LONG]
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") - (kind == "xterm")  # the cursor is there meanwhile
    assert (b"/3" in shown) == (kind == "xterm")
    assert (b"images" in shown) == (kind == "xterm")


def test_results_scroll_by_above_the_bar():
    """They are broken where the terminal ends, as without a bar, which is gone in the end."""
    shown, _ = run_on_terminal([sys.executable, "-c", PROGRAM])
    assert b"/3" in shown
    assert seen(shown) == 3 * [LONG[:COLUMNS].rstrip(), LONG[COLUMNS:]]
