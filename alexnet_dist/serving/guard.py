"""Who is answered at all, and what a browser may do with the answers."""

import asyncio
import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page is files of our own, and pictures that it or the answer hold; nothing is loaded from elsewhere, or framed there.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses what other sites' pages send from a person's browser, and puts HEADERS on each answer.

    With `loopback`, the Host header must name this machine: a page whose name somebody points to 127.0.0.1 (DNS
    rebinding) would otherwise pass for ours.
    """

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        try:
            await (refusal or self._app)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # after Ctrl-C, what has not ended in time
            if not started:
                await JSONResponse({"error": "The server ends."}, 503)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and not is_loopback(_name(host)):
            text = f"This server answers to localhost and 127.0.0.1 only, not to {host!r}. See alexnet-serve --host."
            return JSONResponse({"error": text}, 400)
        if origin is not None and origin.partition("://")[2] != host:
            return JSONResponse({"error": f"Pages of other sites ({origin}) may not use this server."}, 403)
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def _name(host: str) -> str:
    """A Host header's name, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half of an IPv6 address
        return ""


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers[name] = value
