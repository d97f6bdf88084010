"""Whose requests the page answers: its own, and those of programs that are no browsers.

A browser lets any page of any site, and of any other port of this machine, send requests here. It
says which page did: in ``Origin``, or else ``Sec-Fetch-Site`` or ``Referer``. What another page
asks for is refused, but for a link that is followed to us. The page is known by its ``Host``,
which a page elsewhere could have only if its name led here (DNS rebinding): so on a loopback
address, ``Host`` must be that address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in small letters."""
_PORTS = {"http": 80, "https": 443}
_READING = ("GET", "HEAD")


def loopback_names(host: str) -> frozenset[str] | None:
    """Names by which a page is reached that is served at ``host``; None if by any.

    Args:
        host: an address or a name, that the server binds.
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
    """Why a request is not answered.

    Args:
        method: in capitals.
        scheme: by which it came, http or https.
        headers: of the request.
        names: that ``Host`` may have, :func:`loopback_names`; None for any.

    Returns:
        An HTTP status and a line of words; None if it is to be answered.
    """
    hosts = _all(headers, b"host")
    own = _origin(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None
    if own is None or (names is not None and own[1] not in names):
        return 400, f"expected the address that was printed, got {hosts[0] if hosts else 'none'}"
    other = _sender(method, headers, own)
    if other is None:
        return None
    port = "" if own[2] == _PORTS[own[0]] else f":{own[2]}"
    name = f"[{own[1]}]" if ":" in own[1] else own[1]
    return 403, f"expected a request of {own[0]}://{name}{port}, got one of {other}"


def _sender(method: str, headers: Headers, own: tuple[str, str, int]) -> str | None:
    """The page that sent the request, in words; None if it is ours, or none."""
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
    """Scheme, host and port of an origin, or of the address of a page; None if it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _PORTS or not host or "@" in parts.netloc or not host.isascii():
        return None
    if not page and text.lower() != f"{scheme}://{parts.netloc.lower()}":  # a path, a blank
        return None
    return scheme, host, _PORTS[scheme] if port is None else port
