"""Middleware that filters the requests to gradio by origin, route, size and number.

Gradio offers more than the page needs: it fetches URLs on request, serves files, allows pages on
other ports of this machine to read its responses, and accepts request bodies of any length. The
middleware rejects such requests before gradio receives them.
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
    "Referrer-Policy": "same-origin",  # no-referrer would also hide the page's own origin
    "Cross-Origin-Resource-Policy": "same-origin",
}
API = "/gradio_api"
UPLOAD_ROUTE = f"{API}/upload"
POST_ROUTES = re.compile(rf"{API}/(queue/join|upload|cancel|reset|run/[^/]+)/?")
"""Routes of the page's POST requests."""
BLOCKED = re.compile(
    rf"{API}/(file|proxy|dev|vibe|deep_link|openapi|stream|custom_component|runs|run-history"
    r"|profiling)|/(monitoring|login|logout|docs|redoc)(/|$)"
)
"""Other routes of gradio: files, proxies, tools for developers."""

MAX_BODY = 1 << 20
"""Maximum size of a request in bytes, except for uploads: ``max_upload`` plus FORM_OVERHEAD."""
FORM_OVERHEAD = 64 << 10
BODY_TIMEOUT = 60.0
"""Seconds in which a body has to arrive."""
MAX_DRAIN, DRAIN_TIMEOUT = 64 << 20, 5.0
"""Maximum number of bytes, and of seconds, for which a body that is too long is read."""
MAX_REQUESTS = 256
"""Maximum number of simultaneous requests; an open page has two."""
MAX_UPLOADS = 4
"""Maximum number of simultaneous uploads."""


class Guard:
    """ASGI middleware that filters requests.

    Args:
        app: the application.
        names: allowed names in ``Host``, from :func:`econ_pyro.ui.origins.loopback_names`.
        folder: folder of uploads.
        max_upload: maximum size of a file in bytes.
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
        """Forward or reject a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _respond(send, *refusal)
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
        refusal = origins.refusal(method, scope["scheme"], scope["headers"], self.names)
        if refusal is not None:
            return refusal
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"expected GET, HEAD or POST, got {method}"
        if BLOCKED.match(path) or (method == "POST" and not POST_ROUTES.fullmatch(path)):
            return 404, "expected a route of the page, got another one"
        if self.requests >= MAX_REQUESTS:
            return 503, f"expected at most {MAX_REQUESTS} simultaneous requests: try again later"
        return None

    async def _post(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/") != UPLOAD_ROUTE:
            await self._forward(scope, receive, send, MAX_BODY)
            return
        async with self.uploading:  # the bodies of other uploads are not read yet
            try:
                await self._forward(scope, receive, send, self.max_upload + FORM_OVERHEAD)
            finally:
                await asyncio.to_thread(self._clean_up)

    async def _forward(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, most: int
    ) -> None:
        """Read the body of a request, check it and forward the request."""
        try:
            body = await asyncio.wait_for(_body(scope, receive, most), BODY_TIMEOUT)
        except (asyncio.TimeoutError, TimeoutError):
            await _respond(
                send, 408, f"expected the whole request within {BODY_TIMEOUT:g} seconds"
            )
            return
        except _TooLarge:
            await _respond(
                send, 413, f"expected at most {most:,} bytes, got more", _drain(receive)
            )
            return
        if body is None:  # the client disconnected
            return
        if _parts(scope, body) > 1:
            await _respond(send, 413, "expected one file at a time, got several")
            return
        await self.app(scope, _replay(body, receive), _with_headers(send))

    def _clean_up(self) -> None:
        uploads.sweep(self.folder)
        malloc.trim()


class _TooLarge(Exception):
    """A body is too long."""


async def _body(scope: MutableMapping[str, Any], receive: Receive, most: int) -> bytes | None:
    """Read the body of a request; None if the client disconnects."""
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
    """Number of parts of a form; 0 without a boundary, which gradio rejects."""
    kind = next((value for key, value in scope["headers"] if key == b"content-type"), b"")
    found = re.search(rb'(?:^|;)\s*boundary="?([^";]+)', kind, re.I)
    return body.count(b"--" + found[1].strip()) - 1 if found else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receive the body once, then further messages, such as that the client disconnected."""
    rest = [body]

    async def replayed() -> Message:
        if rest:
            return {"type": "http.request", "body": rest.pop(), "more_body": False}
        return await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    """Add ``HEADERS`` to the response and remove headers that let other pages read it."""
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
    """Read the rest of a body for a while: clients read the response only after sending."""
    left, end = MAX_DRAIN, asyncio.get_running_loop().time() + DRAIN_TIMEOUT
    while left > 0:
        seconds = end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, seconds))
        except (asyncio.TimeoutError, TimeoutError):
            return
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
        left -= len(message.get("body", b""))


async def _respond(
    send: Send, status: int, text: str, rest: Awaitable[None] | None = None
) -> None:
    body = f"{text}\n".encode(errors="replace")
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # the rest of the body is not read
        ],
    }
    with suppress(OSError):
        await _with_headers(send)(start)
        await send({"type": "http.response.body", "body": body, "more_body": rest is not None})
        if rest is not None:
            await rest
            await send({"type": "http.response.body", "body": b""})
