"""Serving the page to one machine: loopback, no files, no network.

Gradio's pages name fonts and scripts of other hosts, and its routes can serve files. The browser
is told to load nothing from elsewhere, and :mod:`econ_pyro.ui.guard` stands before all routes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from econ_pyro.errors import EconError, check_range
from econ_pyro.ui import origins
from econ_pyro.ui.guard import Guard
from econ_pyro.ui.scene_edits import MAX_BYTES

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = "127.0.0.1"
MAX_QUEUE = 64
"""Events that wait for the model, of all visitors together."""
MAX_SESSIONS = 100
"""Pages whose scenes are kept: some 200 kB each. Who comes back later begins anew."""


def gradio() -> Any:
    """The module, set to phone nowhere.

    Raises:
        EconError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise EconError(
            "gradio, for the page", "a Python without it", "pip install 'econ-pyro[ui]'"
        ) from error
    return gradio


def check_address(host: str, port: int | None) -> None:
    """Check where to serve, before anything is loaded.

    Raises:
        EconError: the host is no address of this machine, or the port is none or taken.
    """
    if port is not None:
        check_range("--port", port, 1, 65535)
    what = "an address of this machine for --host"
    try:
        known = socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        known = []
    if not host or not known:
        raise EconError(what, repr(host), f"try {LOOPBACK}, or 0.0.0.0 for all machines")
    family, kind, protocol, _, address = known[0]
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            _no_port(host, port, error)
        got = f"{host} ({error.strerror})"
        raise EconError(what, got, f"try {LOOPBACK}, or 0.0.0.0 for all machines") from None


def _no_port(host: str, port: int | None, error: Exception) -> NoReturn:
    raise EconError(
        f"a free port{'' if port is None else f' {port}'} on {host}",
        "none that can be listened at",
        "choose another with --port",
    ) from error


def serve(
    page: gr.Blocks,
    uploads: Path,
    host: str = LOOPBACK,
    port: int | None = None,
    css: str = "",
) -> str:
    """Serve a page from threads of this process until ``page.close()``.

    Args:
        page: to serve.
        uploads: folder of :func:`econ_pyro.ui.uploads.folder`.
        host: address to bind; loopback is reached from this machine alone.
        port: to listen at; the first free one from 7860 on if not given.
        css: style of the page.

    Returns:
        Its address.

    Raises:
        EconError: as :func:`check_address`.
    """
    import gradio as gr
    from gradio.exceptions import ServerFailedToStartError

    check_address(host, port)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # as in an address

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        # gradio puts its own rules of origins before any middleware that it is given; this runs
        # before the first request
        names = origins.loopback_names(host)
        app.middleware_stack = Guard(app.middleware_stack, names, uploads, MAX_BYTES)
        yield

    page.queue(max_size=MAX_QUEUE)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            max_file_size=MAX_BYTES,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            state_session_capacity=MAX_SESSIONS,
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=css,
            app_kwargs={"lifespan": guarded, "openapi_url": None},
        )
    except (OSError, ServerFailedToStartError) as error:
        _no_port(host, port, error)
    return address
