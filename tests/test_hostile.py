"""Files that ask for more than they hold, that show other files, or that are no files at all."""

import io
import os
import socket
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.data import images
from econ_pyro.data.readers import disk_array, video
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.synthetic.sprites import SpriteSet, find_sprites
from econ_pyro.errors import EconError
from econ_pyro.evaluation.data_report import inspect
from econ_pyro.files import untrusted
from econ_pyro.scene_config import SceneConfig
from helpers.data_files import blocks, encode, frame, masked, write_records
from helpers.pictures import write_video

IMAGES = blocks(4, 3, 16, 16)[2]
ALL = torch.arange(4)


# ------------------------------------------------------------------ HDF5


def other_file(file, path):
    file["image"] = h5py.ExternalLink(path / "other.h5", "/image")


def other_file_through_a_link(file, path):
    file["group"] = h5py.ExternalLink(path / "other.h5", "/")
    file["image"] = h5py.SoftLink("/group/image")


def other_bytes(file, path):
    where = [(str(path / "secret"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("image", IMAGES.shape, "u1", external=where)


def virtual(file, path, source="other.h5"):
    layout = h5py.VirtualLayout(IMAGES.shape, "u1")
    layout[:] = h5py.VirtualSource(source, "image", IMAGES.shape)
    file.create_virtual_dataset("image", layout)


def virtual_of_itself(file, path):
    virtual(file, path, ".")


def virtual_of_a_pipe(file, path):
    os.mkfifo(path / "pipe")
    virtual(file, path, str(path / "pipe"))


def link_to_a_pipe(file, path):
    os.mkfifo(path / "pipe")
    file["image"] = h5py.ExternalLink(path / "pipe", "/image")


@pytest.mark.parametrize(("write", "message"), [
    (other_file, "in the file .*a.h5 itself, got image, a link to the file .*other.h5"),
    (other_file_through_a_link, "itself, got image, a link to the file .*other.h5"),
    (other_bytes, "itself, got image, stored in the file .*secret"),
    (virtual, "itself, got image, virtual, parts of other files"),
    (virtual_of_itself, "itself, got image, virtual"),
    (virtual_of_a_pipe, "itself, got image, virtual"),
    (link_to_a_pipe, "a link to the file .*pipe"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["image", "mask"])
def test_hdf5_shows_no_other_file(tmp_path, write, message, name):
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 100)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = IMAGES
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, tmp_path)
        if name != "image":  # by whatever name it is used
            file.move("image", name)
            file["image"] = IMAGES
    with pytest.raises(EconError, match=message.replace("got image", f"got {name}")):
        open_images(tmp_path / "a.h5", 16)


def test_links_within_the_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["set/pictures"] = IMAGES
        file["images"] = h5py.SoftLink("/set/pictures")
        file["set/again"] = h5py.SoftLink("pictures")
        file["unused"] = h5py.ExternalLink("/dev/zero", "/x")  # nobody asks for it
    source = open_images(tmp_path / "a.h5", 16)
    np.testing.assert_array_equal(
        source.images(ALL).permute(0, 2, 3, 1), np.float32(IMAGES) / np.float32(255)
    )
    for link, message in (
        (h5py.SoftLink("/images"), "whose images is a link to itself"),
        (h5py.SoftLink("/nowhere"), "whose images is a broken link"),
    ):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["images"] = link
        with pytest.raises(EconError, match=message):
            open_images(tmp_path / "b.h5", 16)


@pytest.mark.parametrize(("options", "message"), [
    ({"shape": (10**9, 64, 64), "chunks": (1, 64, 64), "dtype": "u1"}, "none, though .1000000000"),
    ({"data": np.zeros(4, [("a", "u1"), ("b", "f4")])}, "numbers in .*values of type"),
    ({"shape": (4,), "dtype": h5py.ref_dtype}, "an array of numbers .* got objects"),
    ({"shape": (4,), "dtype": h5py.vlen_dtype(np.uint8)}, "an array of numbers .* got objects"),
    ({"data": h5py.Empty("f4")}, "an array of numbers .* got nothing"),
    ({"data": 5}, r"images \(n, H, W\).*got \(\)"),
])  # fmt: skip
def test_hdf5_that_is_no_set_of_images(tmp_path, options, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", **options)
    with pytest.raises(EconError, match=message):
        open_images(tmp_path / "a.h5", 16)


def test_hdf5_with_huge_chunks_and_unknown_filters(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset(
            "image", (8, 8000, 8000), "u1", chunks=(8, 8000, 8000), compression="gzip"
        )
        assert data.chunks == (8, 8000, 8000)
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10)))
    with pytest.raises(EconError, match="chunks of at most .* got 512,000,000: repack"):
        open_images(tmp_path / "a.h5", 16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 16, 16))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4, 16, 16))
        h5py.h5d.create(file.id, b"image", h5py.h5t.STD_U8LE, space, plist)
        file["image"].id.write_direct_chunk((0, 0, 0), bytes(256))
    with pytest.raises(EconError, match="got filter 32001: repack it"):
        open_images(tmp_path / "a.h5", 16)


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}])
def test_names_of_classes_of_any_length(tmp_path, options):
    names = ["circle", "", "ein Stück Kuchen", "x" * 3000, *(f"class {i}" for i in range(100))]
    for kind in (h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.string_dtype(length=3000)):
        stored = [n.encode(errors="replace") for n in names]
        with h5py.File(tmp_path / "a.h5", "w", **options) as file:
            file["image"], file["mask"] = IMAGES, np.ones((4, 16, 16), int)
            file["label"] = np.array([[0], [1], [2], [103]])
            file.create_dataset("classes", data=stored, dtype=kind)
        assert open_images(tmp_path / "a.h5", 16).classes == tuple(names)


