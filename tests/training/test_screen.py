"""Lines of progress fit a terminal and come by time; the live view is drawn from what it was told."""

import fcntl
import logging
import os
import pty
import select
import struct
import termios
import time
from dataclasses import replace

import pyte
import pytest

from alexnet_dist.runs.log import RunLog
from alexnet_dist.support.plural import plural, share
from alexnet_dist.training import live, pace
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.evaluation import Evaluation
from alexnet_dist.training.live import LiveScreen
from alexnet_dist.training.pace import Pace
from alexnet_dist.training.progress import Progress, Sums
from alexnet_dist.training.report import Report, Validation
from alexnet_dist.training.screen import PROGRESS, WIDTH, Place, Screen, Speed, Status

SMALL = Status(Place(3, 9, 12, 39), {"loss": 2.30312, "top1": 0.1234}, 0.01, Speed(75.64, 74.2, 7620))
LARGE = Status(
    Place(12, 90, 10000, 10009), {"loss": 6.9, "top1": 0.123, "top5": 0.4}, 0.00123, Speed(1234.5, 1200.0, 43620)
)


def test_lines_of_progress_fit_a_terminal():
    assert str(SMALL) == "epoch 3/9 step 12/39  loss 2.303  top-1 12.3%  lr 0.01  75.6 images/s  ETA 2h07m"
    assert str(LARGE) == "epoch 12/90 step 10000/10009  loss 6.900  top-1 12.3%  1234 images/s  ETA 12h07m"
    assert max(len(str(SMALL)), len(str(LARGE))) <= WIDTH


def test_results_of_an_epoch_fit_a_terminal_with_their_counts():
    few = Validation(Evaluation(Sums(89.5, 175, 178, 179), (), classes=10), seconds=3, best=False)
    start = "epoch 10/10  "
    words = "validation top-1 97.77% (175 of 179)  top-5 99.44%  loss 0.5000  3s"
    assert few.told(WIDTH - len(start)) == words
    assert len(start + words) == WIDTH
    best = replace(few, best=True)
    assert best.told(WIDTH - len(start)) == "val top-1 97.77% (175 of 179)  top-5 99.44%  loss 0.5000  best"
    imagenet = Validation(Evaluation(Sums(95000, 28261, 39533, 50000), (), classes=1000), seconds=125, best=True)
    words = imagenet.told(WIDTH - len(start))
    assert words == "val top-1 56.52% (28261 of 50000)  top-5 79.07%  loss 1.9000  best"
    assert len(start + words) <= WIDTH


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(("seconds", "lines"), [(0.01, 1), (0.2, 4), (1, 10), (30, 10), (100, 34)])
def test_lines_come_by_time(monkeypatch, seconds, lines):
    """Of an epoch of 100 steps of so many seconds: not dozens, not none, and one in five minutes at least."""
    clock, run = Clock(monkeypatch), Pace(None)
    told = []
    for step in range(1, 101):
        clock.now += seconds
        run.step(8, 0)
        told += [step] * run.due(step, 100)
    assert len(told) == lines
    assert told[-1] == 100


def test_lines_by_steps(monkeypatch):
    clock, run, told = Clock(monkeypatch), Pace(30), []
    for step in range(1, 101):
        clock.now += 1000
        run.step(8, 0)
        told += [step] * run.due(step, 100)
    assert told == [30, 60, 90, 100]


def test_speeds_and_what_is_left(monkeypatch):
    clock, run = Clock(monkeypatch), Pace(None)
    for _ in range(20):
        clock.now += 2
        run.step(10, 0)
    assert run.mean == run.now == run.of_epoch == 5
    for _ in range(20):
        clock.now += 1
        run.step(10, 0)
    assert run.now == 10
    assert run.mean == pytest.approx(400 / 60)
    run.validation = 7.0
    assert run.left(1000, 3) == 100 + 21
    clock.now += 1000  # validation
    run.start_epoch()
    assert run.of_epoch is None
    clock.now += 1
    run.step(10, 0)
    assert (run.now, run.of_epoch) == (10, 10)
    assert run.mean == pytest.approx(410 / 61)


def test_a_validation_is_counted_before_there_was_one(monkeypatch):
    """It takes as long as training's forward pass does for as many images, on all ranks together."""
    clock, run = Clock(monkeypatch), Pace(None, validated=50)
    for _ in range(3):
        clock.now += 2
        run.step(10, 0.5)
    assert run.left(0, 1) == pytest.approx(50 * 0.5 / 10)
    run.validation = 0.1
    assert run.left(0, 2) == pytest.approx(0.2)


def test_after_the_last_step_there_is_still_a_validation(tmp_path, package_logger):
    class Shown(Screen):
        def step(self, status):
            self.left = status.speed.left

    screen, config = Shown(), TrainingConfig(epochs=1)
    report = Report(RunLog(tmp_path, enabled=False), config, 8, 10, screen, validated=50)
    seconds = {"data": 0.25, "forward": 0.75, "backward": 2.0}
    report.step(Progress(step=5, step_in_epoch=5), Sums(images=8), 0.1, seconds, steps=5)
    assert screen.left == pytest.approx(50 * 1.0 / 8)


