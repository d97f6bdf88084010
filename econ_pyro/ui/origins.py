"""Origin checks: the page only accepts its own requests and those of programs without a browser.

Browsers let any page, including pages on other ports of this machine, send requests to the server.
They name the sending page in ``Origin``, or else in ``Sec-Fetch-Site`` or ``Referer``. Requests of
other pages are rejected, except links to the page. The page's own origin is taken from ``Host``.
A page of another host could have the same ``Host`` if its name resolves to this machine (DNS
rebinding), so a server on a loopback address only accepts a loopback name as ``Host``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

Headers = Sequence[tuple[bytes, bytes]]
"""Headers as in ASGI, with names in lower case."""
_PORTS = {"http": 80, "https": 443}
_READING = ("GET", "HEAD")


def loopback_names(host: str) -> frozenset[str] | None:
    """Allowed names in ``Host`` for a server at ``host``; None if all are allowed.

    Args:
        host: address or name to which the server is bound.
    """
    bare = host.strip("[]").lower()
    try:
        local = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        local = bare == "localhost"
    return frozenset({bare, "localhost", "127.0.0.1", "::1"}) if local else None


def refusal(
    method: str, scheme: str, headers: Headers, names: Collection[str] | None
) -> tuple[int, str] | None:
    """Reason to reject a request.

    Args:
        method: HTTP method, in upper case.
        scheme: http or https.
        headers: headers of the request.
        names: allowed names in ``Host``, from :func:`loopback_names`; None if all are allowed.

    Returns:
        HTTP status and message; None if the request is accepted.
    """
    hosts = _all(headers, b"host")
    own = _origin(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None
    if own is None or (names is not None and own[1] not in names):
        return 400, f"expected the printed address, got {hosts[0] if hosts else 'none'}"
    other = _sender(method, headers, own)
    if other is None:
        return None
    port = "" if own[2] == _PORTS[own[0]] else f":{own[2]}"
    name = f"[{own[1]}]" if ":" in own[1] else own[1]
    return 403, f"expected a request from {own[0]}://{name}{port}, got one from {other}"


def _sender(method: str, headers: Headers, own: tuple[str, str, int]) -> str | None:
    """Description of another page that sent the request; None if there is none."""
    origins = _all(headers, b"origin")
    if origins:
        right = len(origins) == 1 and _origin(origins[0]) == own
        return None if right else ", ".join(origins)[:200]
    site = (_all(headers, b"sec-fetch-site") or [""])[-1].lower()
    if site not in ("", "same-origin", "none"):
        followed = _all(headers, b"sec-fetch-mode") == ["navigate"]
        framed = _all(headers, b"sec-fetch-dest") not in ([], ["document"])
        return None if method in _READING and followed and not framed else f"another page ({site})"
    referers = _all(headers, b"referer")
    if method not in _READING and referers and not site:
        right = len(referers) == 1 and _origin(referers[0], page=True) == own
        return None if right else ", ".join(referers)[:200]
    return None


def _all(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _origin(text: str, page: bool = False) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin, or of the URL of a page; None if it is invalid."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _PORTS or not host or "@" in parts.netloc or not host.isascii():
        return None
    if not page and text.lower() != f"{scheme}://{parts.netloc.lower()}":  # with a path or a space
        return None
    return scheme, host, _PORTS[scheme] if port is None else port
