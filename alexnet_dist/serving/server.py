"""The socket and uvicorn: who is listened to, for how long, and how it ends."""

import asyncio
import signal
import socket
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from alexnet_dist.errors import UserError

HEADER_SECONDS = 5.0  # in which a request's headers must be complete
IDLE_SECONDS = 5  # that a connection may wait for its next request
ENDING_SECONDS = 3  # that requests have to end after Ctrl-C
CONNECTIONS = 250  # beyond them, requests are refused: a process may have 1024 files open as a rule


class Timely(H11Protocol):
    """Closes connections whose request's headers don't come: without end, somebody could keep all of them open."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As H11Protocol's."""
        super().connection_made(cast(asyncio.Transport, transport))  # a connection's is one that can be written to
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """As H11Protocol's."""
        super().data_received(data)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """As H11Protocol's."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # they are there
            self._stop_waiting()
        elif self._due is None:
            self._due = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one. Raises UserError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at --host {host} --port {port}: {reason}. Port 0 takes a free one") from error


def run(app: ASGIApp, listening: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM; requests that have begun then have ENDING_SECONDS."""
    config = uvicorn.Config(
        app,
        http=Timely,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=ENDING_SECONDS,
    )
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # For a signal before uvicorn listens to them. And it repeats those it has heard, when it has ended, to the handlers that
    # were there before it, which would then end this process as if it had not ended by itself.
    before: dict[int, Any] = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
