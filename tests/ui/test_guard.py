"""The page asked by programs and by other pages: raw HTTP, as no browser would send it."""

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from econ_pyro.ui import uploads
from helpers.paths import ROOT
from helpers.pictures import uint24, webp, whole_png

pytestmark = pytest.mark.needs("gradio")
API = "/gradio_api"
FORM = {"Content-Type": "multipart/form-data; boundary=LIMIT"}


@pytest.fixture(scope="module")
def address():
    """Of the page of weights that come with the package."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts/composer.py", "quick", "--device", "cpu"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield process.stdout.readline().split(" ")[0].rstrip("/")
    process.terminate()
    process.communicate(timeout=60)


def ask(address, method, path, body=None, **headers):
    """Status, headers in small letters, and body."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def form(*files):
    parts = (
        f'--LIMIT\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    )
    return b"".join(parts) + b"--LIMIT--\r\n"


def upload(address, name, content, **headers):
    return ask(address, "POST", f"{API}/upload", form((name, content)), **FORM, **headers)


def event(address, element, kind="upload"):
    """Number of the function that a component calls."""
    config = json.loads(ask(address, "GET", "/config")[2])
    (number,) = (c["id"] for c in config["components"] if c["props"].get("elem_id") == element)
    for dependency in config["dependencies"]:
        if [number, kind] in [list(target) for target in dependency["targets"]]:
            return dependency["id"]
    raise AssertionError(f"nothing listens to {kind} of {element}")


def run(address, number, data, session):
    """What an event gives, through the queue, as the page itself does it."""
    body = json.dumps({"data": data, "fn_index": number, "session_hash": session})
    kind = {"Content-Type": "application/json"}
    status, _, answer = ask(address, "POST", f"{API}/queue/join", body, **kind)
    assert status == 200, answer
    _, _, stream = ask(address, "GET", f"{API}/queue/data?session_hash={session}")
    lines = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: ")]
    (done,) = [line for line in lines if line["msg"] == "process_completed"]
    return done


def take_apart(address, name, content, session="one"):
    """The words that the page shows of an uploaded picture."""
    status, _, answer = upload(address, name, content)
    assert status == 200, answer
    file = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    done = run(address, event(address, "upload"), [file], session)
    assert done["success"], done
    return done["output"]["data"][0]["value"]


def resident(address):
    """MB of the process that listens at an address."""
    port = f"{urlsplit(address).port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port}") and fields[3] == "0A":
            inode = f"socket:[{fields[9]}]"
            break
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) == inode for fd in (process / "fd").iterdir()):
                status = (process / "status").read_text().splitlines()
                return next(int(s.split()[1]) for s in status if s.startswith("VmRSS")) / 1024
        except OSError:
            continue
    raise AssertionError("nobody listens")


def test_other_pages_can_neither_send_nor_read(address):
    port = urlsplit(address).port
    others = ["http://evil.example", f"http://localhost:{port}", f"http://127.0.0.1:{port + 1}",
              "http://localhost:3000", "null", f"https://127.0.0.1:{port}"]  # fmt: skip
    own = {"Origin": address.rstrip("/")}
    for origin in others:
        status, headers, answer = upload(address, "a.png", whole_png(), Origin=origin)
        assert status == 403 and origin.encode() in answer
        preflight = {"Origin": origin, "Access_Control_Request_Method": "POST"}
        for method, path, more in [
            ("OPTIONS", f"{API}/upload", preflight), ("OPTIONS", f"{API}/queue/join", preflight),
            ("POST", f"{API}/queue/join", {"Origin": origin}),
            ("GET", "/config", {"Origin": origin}),
            ("GET", f"{API}/queue/data?session_hash=a", {"Origin": origin}),
        ]:  # fmt: skip
            status, headers, _ = ask(address, method, path, **more)
            assert status == 403, (method, path)
            assert not [name for name in headers if name.startswith("access-control")]
    for more in ({"Sec_Fetch_Site": "cross-site"}, {"Referer": "http://localhost:3000/"}):
        assert upload(address, "a.png", whole_png(), **more)[0] == 403
    for method, path in (("GET", "/"), ("GET", "/config"), ("OPTIONS", f"{API}/upload")):
        _, headers, _ = ask(address, method, path, **own)
        assert not [name for name in headers if name.startswith("access-control")]
    assert upload(address, "a.png", whole_png(), **own)[0] == 200
    assert upload(address, "a.png", whole_png())[0] == 200  # no browser


