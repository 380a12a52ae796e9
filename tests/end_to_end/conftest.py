"""What the end-to-end tests share: images to train on."""

from contextlib import ExitStack

import pytest
from hosts import Impossible, connected_hosts
from toy_images import Pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Not to be changed."""
    return Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Three of them, each module's own; a job that wants fewer uses the first ones."""
    with ExitStack() as stack:
        try:
            hosts = stack.enter_context(connected_hosts(tmp_path_factory.mktemp("etc"), 3))
        except Impossible as error:
            pytest.skip(
                f"only hosts with a network between them show this, and no namespaces can stand for them here: {error}"
            )
        yield hosts
