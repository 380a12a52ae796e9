"""Progress: lines where stderr is no terminal, a bar where it is one, nothing on other ranks; the items in any case."""

import io
import sys

import pytest

from alexnet_dist.preparation import progress


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "shown", "words"),
    [(False, True, ["images: 1 of 3\n", "images: 2 of 3\n"]), (True, True, ["images", "100%"]), (True, False, [])],
)
def test_items_and_what_is_shown(monkeypatch, terminal, shown, words):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert list(progress.track([5, 6, 7], "images", shown)) == [5, 6, 7]
    for word in words:
        assert word in stream.getvalue()
    assert shown or stream.getvalue() == ""


def test_a_short_command_prints_no_line(capsys):
    assert list(progress.track(range(3), "images")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
