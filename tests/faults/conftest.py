"""The images that the runs train on."""

import pytest
from toy_images import Pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Not to be changed."""
    return Pictures(tmp_path_factory.mktemp("pictures"))
