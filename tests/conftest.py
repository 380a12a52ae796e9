"""What tests share: workspaces full of rubbish, random numbers, and a logger that is put back."""

import logging
import signal

import numpy as np
import pytest

from alexnet_dist.support.workspace import Workspace


def pytest_configure():
    """Under nohup, or in the background of a shell, these are ignored; programs that tests start would inherit that, and a
    shell script can't undo it."""
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def dirty(workspace: Workspace) -> Workspace:
    """Fills all scratch memory that is allocated with NaN, so that a kernel which reads before it writes shows it."""
    for slot in workspace._slots:
        usable = slot[: slot.size // 4 * 4].view(np.float32)
        usable.fill(np.nan)
    return workspace


@pytest.fixture
def soil():
    """The function `dirty`."""
    return dirty


@pytest.fixture
def package_logger():
    """RunLog sets up the package's logger; tests after these find it as it was."""
    logger = logging.getLogger("alexnet_dist")
    before = logger.propagate, logger.level
    yield
    logger.propagate = before[0]
    logger.setLevel(before[1])
