"""Server of the page, by default only for this machine.

Gradio's pages refer to fonts and scripts on other hosts, and its routes can serve files. A content
security policy keeps browsers from loading anything from other hosts, and the middleware
:mod:`econ_pyro.ui.guard` filters all requests.
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
"""Maximum number of events of all visitors that wait for the model."""
MAX_SESSIONS = 100
"""Maximum number of pages whose scenes are kept, about 200 kB each."""


def gradio() -> Any:
    """Import gradio, configured not to contact other hosts.

    Raises:
        EconError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise EconError(
            "the package gradio", "none installed", "pip install 'econ-pyro[ui]'"
        ) from error
    return gradio


def check_address(host: str, port: int | None) -> None:
    """Check the address of the server before the model is loaded.

    Raises:
        EconError: the host is not an address of this machine, or the port is invalid or in use.
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
        "none that is available",
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
        page: the page.
        uploads: folder from :func:`econ_pyro.ui.uploads.folder`.
        host: address to bind; a loopback address can only be reached from this machine.
        port: port; the first free one from 7860 if not given.
        css: style sheet of the page.

    Returns:
        The address of the page.

    Raises:
        EconError: as :func:`check_address`.
    """
    import gradio as gr
    from gradio.exceptions import ServerFailedToStartError

    check_address(host, port)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # as in URLs

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        # gradio places its own origin rules before custom middleware; this runs before the first
        # request
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
