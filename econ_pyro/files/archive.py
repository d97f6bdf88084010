"""What an archive that ``torch.save`` wrote may be, before torch reads it.

Torch's ``weights_only`` keeps foreign code out, and no more: it passes over the checksums that zip
archives have (CRC-32 of each entry), inflates what is compressed, and lets the pickled part ask
for gigabytes of zeros. So all of this is looked at first. Archives of earlier versions pass: the
checksums have always been there.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO

from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import open_regular

MOST_PICKLED = 16 << 20
"""Bytes of the longest pickled part, which has no tensor's values."""
_PIECE = 1 << 20
_FOLDER = 0x10  # attribute of DOS
# a checkpoint is plain containers and tensors
_KNOWN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch (\w+Storage|Size|device)"
)


def check_archive(path: Path, expected: str, hint: str) -> None:
    """Check that a file is a whole archive of plain containers and tensors.

    Args:
        path: of the file.
        expected: what it should be, for the error message.
        hint: what to try if it is damaged.

    Raises:
        EconError: it is missing or damaged, or holds something else.
    """
    with open_regular(path, expected, hint) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                reason = _fault(archive, path.stat().st_size)
        except (
            zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, OSError, ValueError,
            KeyError, NotImplementedError, RuntimeError, RecursionError, OverflowError,
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if reason:
        raise EconError(expected, f"a damaged file ({reason})", hint)


def _fault(archive: zipfile.ZipFile, size: int) -> str:
    """What is wrong; empty if nothing is."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "a compressed entry"
    if any(entry.is_dir() or entry.external_attr & _FOLDER for entry in entries):
        return "an entry that is a folder"  # torch would give whatever is in memory for it
    if sum(entry.file_size for entry in entries) > size:
        return "entries larger than the file"
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        return "two entries of one name"
    pickled = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickled) != 1:
        return "not what torch.save writes"
    if pickled[0].file_size > MOST_PICKLED:
        return f"a pickle of {pickled[0].file_size:,} bytes"
    for entry in entries:
        with archive.open(entry) as part:
            while part.read(_PIECE):  # the last piece raises if the checksum is not right
                pass
    with archive.open(pickled[0]) as part:
        return _foreign(part)


def _foreign(part: IO[bytes]) -> str:
    """What a pickle names beside containers and tensors; empty if nothing."""
    for code, argument, _ in pickletools.genops(part):
        if code.name == "GLOBAL" and not _KNOWN.fullmatch(str(argument)):
            return f"it holds {str(argument)[:60]!r}"
        if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            return "it holds objects of other kinds"
    return ""
