"""What becomes of a valid file: bits, bytes, lengths, numbers, and things that are no files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from helpers.fuzz import Target

ODD = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    10**6,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
)
"""Numbers at which programs stumble."""
VALUES = (
    None,
    True,
    -1,
    0,
    0.5,
    10**9,
    10**400,
    1e308,
    "",
    "x" * 10_000,
    "../../x",
    [],
    {},
    [[]],
    "é\x00\x1b[31m",
)
"""Values of JSON that stand where others are expected."""


def pick(random: np.random.Generator, values: Sequence[Any]) -> Any:
    """One of some values, as it is; numpy's own choice would make arrays of them."""
    return values[int(random.integers(len(values)))]


def damage(target: Target, folder: Path, random: np.random.Generator) -> Path:
    """Make a target's file in a folder, and damage it; returns the path to read."""
    path = target.make(folder)
    if random.random() < 0.06:
        return _replace(path, random)
    if path.is_dir() and random.random() < 0.2:
        name = pick(random, ["odd.png", "odd.tfrecords", "odd", "odd.mp4", "odd.json"])
        _special(path / name, random)
        return path
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    file = files[random.integers(len(files))]
    if path.is_dir() and random.random() < 0.1:
        _replace(file, random)
        return path
    whole = file.read_bytes()
    if target.mutate and random.random() < 0.6:
        file.write_bytes(target.mutate(whole, Random(int(random.integers(2**32)))))
    elif file.suffix == ".json":
        file.write_bytes(_json(whole, random))
    elif target.sealed and random.random() < 0.6:
        file.write_bytes(target.seal(_bytes(target.open(whole), random)))
    else:
        file.write_bytes(_bytes(whole, random))
    return path


def _bytes(whole: bytes, random: np.random.Generator) -> bytes:
    """One to three changes of bytes: more, and all ends in the header."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 4)):
        if not data:
            break
        pick(random, [_bits, _bits, _number, _number, _cut, _splice, _zeros, _grow])(data, random)
    return bytes(data)


def _at(data: bytearray, random: np.random.Generator) -> int:
    """A place, most often near the beginning or the end, where the headers are."""
    near = random.integers(min(len(data), 400))
    return int(pick(random, [near, len(data) - 1 - near, random.integers(len(data))]))


def _bits(data: bytearray, random: np.random.Generator) -> None:
    for _ in range(random.integers(1, 9)):
        data[_at(data, random)] ^= 1 << random.integers(8)


def _number(data: bytearray, random: np.random.Generator) -> None:
    code = pick(random, ["<b", "<h", ">h", "<i", ">i", "<q", ">q"])
    size = struct.calcsize(code)
    value = int(pick(random, ODD)) % 256**size
    order = "little" if code[0] == "<" else "big"
    at = _at(data, random)
    data[at : at + size] = value.to_bytes(size, order)


def _cut(data: bytearray, random: np.random.Generator) -> None:
    if random.random() < 0.5:
        del data[_at(data, random) :]
    else:
        at = _at(data, random)
        del data[at : at + int(random.integers(1, 64))]


def _splice(data: bytearray, random: np.random.Generator) -> None:
    source, at = _at(data, random), _at(data, random)
    data[at:at] = data[source : source + int(random.integers(1, 200))]


def _zeros(data: bytearray, random: np.random.Generator) -> None:
    at, n = _at(data, random), int(random.integers(1, 64))
    data[at : at + n] = bytes([pick(random, [0, 255])]) * n


def _grow(data: bytearray, random: np.random.Generator) -> None:
    data += random.bytes(int(random.integers(1, 2000)))


def _json(whole: bytes, random: np.random.Generator) -> bytes:
    """Another type or value somewhere; or no JSON any more."""
    if random.random() < 0.15:
        return _bytes(whole, random)
    if random.random() < 0.1:
        return pick(
            random, [b"[" * 100_000, b"null", b"[]", b"7", b'"x"', b"{}", b"\xff\xfe{", b""]
        )
    value = json.loads(whole)
    for _ in range(random.integers(1, 4)):
        value = _other(value, random)
    return json.dumps(value).encode()


def _other(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        key = (
            list(value)[random.integers(len(value))]
            if isinstance(value, dict)
            else int(random.integers(len(value)))
        )
        if random.random() < 0.15:
            del value[key]
        else:
            value[key] = _other(value[key], random)
        return value
    if isinstance(value, int | float) and random.random() < 0.4:
        return pick(random, ODD) * pick(random, [1, -1])
    return pick(random, VALUES)


def _replace(path: Path, random: np.random.Generator) -> Path:
    """Something else where a file or a folder was."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    _special(path, random)
    return path


def _special(path: Path, random: np.random.Generator) -> None:
    kind = random.integers(8)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif kind == 2:
        path.symlink_to("nowhere")
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to("/dev/zero")
    elif kind == 5:
        path.mkdir()
    elif kind == 6:
        path.symlink_to(".")
    else:
        path.touch()
