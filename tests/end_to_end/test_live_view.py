"""The live view, as somebody sees it who sits before the terminal: through mpirun and launch/local.sh, and after Ctrl-C."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest
from launcher import MPIRUN, SMALL, alone, environment, latest_step, needs_mpirun, rows, train

pytestmark = needs_mpirun

LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"
COLUMNS, LINES = 80, 40
LIMIT = 240  # seconds
TRAIN = (sys.executable, "-m", "alexnet_dist.train")


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    return pictures.write_lists(tmp_path_factory.mktemp("live"), 4 * 100, 8)


def flags(name, *more):
    data = ["--data", "train.list", "--val", "val.list", "--global-batch", 4, "--lr", "0.001"]
    return [str(flag) for flag in (*SMALL, *data, "--output-dir", name, *more)]


class Terminal:
    """A terminal of 80 x 40 characters in which a command runs."""

    def __init__(self, command, folder, kind="xterm-256color"):
        self.screen = pyte.HistoryScreen(COLUMNS, LINES, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._end = time.monotonic() + LIMIT
        self.main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(other)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment(), "TERM": kind},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal
        )
        self.other = other

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for handle in (self.main, self.other):
            os.close(handle)

    @property
    def text(self):
        """What is to be seen now."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def _read(self):
        part = os.read(self.main, 65536)
        self.written += part
        self._stream.feed(part)

    def until(self, condition):
        """Goes on showing what the command writes, until something holds."""
        while not condition():
            assert time.monotonic() < self._end, self.text
            if select.select([self.main], [], [], 0.05)[0]:
                self._read()

    def finish(self):
        """The exit code; all that it has written is then shown."""
        self.until(lambda: self.process.poll() is not None)
        while select.select([self.main], [], [], 0.3)[0]:
            self._read()
        return self.process.returncode


def shows_view(terminal):
    """Whether the view is drawn, whole."""
    return all(word in terminal.text for word in ("of 100\n", "images/s now", "on average", "top-1", "ETA"))


def through_mpirun(ranks):
    return [MPIRUN, "-n", str(ranks), *TRAIN]


@pytest.mark.parametrize("how", ["alone", "mpirun", "local.sh"])
def test_view(site, how):
    command = {"alone": [*TRAIN], "mpirun": through_mpirun(2), "local.sh": [str(LOCAL), "2"]}[how]
    given = flags(f"view-{how}", "--epochs", 40, "--save-every", 50)
    with Terminal([*command, *given], site) as terminal:
        terminal.until(lambda: shows_view(terminal))
        assert re.search(r"epoch \d+ of 40, step ", terminal.text)  # a quick run may be past the first
        terminal.until(lambda: "checkpoint after step" in terminal.text and "best so far: epoch" in terminal.text)
        if how != "alone":
            terminal.until(lambda: "2 ranks: " in terminal.text)
        assert not re.search(r"epoch \d+/\d+ step ", terminal.text)  # no plain lines of progress above it
        os.write(terminal.main, b"\x03")
        code = terminal.finish()
        assert "images/s now" not in terminal.text, terminal.text  # it is gone, the lines above it stay
        assert "validation top-1" in terminal.text
        assert not terminal.screen.cursor.hidden
        assert termios.tcgetattr(terminal.other) == terminal.before
        if how == "local.sh":
            assert code == 75
            assert "stopped by a signal after step" in terminal.text
            assert latest_step(site / "view-local.sh") > 0
    assert "images/s  ETA" in (site / f"view-{how}" / "train.log").read_text()


def test_a_killed_view_leaves_the_cursor(site):
    with Terminal([*TRAIN, *flags("killed", "--epochs", 40)], site) as terminal:
        terminal.until(lambda: shows_view(terminal))
        terminal.process.send_signal(signal.SIGKILL)
        terminal.finish()
        assert not terminal.screen.cursor.hidden
        assert termios.tcgetattr(terminal.other) == terminal.before


@pytest.mark.parametrize(("mode", "kind"), [("plain", "xterm"), ("none", "xterm"), ("auto", "dumb"), ("live", "dumb")])
def test_no_view(site, mode, kind):
    name = f"lines-{mode}-{kind}"
    with Terminal([*through_mpirun(2), *flags(name, "--epochs", 1, "--progress", mode)], site, kind) as terminal:
        assert terminal.finish() == 0
        text = terminal.text
    assert b"images/s now" not in terminal.written  # nor was it there before the end
    assert ("step 100/100" in text) == (mode != "none")
    assert ("no terminal can be found" in text) == (mode == "live")
    assert "epoch 1/1  train loss" in text


def test_lines_without_a_terminal_are_few_and_short(site):
    """Not one every few steps: by time."""
    job = train(2, flags("few", "--epochs", 2), site).ok()
    progress = [line for line in job.out.splitlines() if line.startswith(("epoch", "validating"))]
    # At each epoch's end, and 5 seconds or more after the one before.
    assert len([line for line in progress if " step " in line]) <= 2 + (job.ended - job.began) / 5
    assert [line for line in progress if line.startswith("epoch")][-3].startswith("epoch 2/2 step 100/100  loss ")
    assert max(map(len, progress)) <= 80
    assert "\x1b" not in job.out + job.err
    assert len(rows(site / "few", "steps")) == 200
    often = alone([*TRAIN, *flags("often", "--epochs", 1, "--print-freq", 10)], site).ok()
    assert often.out.count("epoch 1/1 step ") == 10
