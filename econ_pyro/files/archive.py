"""Validation of ``torch.save`` archives before torch reads them.

``weights_only`` prevents the execution of code, but does not verify the CRC-32 checksums of the
zip archive, decompresses entries of any size, and lets the pickle allocate gigabytes of zeros. All
of this is checked here first. Archives of earlier versions are valid too.
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

MAX_PICKLED = 16 << 20
"""Maximum size of the pickle in bytes, which excludes the values of tensors."""
_BLOCK = 1 << 20
_FOLDER = 0x10  # DOS attribute of folders
# checkpoints consist of plain containers and tensors
_ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch (\w+Storage|Size|device)"
)


def check_archive(path: Path, expected: str, hint: str) -> None:
    """Check that a file is an undamaged archive of plain containers and tensors.

    Args:
        path: path of the file.
        expected: what the file should be, for the error message.
        hint: what to try if the file is damaged.

    Raises:
        EconError: the file is missing or damaged, or contains other objects.
    """
    with open_regular(path, expected, hint) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                reason = _find_defect(archive, path.stat().st_size)
        except (
            zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, OSError, ValueError,
            KeyError, NotImplementedError, RuntimeError, RecursionError, OverflowError,
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if reason:
        raise EconError(expected, f"a damaged file ({reason})", hint)


def _find_defect(archive: zipfile.ZipFile, size: int) -> str:
    """The first defect; empty if there is none."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "a compressed entry"
    if any(entry.is_dir() or entry.external_attr & _FOLDER for entry in entries):
        return "an entry that is a folder"  # torch would return uninitialised memory for it
    if sum(entry.file_size for entry in entries) > size:
        return "entries larger than the file"
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        return "two entries of one name"
    pickled = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickled) != 1:
        return "not what torch.save writes"
    if pickled[0].file_size > MAX_PICKLED:
        return f"a pickle of {pickled[0].file_size:,} bytes"
    for entry in entries:
        with archive.open(entry) as part:
            while part.read(_BLOCK):  # the last read raises if the checksum is wrong
                pass
    with archive.open(pickled[0]) as part:
        return _find_forbidden_object(part)


def _find_forbidden_object(part: IO[bytes]) -> str:
    """The first object in a pickle other than containers and tensors; empty if there is none."""
    for code, argument, _ in pickletools.genops(part):
        if code.name == "GLOBAL" and not _ALLOWED.fullmatch(str(argument)):
            return f"it holds {str(argument)[:60]!r}"
        if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            return "it holds objects of other kinds"
    return ""
