"""What tests share: workspaces full of rubbish, and small networks."""

import numpy as np
import pytest

from alexnet_dist.support.workspace import Workspace


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
