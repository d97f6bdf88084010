"""What stands before gradio's routes: whose requests come through, which, how large, how many.

Gradio answers to more than the page needs: it fetches addresses for whoever asks, serves files,
allows other ports of this machine to read its answers, and takes a body of any length. All of
that ends here, before gradio sees a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from econ_pyro.accel import malloc
from econ_pyro.ui import origins, uploads

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would have browsers hide our own origin, too
    "Cross-Origin-Resource-Policy": "same-origin",
}
API = "/gradio_api"
UPLOAD = f"{API}/upload"
POSTS = re.compile(rf"{API}/(queue/join|upload|cancel|reset|run/[^/]+)/?")
"""What the page sends."""
CLOSED = re.compile(
    rf"{API}/(file|proxy|dev|vibe|deep_link|openapi|stream|custom_component|runs|run-history"
    r"|profiling)|/(monitoring|login|logout|docs|redoc)(/|$)"
)
"""What gradio has beside: files, addresses elsewhere, its tools for developers."""

MAX_BODY = 1 << 20
"""Bytes of a request; of an upload, ``max_upload`` and as much as its form may add."""
FORM = 64 << 10
BODY_TIMEOUT = 60.0
"""For a body to arrive."""
MAX_DRAINED, DRAINING = 64 << 20, 5.0
"""Bytes and seconds that are read on of a body that is too long."""
MAX_REQUESTS = 256
"""At a time; an open page has two."""
MAX_UPLOADS = 4
"""At a time."""


class Guard:
    """An ASGI application before another one.

    Args:
        app: the other one.
        names: that ``Host`` may have, :func:`econ_pyro.ui.origins.loopback_names`.
        folder: where uploads lie.
        max_upload: bytes of a file.
    """

    def __init__(
        self, app: App, names: Collection[str] | None, folder: Path, max_upload: int
    ) -> None:
        self.app, self.names, self.folder = app, names, folder
        self.max_upload = max_upload
        self.requests = 0
        self.uploading = asyncio.Semaphore(MAX_UPLOADS)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refusal(scope)
        if refused is not None:
            await _answer(send, *refused)
            return
        self.requests += 1
        try:
            if scope["method"] == "POST":
                await self._post(scope, receive, send)
            else:
                await self.app(scope, receive, _with_headers(send))
        finally:
            self.requests -= 1

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        method, path = scope["method"], scope["path"]
        refused = origins.refusal(method, scope["scheme"], scope["headers"], self.names)
        if refused is not None:
            return refused
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"expected GET, HEAD or POST, got {method}"
        if CLOSED.match(path) or (method == "POST" and not POSTS.fullmatch(path)):
            return 404, "expected a part of the page, got the address of none"
        if self.requests >= MAX_REQUESTS:
            return 503, f"expected at most {MAX_REQUESTS} requests at a time: try again later"
        return None

    async def _post(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/") != UPLOAD:
            await self._whole(scope, receive, send, MAX_BODY)
            return
        async with self.uploading:  # the others wait, unread
            try:
                await self._whole(scope, receive, send, self.max_upload + FORM)
            finally:
                await asyncio.to_thread(self._tidy)

    async def _whole(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, most: int
    ) -> None:
        """Have a request answered whose body is here and no longer than it may be."""
        try:
            body = await asyncio.wait_for(_body(scope, receive, most), BODY_TIMEOUT)
        except (asyncio.TimeoutError, TimeoutError):
            await _answer(send, 408, f"expected all of it within {BODY_TIMEOUT:g} seconds")
            return
        except _TooLarge:
            await _answer(send, 413, f"expected at most {most:,} bytes, got more", _drain(receive))
            return
        if body is None:  # the visitor has gone
            return
        if _parts(scope, body) > 1:
            await _answer(send, 413, "expected one file at a time, got several")
            return
        await self.app(scope, _replay(body, receive), _with_headers(send))

    def _tidy(self) -> None:
        uploads.sweep(self.folder)
        malloc.trim()


class _TooLarge(Exception):
    """A body has more bytes than it may."""


async def _body(scope: MutableMapping[str, Any], receive: Receive, most: int) -> bytes | None:
    """All of a request's body; None if the client went away."""
    for key, value in scope["headers"]:
        if key == b"content-length" and (not value.isdigit() or int(value[:20]) > most):
            raise _TooLarge
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise _TooLarge
        if not message.get("more_body"):
            return bytes(body)


def _parts(scope: MutableMapping[str, Any], body: bytes) -> int:
    """Parts of a form; 0 if it has no boundary, which gradio refuses."""
    kind = next((value for key, value in scope["headers"] if key == b"content-type"), b"")
    found = re.search(rb'(?:^|;)\s*boundary="?([^";]+)', kind, re.I)
    return body.count(b"--" + found[1].strip()) - 1 if found else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then what else comes: that the client has gone."""
    rest = [body]

    async def replayed() -> Message:
        if rest:
            return {"type": "http.request", "body": rest.pop(), "more_body": False}
        return await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    """Add ``HEADERS`` to the answer, and let no other page read it."""
    added = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [h for h in message.get("headers", []) if not _is_replaced(h[0])]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sent


def _is_replaced(name: bytes) -> bool:
    name = name.lower()
    return name.startswith(b"access-control-") or name.decode() in {k.lower() for k in HEADERS}


async def _drain(receive: Receive) -> None:
    """Read on for a while: a client that still sends has no eye for the answer."""
    left, end = MAX_DRAINED, asyncio.get_running_loop().time() + DRAINING
    while left > 0:
        seconds = end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, seconds))
        except (asyncio.TimeoutError, TimeoutError):
            return
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
        left -= len(message.get("body", b""))


async def _answer(
    send: Send, status: int, words: str, rest: Awaitable[None] | None = None
) -> None:
    body = f"{words}\n".encode(errors="replace")
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # what is left of the body is not read
        ],
    }
    with suppress(OSError):
        await _with_headers(send)(start)
        await send({"type": "http.response.body", "body": body, "more_body": rest is not None})
        if rest is not None:
            await rest
            await send({"type": "http.response.body", "body": b""})
