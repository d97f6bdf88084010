"""Safetensors files with checksums.

The checksum is the metadata field ``sha256``: the hexadecimal SHA-256 of all other metadata, as
JSON with sorted keys and no spaces, followed by the tensors in the order of their names, each as
a line ``name F32 [2, 3]`` (name, type, shape) and its bytes. It is optional when reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.files.storage import CHECKSUM, write_atomically
from econ_pyro.files.untrusted import open_regular

MAX_HEADER = 16 << 20
"""Maximum size of a header in bytes; 256 experts need 2 MiB."""
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class TensorFile(NamedTuple):
    """Content of a safetensors file."""

    metadata: dict[str, str]
    """The metadata without the checksum."""
    tensors: dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum, atomically.

    Args:
        path: path of the file.
        tensors: tensors on any device.
        metadata: the metadata.
    """
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"format": "pt", **metadata}
    with_checksum = {**metadata, CHECKSUM: _digest(metadata, stored)}
    write_atomically(path, lambda p: save_file(stored, p, with_checksum))


def read_tensors(path: Path, expected: str) -> TensorFile:
    """Read a safetensors file.

    Args:
        path: path of the file.
        expected: what the file should be, for the error message.

    Raises:
        EconError: the file is missing or damaged, or its checksum is wrong.
    """
    with open_regular(path, expected) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER:
        raise EconError(expected, f"{path} (a header of {header:,} bytes)")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        got = reason if str(path) in reason else f"{path} ({reason})"
        raise EconError(expected, got) from None
    digest = metadata.pop(CHECKSUM, None)
    if digest is not None and digest != _digest(metadata, tensors):
        raise EconError(
            f"{path} as it was written",
            "another checksum: the file is damaged",
            "copy it again, or write it again from its run",
        )
    return TensorFile(metadata, tensors)


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {_TYPES.get(t.dtype, t.dtype)} {list(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
