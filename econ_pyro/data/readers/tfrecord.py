"""TFRecord files and the tf.train.Example messages in them, without TensorFlow.

A file, plain or compressed whole (GZIP or ZLIB), is a sequence of records (TensorFlow's
``record_writer.h``)::

    uint64 length, uint32 masked crc32c of length, byte data[length], uint32 masked crc of data

An Example maps names to lists (``example.proto``, ``feature.proto``)::

    Example  { Features features = 1; }    Features { map<string, Feature> feature = 1; }
    Feature  { oneof: BytesList = 1, FloatList = 2, Int64List = 3; }    each: repeated value = 1

The checksum of each length is checked, which tells a record file from any other. That of the data
is not: in Python it would take longer than all else, and compressed files have their own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import open_regular

MOST_BYTES = 32 << 20
"""Largest record that is read; those of multi_object_datasets have up to 4 million bytes."""
_MOST_FIELDS = 100_000  # of a record: each takes time and memory of its own
_BLOCK = 1 << 16
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The checksum as record files hold it: turned and shifted, so that it can be summed again."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_tfrecord(path: Path) -> bool:
    """Whether a file begins with a record, compressed or not."""
    try:
        with open_regular(path, "a TFRecord file") as file:
            head = _Stream(file).read(12)
    except (zlib.error, EOFError):
        return False
    return len(head) == 12 and masked_crc(head[:8]) == struct.unpack("<I", head[8:])[0]


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, one after another.

    Raises:
        EconError: it is no record file, or damaged or cut off from some record on.
    """
    number = 0
    with open_regular(path, "a TFRecord file") as file:
        stream = _Stream(file)
        try:
            while head := stream.read(12):
                cut = len(head) < 12
                if not cut and masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                    raise _damaged(path, number, "its length is damaged")
                length = 0 if cut else struct.unpack("<Q", head[:8])[0]
                if length > MOST_BYTES:
                    raise EconError(
                        f"records of at most {MOST_BYTES:,} bytes",
                        f"{path}, whose record {number} has {length:,}",
                    )
                data = b"" if cut else stream.read(length + 4)
                if cut or len(data) < length + 4:
                    raise _damaged(path, number, "it is cut off")
                yield data[:-4]
                number += 1
        except (zlib.error, EOFError) as error:
            raise _damaged(path, number, str(error)) from error


def example(data: bytes) -> dict[str, np.ndarray]:
    """The features of an Example.

    Args:
        data: the serialised message.

    Returns:
        By name: the bytes of a bytes list, one after another, as uint8; or float32; or int64.

    Raises:
        ValueError: it is not an Example, or has more values than any of the sets.
    """
    found: dict[str, np.ndarray] = {}
    left = _Budget()
    try:
        for features in _children(data, 1, left):
            for entry in _children(features, 1, left):
                name = b"".join(_children(entry, 1, left)).decode()
                for feature in _children(entry, 2, left):
                    found[name] = _values(feature, left)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError("a message that is cut off") from error
    return found


class _Budget:
    """What may be spent on a record."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def spend(self) -> None:
        """Take one value."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {_MOST_FIELDS:,} values")


class _Stream:
    """Bytes of a file, unpacked if they are packed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(2)
        file.seek(0)
        gzip = head == b"\x1f\x8b"
        packed = gzip or (
            len(head) == 2 and head[0] == 0x78 and int.from_bytes(head, "big") % 31 == 0
        )
        self._bits = 31 if gzip else 15
        self._unpack = zlib.decompressobj(self._bits) if packed else None
        self._ready, self._left = bytearray(), b""

    def read(self, n: int) -> bytes:
        """The next n bytes, fewer at the end."""
        if self._unpack is None:
            return self._file.read(n)
        while len(self._ready) < n:
            if self._unpack.eof:  # another member may follow
                self._left = self._unpack.unused_data
                if not (self._left or (block := self._file.read(_BLOCK))):
                    break
                self._left = self._left or block
                self._unpack = zlib.decompressobj(self._bits)
            block = self._unpack.unconsumed_tail or self._left or self._file.read(_BLOCK)
            self._left = b""
            if not block:
                raise EOFError("the compressed stream is cut off")
            self._ready += self._unpack.decompress(block, max(_BLOCK, n - len(self._ready)))
        out = bytes(self._ready[:n])
        del self._ready[:n]
        return out


def _damaged(path: Path, number: int, why: str) -> EconError:
    return EconError(
        "a TFRecord file", f"{path}, damaged at record {number} ({why})", "copy it again"
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _fields(data: bytes, left: _Budget) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, beginning and end of each field's value, as long as some are left."""
    at = 0
    while at < len(data):
        left.spend()
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            start, (_, at) = at, _varint(data, at)
        elif wire == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif wire in (_FIXED64, _FIXED32):
            start, at = at, at + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at > len(data):
            raise ValueError("a message that is cut off")
        yield number, wire, start, at


def _children(data: bytes, number: int, left: _Budget) -> Iterator[bytes]:
    for found, wire, start, end in _fields(data, left):
        if found == number and wire == _BYTES:
            yield data[start:end]


def _values(feature: bytes, left: _Budget) -> np.ndarray:
    for kind, wire, start, end in _fields(feature, left):
        if wire != _BYTES:
            continue
        body = feature[start:end]
        if kind == 1:
            return _bytes_values(body, left)
        if kind == 2:
            parts = b"".join(body[a:b] for number, _, a, b in _fields(body, left) if number == 1)
            return np.frombuffer(parts, "<f4")
        if kind == 3:
            return _int_values(body, left)
    return np.empty(0, np.uint8)  # a feature without a value


def _bytes_values(body: bytes, left: _Budget) -> np.ndarray:
    # multi_object_datasets stores each pixel as a value of its own: tag, length 1, byte
    raw = np.frombuffer(body, np.uint8)
    if len(raw) % 3 == 0 and (raw[0::3] == 0x0A).all() and (raw[1::3] == 1).all():
        return raw[2::3]
    return np.frombuffer(b"".join(_children(body, 1, left)), np.uint8)


def _int_values(body: bytes, left: _Budget) -> np.ndarray:
    values = []
    for number, wire, at, end in _fields(body, left):
        while number == 1 and wire in (_VARINT, _BYTES) and at < end:
            left.spend()
            value, at = _varint(body, at)
            value &= (1 << 64) - 1
            values.append(value - (1 << 64) if value >> 63 else value)
    return np.array(values, np.int64)
