"""The lists, and the run that nobody disturbs."""

import pytest
from launcher import steps, train
from two_ranks import EPOCH, EPOCHS, IMAGES, flags


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    """A folder with lists; relative paths in FLAGS start here."""
    folder = tmp_path_factory.mktemp("resume")
    pictures.write_list(folder / "train.list", IMAGES)
    (folder / "val.list").write_text(f"3 {pictures.files[0][1]}\n")
    return folder


@pytest.fixture(scope="module")
def whole(site):
    """The folder of a run of 2 ranks that nobody disturbs."""
    train(2, flags("whole"), site).ok()
    losses, rates = steps(site / "whole"), steps(site / "whole", "lr")
    assert list(losses) == list(range(1, EPOCHS * EPOCH + 1))
    # What follows can show a lost plateau only if the rate falls both before and after the third epoch.
    assert rates[2 * EPOCH] > rates[2 * EPOCH + 1] > rates[3 * EPOCH + 1]
    return site / "whole"


@pytest.fixture(scope="module")
def steep(site):
    """A run whose errors are all equal, and whose loss is lowest after the second of its epochs."""
    train(2, flags("steep", "--lr", 0.01), site).ok()
    return site / "steep"
