"""alexnet-serve under load: slow clients beside fast ones, a full queue, requests that are computed together, and its end."""

import asyncio
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import detector
import pytest
from launcher import alone, assert_refused
from PIL import Image
from served import RED, SIZE, encoded, serving


def all_of(connection):
    """What comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(10_000), b"")).decode()


def connected(server):
    return closing(socket.create_connection(("127.0.0.1", server.port), timeout=60))


def test_a_slow_upload_delays_nobody_and_times_out(weights, picture):
    content = encoded(picture)
    with serving(weights, "--upload-seconds", 4) as server, connected(server) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content))
        slow.sendall(content[:20])
        for _ in range(5):  # while it is waiting for the rest
            assert server.ask(body=content)[0] == 200
        answer = all_of(slow)
        assert " 408 " in answer.splitlines()[0]
        assert "had not arrived after 4 seconds" in answer
        assert server.ask("GET", "/health")[2]["waiting"] == 0


def test_so_many_uploads_come_at_once():
    starlette = pytest.importorskip("starlette.requests", reason="the extra `serve` is not installed")
    from alexnet_dist.serving.uploads import Limits, Uploads

    async def read_two_of_one():
        uploads, rest = Uploads(Limits(uploads=1)), asyncio.Event()

        async def receive():
            await rest.wait()
            return {"type": "http.request", "body": b"all of it"}

        first, second = (starlette.Request({"type": "http", "headers": []}, receive) for _ in range(2))
        reading = asyncio.create_task(uploads.read(first))
        await asyncio.sleep(0)
        with pytest.raises(starlette.HTTPException) as refusal:
            await uploads.read(second)
        rest.set()
        return await reading, refusal.value, await uploads.read(second)

    first, refusal, again = asyncio.run(read_two_of_one())
    assert first == again == b"all of it"
    assert (refusal.status_code, refusal.headers) == (503, {"Retry-After": "1"})


def test_headers_that_never_end_are_not_waited_for(server):
    with connected(server) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
        assert slow.recv(1000) == b"", "the server closes the connection"


def test_a_client_that_goes_away(server, picture):
    content = encoded(picture)
    for sent in (b"", content[:100], content):
        with connected(server) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content))
            gone.sendall(sent)
    assert server.ask(body=content)[0] == 200
    server.job.until(lambda: server.ask("GET", "/health")[2]["waiting"] == 0, "nobody waits")
    assert "Traceback" not in server.job.err


def test_all_of_many_clients_get_their_own_answer(server):
    """Requests that are computed together, some with a map, aren't mixed up."""
    bodies = {name: encoded(detector.picture(SIZE, (name, *RED[1:]))) for name in detector.NAMES}

    def ask(number):
        name = detector.NAMES[number % 2]
        path = "/predict?explain=grad-cam" if number % 3 == 0 else "/predict"
        code, _, answer = server.ask(path=path, body=bodies[name])
        return code == 200 and answer["predictions"][0]["class"] == name and ("map" in answer) == (number % 3 == 0)

    with ThreadPoolExecutor(12) as clients:
        assert all(clients.map(ask, range(60)))


def test_a_full_queue_says_when_to_come_again(weights, picture):
    """While an image that takes long to decode has the only place."""
    large, small = encoded(Image.new("L", (9000, 9000)), compress_level=1), encoded(picture)
    with serving(weights, "--queue", 1) as server:

        def ask_long():
            while server.ask(body=large)[0] == 503:  # a small one was before it
                time.sleep(0.01)

        def refused_meanwhile():
            with ThreadPoolExecutor(1) as client:
                long, refused = client.submit(ask_long), []
                while not long.done():
                    code, headers, answer = server.ask(body=small)
                    refused += [(headers["retry-after"], answer["error"])] if code == 503 else []
                long.result()
                return refused

        refused = next(filter(None, (refused_meanwhile() for _ in range(5))), [])
        assert set(refused) == {("1", "Too many images are waiting. Try again in a second.")}
        assert server.ask(body=small)[0] == 200


def test_an_image_that_takes_long_delays_nobody(server, picture):
    """It is decoded by one of two threads; small ones are answered meanwhile."""
    large, small = encoded(Image.new("L", (9900, 9900)), compress_level=1), encoded(picture)

    def answered_meanwhile():
        with ThreadPoolExecutor(1) as client:
            long = client.submit(lambda: server.ask(body=large)[0])
            server.job.until(lambda: long.done() or server.ask("GET", "/health")[2]["waiting"] == 1, "it has come")
            assert server.ask(body=small)[0] == 200
            meanwhile = not long.done()
            assert long.result() == 200
            return meanwhile

    assert any(answered_meanwhile() for _ in range(5)), "small ones wait for the large one"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(weights, picture, number):
    with serving(weights) as server, connected(server) as idle, connected(server) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in idle.recv(10_000)
        server.job.signal(number)
        job = server.job.wait().ok()
        assert " 503 " in all_of(slow).splitlines()[0]
    assert job.out.splitlines()[-1] == "alexnet-serve: ended"
    assert "Traceback" not in job.err


def test_a_run_a_warning_and_mistakes(weights, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    program = ["alexnet_dist.serve", "--port", "0", "--load"]

    def refused(*flags):
        once = {"RES_OPTIONS": "timeout:1 attempts:1"}  # a name server that doesn't answer isn't asked for long
        return alone([sys.executable, "-m", *program, *flags], tmp_path, once)

    assert_refused(refused(run), "best.safetensors", program="alexnet-serve")
    assert_refused(refused(tmp_path / "gone"), "gone", program="alexnet-serve")
    (run / "best.safetensors").write_bytes(weights.read_bytes())
    with serving(run, "--host", "0.0.0.0") as server:
        assert f"{run} at http://0.0.0.0:{server.port}/" in server.job.out
        assert "listens beyond this machine, without password" in server.job.err
        assert server.ask("GET", "/health", headers={"Host": "our-server"})[0] == 200
        taken = refused(run, "--port", server.port)
        assert_refused(taken, "cannot listen", str(server.port), "Port 0", program="alexnet-serve")
    assert_refused(refused(run, "--host", "no.such.host.invalid"), "no.such.host", program="alexnet-serve")
    assert_refused(refused(run, "--queue", "0"), "--queue is 0", program="alexnet-serve")


def test_without_its_libraries(weights, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('No module named uvicorn', name='uvicorn')\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "alexnet_dist.serve", "--load", weights]
    job = alone(command, tmp_path, env)
    assert_refused(job, "uvicorn", "pip install 'alexnet_dist[serve]'", program="alexnet-serve")
    help_text = alone([sys.executable, "-m", "alexnet_dist.serve", "--help"], tmp_path, env).ok().out
    assert "--max-megabytes" in help_text
