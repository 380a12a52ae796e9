"""The server that most tests of alexnet-serve ask, with the detector of red and green squares."""

import detector
import pytest
from served import RED, SIZE, serving


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return detector.save(tmp_path_factory.mktemp("serving") / "net.safetensors")


@pytest.fixture(scope="session")
def server(weights):
    with serving(weights, "--max-megabytes", 1) as server:
        yield server


@pytest.fixture(scope="session")
def picture():
    return detector.picture(SIZE, RED)
