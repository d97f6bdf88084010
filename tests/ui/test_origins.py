"""Whose requests are answered: headers as browsers send them, and as they are forged."""

import pytest

from econ_pyro.ui.origins import loopback_names, refusal

HERE = "http://127.0.0.1:7860"
LOCAL = loopback_names("127.0.0.1")


def status(method="POST", names=LOCAL, scheme="http", **headers):
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    if "host" not in headers:
        pairs.append((b"host", b"127.0.0.1:7860"))
    found = refusal(method, scheme, pairs, names)
    return 200 if found is None else found[0]


@pytest.mark.parametrize(
    "headers",
    [
        {},  # no browser
        {"origin": HERE},
        {"origin": "HTTP://127.0.0.1:7860"},
        {"origin": HERE, "sec_fetch_site": "same-origin", "referer": f"{HERE}/"},
        {"host": "localhost:7860", "origin": "http://localhost:7860"},
        {"host": "LOCALHOST:9999", "origin": "http://localhost:9999"},  # a forwarded port
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
        {"host": "127.0.0.1", "origin": "http://127.0.0.1:80"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"referer": f"{HERE}/?a=b"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_page_itself_and_programs(headers, method):
    assert status(method, **headers) == 200


OTHERS = [
    "http://evil.example", "https://127.0.0.1:7860", "http://127.0.0.1:7861", "http://127.0.0.1",
    "http://localhost:7860", "http://localhost:3000", "http://127.0.0.1.:7860", "null", "file://",
    "http://[::1]:7860", "http://127.0.0.1:7860.evil.example", "http://127.0.0.1:7860@evil.example",
    "http://evil.example/http://127.0.0.1:7860", f"{HERE}/", f"{HERE} http://evil.example", "",
    "http://0.0.0.0:7860", "http://127.1:7860", "http://127.0.0.1:99999", "chrome-extension://abc",
    "http://user@127.0.0.1:7860", "http://127.0.0.1:7860#", "http://127.0.0.1:7860\t",
    "http://１２7.0.0.1:7860",
]  # fmt: skip


@pytest.mark.parametrize("origin", OTHERS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT"])
def test_other_pages(method, origin):
    expected = 200 if origin.endswith("\t") else 403  # blanks around a value are no part of it
    assert status(method, origin=origin) == expected
    assert status(method, origin=origin, sec_fetch_site="same-origin", referer=HERE) == expected


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "odd"])
def test_what_browsers_say_where_there_is_no_origin(site):
    assert status("POST", sec_fetch_site=site) == 403
    assert status("GET", sec_fetch_site=site) == 403  # a picture or script in another page
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert status("GET", **link) == 200  # a link that somebody follows
    assert status("POST", **link) == 403  # a form
    assert status("GET", **{**link, "sec_fetch_dest": "iframe"}) == 403


@pytest.mark.parametrize("referer", [*(f"{o}/x" for o in OTHERS[:7]), "null", "about:client", "x"])
def test_the_referer_where_there_is_nothing_else(referer):
    assert status("POST", referer=referer) == 403
    assert status("GET", referer=referer) == 200  # a link that somebody follows


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.nip.io:7860", "localhost.:7860", "", "[::2]",
     "127.0.0.1:7860/x", "x@127.0.0.1:7860", "127.0.0.1:x", "localhost evil.example", "0.0.0.0"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_names_of_a_page_for_this_machine_alone(method, host):
    assert status(method, host=host) == 400
    assert status(method, host=host, origin=f"http://{host}") == 400


def test_two_values_are_not_one():
    pairs = [(b"host", b"127.0.0.1:7860"), (b"host", b"evil.example")]
    assert refusal("GET", "http", pairs, LOCAL)[0] == 400
    pairs = [(b"host", b"127.0.0.1:7860"), (b"Origin", HERE.encode()), (b"origin", b"null")]
    assert refusal("POST", "http", pairs, LOCAL)[0] == 403
    assert refusal("GET", "http", [], LOCAL)[0] == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "machine.example"])
def test_a_page_for_other_machines_is_reached_by_any_name(host):
    names = loopback_names(host)
    assert names is None
    own = {"host": "machine.example:7860", "names": names}
    assert status("POST", origin="http://machine.example:7860", **own) == 200
    for origin in ("http://evil.example", "http://machine.example", "null", HERE):
        assert status("POST", origin=origin, **own) == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "::1", "[::1]"])
def test_names_of_loopback_addresses(host):
    assert loopback_names(host) >= {"localhost", "127.0.0.1", host.strip("[]").lower()}


def test_the_words_say_what_to_do():
    pairs = [(b"host", b"[::1]:7860"), (b"origin", b"http://evil.example")]
    assert refusal("POST", "http", pairs, LOCAL) == (
        403, "expected a request from http://[::1]:7860, got one from http://evil.example"
    )  # fmt: skip
