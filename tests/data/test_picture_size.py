"""Sizes that files declare, read before anything is decoded."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from econ_pyro.data import image_header
from econ_pyro.errors import EconError
from helpers.pictures import uint24, webp

WAYS = {
    "PNG": [{}],
    "JPEG": [{}, {"progressive": True}],
    "GIF": [{}],
    "WEBP": [{}, {"lossless": True}, {"exact": True, "exif": b"Exif\x00\x00MM"}],
}


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (257, 129), (300, 2), (4099, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_sizes_are_pillows(kind, size, mode):
    """Pillow wrote the file: it knows."""
    mode = "RGB" if kind == "JPEG" and mode == "RGBA" else mode
    for options in WAYS[kind]:
        assert image_header.pixel_size(encoded(Image.new(mode, size), kind, **options)) == size


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_canvas(kind):
    noise = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    first, *rest = (Image.fromarray(x) for x in noise)
    data = encoded(first, kind, save_all=True, append_images=rest)
    assert image_header.pixel_size(data) == (30, 20)


def png(width, height):
    data = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for chunk in (b"IHDR" + head, b"IDAT" + zlib.compress(bytes(100))):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def gif(width, height, canvas=None):
    """One frame, perhaps beyond its canvas."""
    return (
        b"GIF89a" + struct.pack("<HH", *(canvas or (width, height))) + b"\x80\x00\x00" + bytes(6)
        + b",\x00\x00\x00\x00" + struct.pack("<HH", width, height) + b"\x00\x02\x02\x44\x01\x00;"
    )  # fmt: skip


def jpeg(width, height):
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3)
    return b"\xff\xd8" + frame + b"\x01\x11\x00\x02\x11\x00\x03\x11\x00" + b"\xff\xda\x00\x02"


HUGE = {
    "png": png(9000, 9000),
    "huge.png": png(60_000, 60_000),
    "jpeg": jpeg(9000, 9000),
    "huge.jpeg": jpeg(65_000, 65_000),
    "gif": gif(9000, 9000),
    "beyond.gif": gif(9000, 9000, canvas=(16, 16)),
    "canvas.gif": gif(1, 1, canvas=(9000, 9000)),
    "huge.gif": gif(65_000, 65_000),
    "lossless.webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 8999 | 8999 << 14) + bytes(9)),
    "lossy.webp": webp(b"VP8 ", b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 9000, 9000)),
    "animated.webp": webp(b"VP8X", b"\x02\x00\x00\x00" + uint24(9000) + uint24(9000)),
    "huge.webp": webp(b"VP8X", b"\x02\x00\x00\x00" + uint24(1 << 24) + uint24(1 << 24)),
}


@pytest.mark.parametrize("name", HUGE)
def test_large_pictures_of_few_bytes_are_refused_at_once(name):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(EconError, match="at most 50,000,000 pixels.*: scale it down") as told:
        image_header.check_size(HUGE[name], name)
    assert f"got {name} with " in str(told.value)
    assert time.process_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_the_limit_is_of_pixels_not_of_sides():
    for data in (png(10_000, 5_000), jpeg(50_000, 1_000), gif(5_000, 10_000)):
        image_header.check_size(data, "a")
    with pytest.raises(EconError, match="10,000 x 5,001"):
        image_header.check_size(png(10_000, 5_001), "a")


def test_passes_over_a_jpeg_are_counted():
    plain = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    image_header.check_size(plain, "a.jpg")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
    with pytest.raises(EconError, match="at most 100 scans, got a.jpg of 1,0"):
        image_header.check_size(plain[:-2] + scan * 1000 + plain[-2:], "a.jpg")


@given(
    st.sampled_from([b"", *HUGE.values()]), st.integers(0, 60), st.binary(max_size=40),
)  # fmt: skip
def test_no_header_is_too_odd(data, cut, tail):
    try:
        image_header.check_size(data[:cut] + tail, "a")
    except EconError as error:
        assert "pixels" in str(error)
