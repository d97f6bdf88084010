"""Safetensors files with a checksum: weights, and nothing that can execute code.

The metadata of a file that we write has ``sha256``: the SHA-256, in hexadecimal, of the rest of
the metadata as JSON with sorted keys and no spaces, followed by each tensor in the order of their
names: its name, type and shape, as ``name F32 [2, 3]`` and a line end, and its bytes. A file
without one is read all the same.
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
from econ_pyro.files.storage import SEAL, write_atomically
from econ_pyro.files.untrusted import open_regular

MOST_HEADER = 16 << 20
"""Bytes of the longest header that is read; 256 experts have two MiB."""
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class TensorFile(NamedTuple):
    """What a safetensors file holds."""

    about: dict[str, str]
    """Its metadata, without the checksum."""
    tensors: dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum, atomically.

    Args:
        path: of the file.
        tensors: of any device.
        about: metadata.
    """
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    about = {"format": "pt", **about}
    sealed = {**about, SEAL: _digest(about, stored)}
    write_atomically(path, lambda p: save_file(stored, p, sealed))


def read_tensors(path: Path, what: str) -> TensorFile:
    """Read a safetensors file.

    Args:
        path: of the file.
        what: what it should be, for the error message.

    Raises:
        EconError: it is missing or damaged, or its checksum is not right.
    """
    with open_regular(path, what) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MOST_HEADER:
        raise EconError(what, f"{path} (a header of {header:,} bytes)")
    try:
        with safe_open(path, framework="pt") as opened:
            about = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise EconError(what, reason if str(path) in reason else f"{path} ({reason})") from None
    digest = about.pop(SEAL, None)
    if digest is not None and digest != _digest(about, tensors):
        raise EconError(
            f"{path} as it was written",
            "another checksum: the file is damaged",
            "copy it again, or write it again from its run",
        )
    return TensorFile(about, tensors)


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        t = tensors[name]
        whole.update(f"{name} {_TYPES.get(t.dtype, t.dtype)} {list(t.shape)}\n".encode())
        whole.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
