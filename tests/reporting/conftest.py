"""What the tests of reports share: runs' folders, not to be changed, and the page of one of them."""

from pathlib import Path

import pytest
from run_folder import make_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of the same images, with other learning rates: the first one's falls, at once."""
    home = tmp_path_factory.mktemp("reported")
    return [make_run(home / "first"), make_run(home / "second", lr=0.05, scheduler="cosine")]