def test_what_the_page_does_not_need_is_closed(address):
    closed = ["proxy=http://127.0.0.1/", "file=http://example.org/", "file=/etc/passwd", "file/x",
              "dev/reload", "vibe-code", "vibe-code/", "openapi.json", "deep_link",
              "runs"]  # fmt: skip
    for path in [*(f"{API}/{name}" for name in closed), "/login", "/monitoring", "/docs"]:
        status, headers, _ = ask(address, "GET", path)
        assert status == 404 and "default-src 'self'" in headers["content-security-policy"]
    for path in ("component_server", "vibe-edit", "stream/a", "call/a", "process_recording"):
        assert ask(address, "POST", f"{API}/{path}", b"{}")[0] == 404
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert ask(address, method, "/")[0] == 405


def test_bodies_are_bounded(address):
    kind = {"Content-Type": "application/json"}
    status, _, answer = ask(address, "POST", f"{API}/queue/join", b" " * 1_100_000, **kind)
    assert status == 413 and b"expected at most 1,048,576 bytes" in answer
    # said to be large, none of it sent; and of no said length
    for path, head in [
        ("upload", f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: 999999999999\r\n"),
        ("queue/join", "Content-Length: 1048577\r\n"),
        ("upload", f"Content-Type: {FORM['Content-Type']}\r\nTransfer-Encoding: chunked\r\n"),
    ]:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            request = f"POST {API}/{path} HTTP/1.1\r\nHost: {where.netloc}\r\n{head}\r\n"
            connection.sendall(request.encode())
            chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
            try:
                for _ in range(20 if "chunked" in head else 0):
                    connection.sendall(chunk)
            except OSError:
                pass  # closed before it had all
            try:
                assert connection.recv(100).startswith(b"HTTP/1.1 413")
            except ConnectionResetError:
                assert "chunked" in head
    status, _, answer = ask(
        address, "POST", f"{API}/upload", form(("a.png", b"a"), ("b.png", b"b")), **FORM
    )
    assert status == 413 and b"one file at a time" in answer


def test_the_folder_of_uploads_is_bounded(address):
    for i in range(80):
        status, _, answer = upload(address, f"{i}.png", b"%d" % i)
        assert status == 200
        folder = Path(json.loads(answer)[0]).parents[1]
    for _ in range(100):  # it is tidied after the answer
        left = {file.name for file in folder.rglob("*.png")}
        if len(left) <= uploads.MAX_FILES:
            break
        time.sleep(0.1)
    assert len(left) == uploads.MAX_FILES and "79.png" in left and "0.png" not in left


def test_a_large_picture_of_few_bytes(address):
    bomb = webp(b"VP8X", b"\x02\x00\x00\x00" + uint24(9000) + uint24(9000))
    start = time.monotonic()
    for name in ("bomb.webp", "bomb.png"):  # whatever it is called
        words = take_apart(address, name, bomb)
        assert f"at most 50,000,000 pixels, got {name} with 9,000 x 9,000" in words
    assert time.monotonic() - start < 20


def test_odd_names_of_files_do_no_harm(address):
    for name in (
        "<img src=x onerror=alert(1)>.png",
        "..%2f..%2fa.png",
        "../../../a.png",
        "\x07.png",
    ):
        words = take_apart(address, name, b"not a picture")
        assert 'role="alert"' in words and "<img" not in words


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens")
def test_memory_is_given_back(address):
    def decompose(i, size):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((size, size)).save(buffer, "PNG", compress_level=1)
        assert "layers are present" in take_apart(address, f"{i}.png", buffer.getvalue(), f"{i}")

    for i in range(5):
        decompose(i, 200)
    before = resident(address)
    decompose(5, 3000)  # some 40 MB a copy, and several copies
    for i in range(6, 12):
        decompose(i, 200)
    assert resident(address) < 1.1 * before


def test_events_of_pages_that_were_forgotten_and_of_no_page(address):
    # layers are shown of a scene, and there is none
    done = run(address, event(address, "apart-shown", "input"), [None, None, 0, [0]], "nobody")
    assert not done["success"] and "start a new one" in done["output"]["error"]
    kind = {"Content-Type": "application/json"}
    for body in (b"[", b"{}", b'{"data":[],"fn_index":99999,"session_hash":"a"}', b"[" * 100_000):
        assert ask(address, "POST", f"{API}/queue/join", body, **kind)[0] >= 400
    assert ask(address, "GET", "/")[0] == 200
