"""Pictures and videos as bytes and as files, good and bad."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from PIL import Image

LEVELS = [0, 60, 120, 180, 240, 30]


def png_of(width, height):
    """A PNG that says it is that large, of next to no bytes."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.full((16, 16, 3), np.nan))
    return buffer.getvalue()


def whole_png():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


BAD_UPLOADS = {
    "words.png": (b"not a picture", "readable PNG, JPEG, GIF or WebP"),
    "empty.png": (b"", "readable PNG, JPEG, GIF or WebP"),
    "vector.png": (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "readable PNG, JPEG, GIF or WebP",
    ),
    "animated.png": (b"GIF89a\x10\x00\x10\x00\x00\x00\x00;", "readable PNG, JPEG, GIF or WebP"),
    "array.png": (npy(), "readable PNG, JPEG, GIF or WebP"),
    "truncated.png": (whole_png()[:2000], "readable PNG, JPEG, GIF or WebP"),
    "large.png": (png_of(9_000, 9_000), "at most 50,000,000 pixels"),
    "bomb.png": (png_of(60_000, 60_000), "pixels"),
}


def uint24(value):
    return struct.pack("<I", value - 1)[:3]


def webp(kind, body):
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def pictures(size=(32, 24)):
    """Grey pictures of rising level with a white mark on the left."""
    made = []
    for level in LEVELS:
        picture = Image.new("RGB", size, (level, level, level))
        picture.paste("white", (0, 0, 4, size[1]))
        made.append(picture)
    return made


def write_video(path, codec="mpeg4"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for picture in pictures():
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
