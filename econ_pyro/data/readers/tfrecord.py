"""Reading TFRecord files and tf.train.Example messages without TensorFlow.

A file, optionally compressed as a whole (GZIP or ZLIB), is a sequence of records (TensorFlow's
``record_writer.h``)::

    uint64 length, uint32 masked crc32c of length, byte data[length], uint32 masked crc of data

An Example maps names to lists (``example.proto``, ``feature.proto``)::

    Example  { Features features = 1; }    Features { map<string, Feature> feature = 1; }
    Feature  { oneof: BytesList = 1, FloatList = 2, Int64List = 3; }    each: repeated value = 1

The checksum of each length is verified, which identifies the format. The checksum of the data is
not: in Python, computing it would dominate the run time, and compressed files have their own.
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

MAX_BYTES = 32 << 20
"""Maximum size of a record in bytes; records of multi_object_datasets have up to 4 million."""
_MAX_FIELDS = 100_000  # per record, as each needs time and memory
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
    """CRC-32C (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The masked CRC-32C of TFRecord files: rotated, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_tfrecord(path: Path) -> bool:
    """Whether a file begins with a record, compressed or uncompressed."""
    try:
        with open_regular(path, "a TFRecord file") as file:
            head = _Stream(file).read(12)
    except (zlib.error, EOFError):
        return False
    return len(head) == 12 and masked_crc(head[:8]) == struct.unpack("<I", head[8:])[0]


def records(path: Path) -> Iterator[bytes]:
    """Iterate over the records of a file.

    Raises:
        EconError: the file is not a TFRecord file, or a record is damaged or truncated.
    """
    number = 0
    with open_regular(path, "a TFRecord file") as file:
        stream = _Stream(file)
        try:
            while head := stream.read(12):
                truncated = len(head) < 12
                if not truncated and masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                    raise _damaged(path, number, "its length is damaged")
                length = 0 if truncated else struct.unpack("<Q", head[:8])[0]
                if length > MAX_BYTES:
                    raise EconError(
                        f"records of at most {MAX_BYTES:,} bytes",
                        f"{path}, whose record {number} has {length:,}",
                    )
                data = b"" if truncated else stream.read(length + 4)
                if truncated or len(data) < length + 4:
                    raise _damaged(path, number, "it is cut off")
                yield data[:-4]
                number += 1
        except (zlib.error, EOFError) as error:
            raise _damaged(path, number, str(error)) from error


def example(data: bytes) -> dict[str, np.ndarray]:
    """Parse the features of an Example.

    Args:
        data: the serialised message.

    Returns:
        Arrays by name: uint8 (the concatenated bytes of a bytes list), float32 or int64.

    Raises:
        ValueError: the message is not an Example, or has too many fields.
    """
    found: dict[str, np.ndarray] = {}
    budget = _Budget()
    try:
        for features in _children(data, 1, budget):
            for entry in _children(features, 1, budget):
                name = b"".join(_children(entry, 1, budget)).decode()
                for feature in _children(entry, 2, budget):
                    found[name] = _values(feature, budget)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError("a message that is cut off") from error
    return found


class _Budget:
    """Limits the number of fields of a record."""

    def __init__(self) -> None:
        self._remaining = _MAX_FIELDS

    def spend(self) -> None:
        """Count one field."""
        self._remaining -= 1
        if self._remaining < 0:
            raise ValueError(f"more than {_MAX_FIELDS:,} values")


class _Stream:
    """Bytes of a file, decompressed if necessary."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(2)
        file.seek(0)
        gzip = head == b"\x1f\x8b"
        compressed = gzip or (
            len(head) == 2 and head[0] == 0x78 and int.from_bytes(head, "big") % 31 == 0
        )
        self._window_bits = 31 if gzip else 15
        self._decompressor = zlib.decompressobj(self._window_bits) if compressed else None
        self._output, self._input = bytearray(), b""

    def read(self, n: int) -> bytes:
        """The next n bytes; fewer at the end of the file."""
        if self._decompressor is None:
            return self._file.read(n)
        while len(self._output) < n:
            if self._decompressor.eof:  # another member may follow
                self._input = self._decompressor.unused_data
                if not (self._input or (block := self._file.read(_BLOCK))):
                    break
                self._input = self._input or block
                self._decompressor = zlib.decompressobj(self._window_bits)
            block = self._decompressor.unconsumed_tail or self._input or self._file.read(_BLOCK)
            self._input = b""
            if not block:
                raise EOFError("the compressed stream is cut off")
            wanted = max(_BLOCK, n - len(self._output))
            self._output += self._decompressor.decompress(block, wanted)
        out = bytes(self._output[:n])
        del self._output[:n]
        return out


def _damaged(path: Path, number: int, reason: str) -> EconError:
    return EconError(
        "a TFRecord file", f"{path}, damaged at record {number} ({reason})", "copy it again"
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
    """Field number, wire type, and start and end of the value of each field."""
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
    return np.empty(0, np.uint8)  # a feature without values


def _bytes_values(body: bytes, left: _Budget) -> np.ndarray:
    # multi_object_datasets stores every byte as a separate value: tag, length 1, byte
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