def test_numbers_of_things():
    assert (plural(1, "rank"), plural(2, "rank"), plural(2, "class", "classes")) == ("1 rank", "2 ranks", "2 classes")
    assert share(128, 3, "image") == "42 or 43 images"
    assert share(4, 4, "image") == "1 image"
    assert share(1, 2, "image") == "0 or 1 image"


@pytest.mark.parametrize("progress", [True, False])
def test_progress_can_be_left_out(progress, capsys):
    log = logging.getLogger("a test of lines")
    log.addHandler(Screen(progress).handler)
    log.warning("in any case")
    log.warning("how far", extra=PROGRESS)
    assert capsys.readouterr().out == "in any case\n" + "how far\n" * progress


class Terminal:
    """A terminal with a LiveScreen."""

    def __init__(self, columns):
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen = pyte.Screen(columns, 24)
        self.live = LiveScreen(os.fdopen(other, "w"))

    def vanish(self):
        """Its window is closed."""
        os.close(self._main)

    def shows(self, *words):
        """Whether it shows all of these before long."""
        stream, end = pyte.ByteStream(self.screen), time.monotonic() + 10
        while time.monotonic() < end:
            if select.select([self._main], [], [], 0.05)[0]:
                try:
                    stream.feed(os.read(self._main, 65536))
                except OSError:  # the view has left it
                    break
            if all(word in "\n".join(self.screen.display) for word in words):
                return True
        return False


def test_the_view_shows_what_it_was_told():
    terminal = Terminal(80)
    view = terminal.live
    view.row("epochs", {"epoch": 2, "best": True, "val_top1": 0.5})
    view.row("epochs", {"epoch": 3, "best": False, "val_top1": 0.4})
    for rank, work in enumerate((1.0, 3.0)):
        view.row("ranks", {"epoch": 2, "rank": rank, **dict.fromkeys(SECONDS, work)})
    view.row("events", {"event": "checkpoint", "step": 17})
    view.step(LARGE)
    assert terminal.shows(
        "epoch 12 of 90, step 10000 of 10009",
        "loss 6.9000  top-1 12.3%  top-5 40.0%  lr 0.00123",
        "1234.5 images/s now, 1200.0 on average  ETA 12h07m",
        "best so far: epoch 2, validation top-1 50.00%",
        "2 ranks: 4.0 to 12.0 s of work, rank 1 the most",
        "checkpoint after step 17",
    )
    view.between_steps("validating", 5, 60)
    assert terminal.shows("validating 5 of 60")
    view.close()
    view.close()  # as often as one likes
    assert not terminal.shows("images/s")
    assert not terminal.screen.cursor.hidden


def test_ranks_that_the_view_can_not_tell_apart():
    terminal = Terminal(80)
    for rank, work in enumerate((1.0, 1.001)):
        terminal.live.row("ranks", {"epoch": 2, "rank": rank, **dict.fromkeys(SECONDS, work)})
    terminal.live.step(SMALL)
    assert terminal.shows("2 ranks: 4.0 s of work each")
    terminal.live.close()


def test_a_run_that_begins_with_its_validation():
    """As one does that was stopped in it."""
    terminal = Terminal(80)
    terminal.live.between_steps("validating", 5, 60)
    assert terminal.shows("validating 5 of 60")
    terminal.live.close()


SECONDS = ("seconds_data", "seconds_forward", "seconds_backward", "seconds_update")


def test_a_terminal_that_is_gone_does_not_end_the_run(capfd, monkeypatch):
    monkeypatch.setattr(live, "REFRESHES", 20)
    terminal = Terminal(80)
    logger = logging.getLogger("a test of a window that is closed")
    logger.addHandler(terminal.live.handler)
    terminal.live.step(SMALL)
    assert terminal.shows("images/s now")
    terminal.vanish()
    for _ in range(3):
        terminal.live.step(SMALL)
        logger.warning("something")
        time.sleep(0.15)  # a refresh
    terminal.live.close()
    assert capfd.readouterr() == ("", "")


def test_the_log_scrolls_by_above_the_view():
    terminal = Terminal(80)
    log = logging.getLogger("a test of the view")
    log.addHandler(terminal.live.handler)
    terminal.live.step(SMALL)
    log.warning("[red]not markup[/red]")
    log.warning("how far", extra=PROGRESS)
    assert terminal.shows("[red]not markup[/red]", "images/s now")
    lines = [line.rstrip() for line in terminal.screen.display]
    assert lines.index("[red]not markup[/red]") < next(n for n, line in enumerate(lines) if "images/s now" in line)
    assert "how far" not in lines
    terminal.live.close()