def test_names_in_a_damaged_heap(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"], file["classes"] = IMAGES, ["circle", "square"]
    whole = (tmp_path / "a.h5").read_bytes()
    at = whole.index(b"GCOL")
    for place, value in (
        (at, b"X"),
        (at + 8, b"\xff" * 8),
        (at + 16, b"\0" * 16),
        (at + 24, b"\xff" * 8),
    ):
        raw = bytearray(whole)
        raw[place : place + len(value)] = value
        (tmp_path / "a.h5").write_bytes(raw)
        with pytest.raises(EconError, match="a.h5, damaged in the text of /classes"):
            open_images(tmp_path / "a.h5", 16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = IMAGES
        file.create_dataset("classes", data=["a", "b"], chunks=(1,), dtype=h5py.string_dtype())
    with pytest.raises(EconError, match="as text of a fixed length, .*: write it as numpy.array"):
        open_images(tmp_path / "a.h5", 16)


def test_damage_that_shows_later_names_the_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("image", data=IMAGES, chunks=(1, 16, 16, 3), compression="gzip")
        at = data.id.get_chunk_info(2)
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[at.byte_offset : at.byte_offset + at.size] = bytes(at.size)
    (tmp_path / "a.h5").write_bytes(raw)
    source = open_images(tmp_path / "a.h5", 16)
    assert source.images(torch.tensor([0, 1, 3])).shape[0] == 3
    with pytest.raises(EconError, match="readable HDF5 file, got .*a.h5, damaged in image .*copy"):
        source.images(torch.tensor([1, 2]))


# ------------------------------------------------------------------ arrays


def declare(path, shape, values, descr="|u1", name="image.npy"):
    """An archive with one array that declares a shape, and some values."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w") as file:
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(values >> 20):
                file.write(bytes(1 << 20))


def test_archives_are_unpacked_as_far_as_is_wanted(tmp_path, monkeypatch):
    declare(tmp_path / "a.npz", (13_000_000, 32, 32, 3), 1 << 20)
    with pytest.raises(EconError, match="39,936,000,000 bytes .* declared, 1,048,576 are there"):
        open_images(tmp_path / "a.npz", 16)
    declare(tmp_path / "a.npz", (1024, 64, 64, 4), 16 << 20)
    monkeypatch.setattr("econ_pyro.data.readers.numpy_files.MAX_UNPACKED", 8 << 20)
    with pytest.raises(EconError, match="at most 8,388,608 bytes .* of 16,777,216: take fewer"):
        open_images(tmp_path / "a.npz", 16)
    read = []
    monkeypatch.setattr(
        "econ_pyro.data.readers.numpy_files.extract_array",
        lambda stream, shape, *rest: (
            read.append(shape) or disk_array.extract_array(stream, shape, *rest)
        ),
    )
    source = open_images(tmp_path / "a.npz", 16, limit=10)
    assert len(source) == 10 and source.info.truncated and read == [(10, 64, 64, 4)]


def test_archives_of_other_kinds(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.asfortranarray(IMAGES))
    got = open_images(tmp_path / "a.npz", 16, limit=3).images(ALL[:3])
    np.testing.assert_array_equal((got * 255).round().permute(0, 2, 3, 1), IMAGES[:3])
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("image.npy", b"x")
    with pytest.raises(EconError, match="packed with method 14: write it with numpy.savez"):
        open_images(tmp_path / "a.npz", 16)
    declare(tmp_path / "a.npz", (-1, 8, 8), 1 << 20)
    with pytest.raises(EconError, match=r"image.npy in .*a.npz, of shape \(-1, 8, 8\)"):
        open_images(tmp_path / "a.npz", 16)
    with pytest.raises(EconError, match="4 rows of mask"):  # before it is unpacked
        np.savez(tmp_path / "a.npz", image=IMAGES, mask=np.zeros((5, 16, 16), int))
        open_images(tmp_path / "a.npz", 16, limit=2)


@pytest.mark.parametrize("text", [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1" + "0" * 30 + ", 8, 8), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 8, 8",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4, 8, 8), }",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4, 8, 8), }",
    "(" * 5000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 2000 + ")" * 2000 + ", }",
    "__import__('os')",
    "\x00" * 60,
])  # fmt: skip
def test_headers_of_arrays_are_not_believed(tmp_path, text):
    raw = text.encode()
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(256))
    with pytest.raises(EconError, match="readable .npy file, got .*a.npy"):
        open_images(path, 16)
    path.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + raw)
    with pytest.raises(EconError, match="a header of 4,294,967,295 characters"):
        open_images(path, 16)


def test_masks_of_more_objects_than_there_can_be(tmp_path):
    noise = np.arange(4 * 16 * 16).reshape(4, 16, 16)
    for mask, message in (
        (noise * 7, "at most 255 objects in an image, .* got 25[56] in image"),
        (np.zeros((4, 300, 16, 16), bool), "at most 255 columns of mask .* got 300"),
        (np.full((4, 16, 16), np.inf), "values that are not 0, 1, 2"),
        (np.full((4, 16, 16), 2**64 - 1, np.uint64), "values that are not 0, 1, 2"),
    ):
        np.savez(tmp_path / "a.npz", image=IMAGES, mask=mask)
        with pytest.raises(EconError, match=message):
            open_images(tmp_path / "a.npz", 16).scenes(ALL)
    for more in (
        {"label": np.zeros((4, 10**4))},
        {"label": np.full((4, 1), np.nan)},
        {"label": np.zeros((4, 1)), "visibility": np.array(["a"] * 4)},
        {"label": np.zeros((4, 1)), "classes": np.array([["a"]])},
    ):
        np.savez(tmp_path / "a.npz", image=IMAGES, mask=np.ones((4, 16, 16), int), **more)
        with pytest.raises(EconError, match="label|visibility|classes"):
            open_images(tmp_path / "a.npz", 16)
    np.savez(tmp_path / "a.npz", image=IMAGES, mask=np.ones((4, 16, 16), int),
             label=np.zeros((4, 1)), classes=np.array([b"cat"]))  # fmt: skip
    assert open_images(tmp_path / "a.npz", 16).classes == ("cat",)


def test_many_masks_are_read_in_parts(tmp_path, monkeypatch):
    amodal, numbers, pictures = blocks(7, 4, 24, 24)
    labels = np.tile(np.arange(4), (7, 1))
    np.savez(tmp_path / "a.npz", image=pictures, mask=numbers, amodal=amodal, label=labels)
    source = open_images(tmp_path / "a.npz", 24)
    whole = source.scenes(torch.arange(7))
    monkeypatch.setattr("econ_pyro.data.readers.masks._CHUNK_BYTES", 2 * 4 * 24 * 24)
    parts = source.scenes(torch.arange(7))
    for name in ("image", "region", "mask", "label"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name


# ------------------------------------------------------------------ records


def test_records_that_ask_for_too_much(tmp_path):
    path = tmp_path / "a.tfrecords"
    length = struct.pack("<Q", 2 << 30)
    path.write_bytes(length + masked(length) + bytes(50))
    with pytest.raises(EconError, match="at most 33,554,432 bytes, got .*0 has 2,147,483,648"):
        open_images(path, 16)
    for filler in (b"\x0a\x00", b"\x08\x00", b"\x0a\x02\x0a\x00"):
        path.write_bytes(frame(filler * 150_000))
        with pytest.raises(EconError, match="record 0: more than 100,000 values"):
            open_images(path, 16)
    numbers = encode({"image": np.arange(200_000)})
    path.write_bytes(frame(numbers))
    with pytest.raises(EconError, match="record 0: more than 100,000 values"):
        open_images(path, 16)


def test_records_that_differ(tmp_path):
    image, mask = bytes(35 * 35 * 3), bytes(35 * 35 * 4)
    first = {"image": image, "mask": mask, "shape": np.zeros(4, np.float32)}
    for other, message in (
        ({**first, "mask": mask + bytes(35 * 35)}, "masks of 4 entities .* record 1, with 5 and"),
        ({**first, "orientation": np.zeros(4)}, "the same features, got .*record 1"),
        ({**first, "image": np.zeros(35 * 35 * 3, np.float32)}, "images and masks as bytes"),
    ):
        write_records(tmp_path / "a.tfrecords", [encode(first), encode(other)])
        with pytest.raises(EconError, match=message):
            open_images(tmp_path / "a.tfrecords", 16)


# ------------------------------------------------------------------ pictures and videos


def png(width, height, rows):
    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))


def gif(width, height):
    out = io.BytesIO()
    Image.new("P", (4, 4)).save(out, "GIF")
    return out.getvalue()[:6] + struct.pack("<HH", width, height) + out.getvalue()[10:]


def webp(kind, width, height):
    fields = {
        b"VP8X": bytes([16, 0, 0, 0]) + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little") + bytes(5),
        b"VP8 ": b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[kind]  # fmt: skip
    body = b"WEBP" + kind + struct.pack("<I", len(fields)) + fields
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("raw", [
    png(20_000, 20_000, bytes(100)),
    webp(b"VP8X", 16_000, 16_000), webp(b"VP8L", 16_000, 16_000), webp(b"VP8 ", 16_000, 16_000),
    gif(60_000, 60_000),
])  # fmt: skip
def test_pictures_are_refused_by_their_size_before_they_are_decoded(tmp_path, monkeypatch, raw):
    (tmp_path / "a").write_bytes(raw)
    opened = []
    monkeypatch.setattr(Image.Image, "load", lambda self: opened.append(self))
    if raw[:4] == b"RIFF":  # whose decoder takes memory when it opens a file
        monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(args))
    with pytest.raises(EconError, match="at most 89,478,485 pixels, got .*a, which is larger"):
        images.decode(tmp_path / "a", 16)
    assert opened == []


def test_animations_of_too_many_pixels(tmp_path, monkeypatch):
    pictures = [Image.new("RGB", (100, 100), (28 * i, 0, 99)) for i in range(9)]
    monkeypatch.setattr(video, "MAX_PIXELS", 50_000)
    for name in ("a.gif", "a.png", "a.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        with pytest.raises(EconError, match=f"50,000 pixels in all .*{name}.* 9 frames of 100 x"):
            open_images(tmp_path / name, 16)
        assert len(open_images(tmp_path / name, 16, limit=4)) == 4


def test_files_and_sprites_that_are_too_large(tmp_path, monkeypatch):
    Image.new("RGBA", (5000, 2), "red").save(tmp_path / "a.png")
    with pytest.raises(EconError, match="at most 4,096 pixels per side, got .*a.png, with 5,000"):
        SpriteSet(SceneConfig(sprites=str(tmp_path)))
    Image.new("RGBA", (9, 9), "red").save(tmp_path / "a.png")
    monkeypatch.setattr("econ_pyro.data.synthetic.sprites._MAX_TOTAL_TEXELS", 100)
    with pytest.raises(EconError, match="at most 0 sprites at 32 pixels.* got 1 in"):
        SpriteSet(SceneConfig(sprites=str(tmp_path)))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(EconError, match="a.png, which has .*|image file of at most 10 bytes"):
        images.decode(tmp_path / "a.png")


@pytest.mark.parametrize("text", [
    "ffconcat version 1.0\nfile other.mp4\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nm=video 5004 RTP/AVP 96\r\n",
])  # fmt: skip
def test_playlists_show_no_other_file(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "other.mp4")
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(EconError, match="readable video, got .*a.mp4"):
        list(video.frames(tmp_path / "a.mp4"))


def test_a_file_with_the_name_of_a_protocol_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "other.mp4")
    (tmp_path / "concat:other.mp4").write_bytes(b"no video")
    with pytest.raises(EconError, match="readable video"):
        list(video.frames(Path("concat:other.mp4")))


def test_videos_of_absurd_sizes(tmp_path):
    raw = bytearray(write_video(tmp_path / "a.avi", "rawvideo").read_bytes())
    struct.pack_into("<ii", raw, raw.index(b"strf") + 12, 16_000, 16_000)
    (tmp_path / "a.avi").write_bytes(raw)
    with pytest.raises(EconError, match="at most 89,478,485 pixels, got .*a.avi"):
        open_images(tmp_path / "a.avi", 16)


# ------------------------------------------------------------------ things that are no files


@pytest.fixture
def zoo(tmp_path):
    """A folder with a picture, a link to another one outside, and ten things that are none."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for path in (folder / "a.png", tmp_path / "outside.png"):
        Image.new("RGBA", (16, 16), "red").save(path)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    os.mkfifo(folder / "pipe.tfrecords")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "round.png").symlink_to("round.png")
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    (folder / "folder").symlink_to(".")
    (folder / "endless.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "socket"))
    return folder


ODD = {"pipe.png", "pipe.mp4", "pipe.tfrecords", "gone.png", "round.png", "one", "two", "folder",
       "endless.png", "socket"}  # fmt: skip


def test_folders_with_things_that_are_no_files(zoo):
    files, odd = untrusted.walk(zoo, "images")
    assert [path.name for path in files] == ["a.png", "link.png"]
    assert {path.name for path in odd} == ODD
    with pytest.warns(UserWarning, match="skipped 10 of 12 .*endless.png, which is a device"):
        source = open_images(zoo, 16)
    assert len(source) == 2 and len(source.skipped) == 10
    with pytest.raises(EconError, match="endless.png, which is a device"):
        open_images(zoo, 16, strict=True)
    with pytest.warns(UserWarning, match="skipped 10 of 12"):
        assert [path.name for path in images.find_images([zoo])] == ["a.png", "link.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(inspect(zoo, "crop", 10).info.skipped) == 10
    with pytest.raises(EconError, match="endless.png, which is a device"):
        find_sprites(zoo)
    for name in ("endless.png", "pipe.png", "gone.png", "round.png"):
        (zoo / name).unlink()
    assert list(find_sprites(zoo)) == ["a", "link"]


def test_parts_of_a_record_set_that_are_no_files(tmp_path):
    each = {"image": bytes(35 * 35 * 3), "mask": bytes(35 * 35 * 4)}
    write_records(tmp_path / "a.tfrecords-1", [encode(each)])
    os.mkfifo(tmp_path / "a.tfrecords-2")
    with pytest.warns(UserWarning, match="skipped 1 of 2 .*a.tfrecords-2, which is a named pipe"):
        assert len(open_images(tmp_path, 16)) == 1
    with pytest.raises(EconError, match="a.tfrecords-2, which is a named pipe"):
        open_images(tmp_path, 16, strict=True)


@pytest.mark.parametrize("name", sorted(ODD - {"folder"}))
def test_a_path_that_is_no_file(zoo, name):
    for read in (lambda path: open_images(path, 16), images.decode, images.read_image):
        with pytest.raises(EconError, match=f"{name}, (a link to|a broken link|which is a)"):
            read(zoo / name)


def test_messages_are_one_line_of_text_whatever_a_file_is_called(tmp_path):
    for name in ("a\nb.png", "\x1b[31mred.png", os.fsdecode(b"\xff\xfe.png")):
        (tmp_path / name).write_text("x")
    with pytest.raises(EconError) as error:
        images.decode(tmp_path / "a\nb.png")
    assert "a\\nb.png" in str(error.value) and str(error.value).isprintable()
    with pytest.warns(UserWarning) as said, pytest.raises(EconError, match="none among its 3"):
        open_images(tmp_path, 16)
    assert all(str(warning.message).isprintable() for warning in said)
