"""What the tests of alexnet-serve share: the program itself, with the detector of red and green squares, at a free port."""

import re
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from io import BytesIO
from json import loads

import pytest
from launcher import Job

SIZE = (300, 200)
RED = ("red", 130, 70)  # its middle is at (146, 86)


class Server:
    """A server that runs; `ask` sends one request on a connection of its own."""

    def __init__(self, job, port):
        self.job, self.port = job, port

    def ask(self, method="POST", path="/predict", body=None, headers=()):
        """The status, the headers, and the JSON or bytes of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
            json = response.getheader("content-type", "").startswith("application/json")
            return response.status, response.headers, loads(content) if json else content
        finally:
            connection.close()


@contextmanager
def serving(weights, *flags):
    """alexnet-serve at a free port."""
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    command = [sys.executable, "-m", "alexnet_dist.serve", "--load", str(weights), "--port", "0", "--threads", "2"]
    with Job([*command, *map(str, flags)], weights.parent) as job:
        job.until(lambda: "http://" in job.out, "it says where it is")
        yield Server(job, int(re.search(r"http://\S+:(\d+)/", job.out)[1]))


def encoded(picture, kind="PNG", **options):
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
