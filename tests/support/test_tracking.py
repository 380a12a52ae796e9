"""Progress: lines where stderr is no terminal, a bar where it is one, nothing on other ranks; the items in any case."""

import os
import pty
import subprocess
import sys

import pytest

from alexnet_dist.support import tracking

PROGRAM = """
import time
from alexnet_dist.support.tracking import track
for number in track(range(3), "images"):
    print("a result of more columns than the terminal has: " + 50 * "x ")
    time.sleep(0.3)
"""


@pytest.mark.parametrize(("shown", "words"), [(True, "images: 1 of 3\nimages: 2 of 3\n"), (False, "")])
def test_lines(monkeypatch, capsys, shown, words):
    monkeypatch.setattr(tracking, "INTERVAL", 0.0)
    monkeypatch.setattr(tracking, "find_terminal", lambda number: None)
    assert list(tracking.track([5, 6, 7], "images", shown)) == [5, 6, 7]
    assert words in capsys.readouterr().err
    assert shown or capsys.readouterr().err == ""


def test_a_short_command_prints_no_line(capsys, monkeypatch):
    monkeypatch.setattr(tracking, "find_terminal", lambda number: None)
    assert list(tracking.track(range(3), "images")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_a_bar_on_a_terminal_that_can_show_one(kind):
    main, other = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=other,
        stdout=subprocess.PIPE,
        stderr=other,
        text=True,
        env={**os.environ, "TERM": kind},
        start_new_session=True,
    )
    os.close(other)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # its other end is closed
        pass
    results, _ = done.communicate()
    assert results.splitlines() == 3 * ["a result of more columns than the terminal has: " + 50 * "x "]
    assert done.returncode == 0
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") - (kind == "xterm")  # the cursor is there meanwhile
    assert (b"/3" in shown) == (kind == "xterm")
    assert (b"images" in shown) == (kind == "xterm")
