"""Readers of images and their ground truth, as targets of the fuzz."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from econ_pyro.data import images
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.synthetic import dataset
from econ_pyro.data.synthetic.dataset import StoredScenes
from econ_pyro.data.synthetic.sprites import SpriteSet
from econ_pyro.evaluation import data_report
from econ_pyro.evaluation.contact_sheet import contact_sheet
from econ_pyro.scene_config import SceneConfig
from helpers.data_files import blocks, encode, frame, write_records
from helpers.fuzz import Target
from helpers.pictures import write_video

_AMODAL, _NUMBERS, _IMAGES = blocks(3, 4, 24, 24)
_PICTURES = [Image.fromarray(image) for image in _IMAGES]
_LABELS = np.tile(np.arange(4), (3, 1))


def _source(path: Path) -> None:
    """All of what ``--data`` takes."""
    source = open_images(path, 16, limit=50)
    for indices in torch.arange(len(source)).split(8):
        images = source.images(indices)
        assert images.dtype == torch.float32 and images.shape[1:] == (3, 16, 16)
        assert images.min() >= 0 and images.max() <= 1
        source.scenes(indices)


def _look(path: Path) -> None:
    """What ``inspect_data.py`` does."""
    seen = data_report.inspect(path, "crop", 20)
    advice = data_report.advise(seen, "crop")
    contact_sheet(seen.source, advice.size)
    data_report.report(seen, advice, "crop")


def _picture(path: Path) -> None:
    assert images.decode(path, 16).shape == (16, 16, 3)


def _saved(name: str, save: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save(folder / name)
        return folder / name

    return make


def _still(name: str, mode: str = "RGB") -> Callable[[Path], Path]:
    return _saved(name, lambda path: _PICTURES[0].convert(mode).save(path))


def _moving(name: str) -> Callable[[Path], Path]:
    first, *rest = _PICTURES
    return _saved(name, lambda path: first.save(path, save_all=True, append_images=rest))


def _png_sealed(data: bytes) -> bytes:
    """A PNG file whose checksums are right, as far as its chunks can be told."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        out += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def _deep(path: Path) -> None:
    """A PNG file of 16 bits a channel, with a transparent colour."""
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 24, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0)),
        (b"tRNS", pixels[0, 0].tobytes()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    unsealed = b"".join(struct.pack(">I", len(b)) + name + b + bytes(4) for name, b in chunks)
    path.write_bytes(_png_sealed(b"\x89PNG\r\n\x1a\n" + unsealed))


def _video(path: Path) -> None:

    write_video(path)


def _npz(path: Path) -> None:
    np.savez_compressed(
        path, image=_IMAGES, mask=_NUMBERS, amodal=_AMODAL, label=_LABELS, classes=list("abcd")
    )


def _npz_open(data: bytes) -> bytes:
    """One array of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("label.npy")


def _npz_seal(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("image", _IMAGES), ("mask", _NUMBERS)):
            part = io.BytesIO()
            np.save(part, array)
            archive.writestr(f"{name}.npy", part.getvalue())
        archive.writestr("label.npy", data)
    return out.getvalue()


def _hdf5(path: Path, **options: object) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in {
            "image": _IMAGES,
            "mask": _NUMBERS[..., None],
            "shape": _LABELS,
        }.items():
            file.create_dataset(name, data=array, **options)
        file["classes"] = [b"a", b"b", b"c", b"d"]


def _records(path: Path) -> None:
    _, numbers, pictures = blocks(2, 3, 35, 35)
    each = 255 * (numbers[:, None, ..., None] == np.arange(4)[:, None, None, None])
    write_records(path, [
        encode({
            "image": image, "mask": mask.astype(np.uint8), "shape": np.arange(4.0),
            "visibility": np.ones(4), "colour": np.arange(4),
        })
        for image, mask in zip(pictures, each, strict=True)
    ])  # fmt: skip


def _records_open(data: bytes) -> bytes:
    """The first record of a compressed file."""
    raw = gzip.decompress(data)
    return raw[12 : 12 + struct.unpack_from("<Q", raw)[0]]


def _stored(path: Path) -> Path:
    path = path / "stored"
    path.mkdir()
    dataset.write_dataset(path, SceneConfig(size=16), 0, 5, 3)
    return path


def _read_stored(path: Path) -> None:
    for split in ("train", "valid"):
        scenes = StoredScenes(path, split)
        indices = torch.arange(min(len(scenes), 20))
        assert scenes.images(indices).isfinite().all()
        scenes.scenes(indices)


def _folder(path: Path) -> Path:
    path = path / "pictures"
    (path / "more").mkdir(parents=True)
    _PICTURES[0].save(path / "a.png")
    _PICTURES[1].save(path / "more" / "b.jpg")
    _PICTURES[0].save(path / "c.gif", save_all=True, append_images=_PICTURES[1:])
    _video(path / "d.mp4")
    return path


def _cutouts(path: Path) -> Path:
    path = path / "sprites"
    (path / "dots").mkdir(parents=True)
    for i, name in enumerate(("a.png", "dots/b.png", "dots/c.png")):
        picture = _PICTURES[i].convert("RGBA")
        picture.putalpha(Image.fromarray(_AMODAL[i, 0]).convert("L"))
        picture.save(path / name)
    return path


def _read_sprites(path: Path) -> None:
    SpriteSet(SceneConfig(sprites=str(path)))


TARGETS: dict[str, Target] = {
    "png": Target(_still("a.png", "RGBA"), _picture, seal=_png_sealed, sealed=True),
    "png palette": Target(_still("a.png", "P"), _picture, seal=_png_sealed, sealed=True),
    "png 16 bits": Target(_saved("a.png", _deep), _picture, seal=_png_sealed, sealed=True),
    "jpeg": Target(_still("a.jpg"), _picture),
    "jpeg cmyk": Target(_still("a.jpg", "CMYK"), _picture),
    "webp": Target(_still("a.webp"), _picture),
    "apng": Target(_moving("a.png"), _source, seal=_png_sealed, sealed=True),
    "gif": Target(_moving("a.gif"), _source),
    "moving webp": Target(_moving("a.webp"), _source),
    "mp4": Target(_saved("a.mp4", _video), _source),
    "mkv": Target(_saved("a.mkv", _video), _source),
    "avi": Target(_saved("a.avi", _video), _source),
    "npy": Target(_saved("a.npy", lambda path: np.save(path, _IMAGES)), _source),
    "npy floats": Target(_saved("a.npy", lambda path: np.save(path, _IMAGES / 255)), _look),
    "npz": Target(_saved("a.npz", _npz), _source, _npz_open, _npz_seal, sealed=True),
    "hdf5": Target(_saved("a.h5", _hdf5), _source),
    "hdf5 chunks": Target(
        _saved("a.h5", lambda path: _hdf5(path, chunks=True, compression="gzip")), _look
    ),
    "records": Target(
        _saved("a.tfrecords", _records), _source, _records_open,
        lambda data: gzip.compress(2 * frame(data)), sealed=True,
    ),
    "dataset": Target(_stored, _read_stored),
    "folder": Target(_folder, _look),
    "sprites": Target(_cutouts, _read_sprites),
}  # fmt: skip
