"""Sources of images: their splits, the order in training, files that are not what they seem."""

import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from econ_pyro.data.images import decode_cutout, find_images, read_image
from econ_pyro.data.readers.image_folder import ImageFolder
from econ_pyro.data.splits import batch_indices, open_split, split
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

SMALL = SceneConfig(size=16)


def save(path: Path, pixels=(10, 20, 30), size=(16, 16), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, pixels).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Forty pictures, number i with red value i, in two folders."""
    for i in range(40):
        save(tmp_path / ("a" if i < 25 else "b") / f"{i:02}.png", (i, 0, 0))
    return tmp_path


# ------------------------------------------------------------------ order in training


@given(n=st.integers(1, 50), batch=st.integers(1, 120), seed=st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_each_epoch_takes_each_image_once(n, batch, seed):
    steps = -(-3 * n // batch)
    batches = [batch_indices(n, batch, step, seed) for step in range(steps)]
    assert all(len(b) == batch and b.dtype == torch.int64 for b in batches)
    for epoch in torch.cat(batches)[: 3 * n].split(n):
        assert epoch.sort().values.tolist() == list(range(n))
    # a function of the step alone: any order of asking gives the same
    assert torch.equal(batch_indices(n, batch, steps - 1, seed), batches[-1])


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(batch_indices(30, 30, e, s).tolist()) for e in range(9) for s in range(9)}
    assert len(orders) == 81
    first = Counter(int(batch_indices(4, 1, 4 * e, 0)) for e in range(400))
    assert all(65 < count < 135 for count in first.values())  # 100 +- 4 sigma
    batch_indices(30, 30, 0, 0)[0] = -1
    assert batch_indices(30, 30, 0, 0).min() == 0


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_nothing_to_take(n, batch):
    with pytest.raises(EconError, match="at least 1 image and a batch of at least 1"):
        batch_indices(n, batch, 0, 0)


# ------------------------------------------------------------------ generated scenes


def test_generated_scenes_and_their_splits():
    split = open_split(None, SMALL, 16, seed=1, n=300, n_valid=200)
    assert (len(split.train), len(split.valid)) == (300, 200)
    images = [s.images(torch.arange(len(s))) for s in (split.train, split.valid)]
    assert len(torch.cat(images).flatten(1).unique(dim=0)) == 500
    assert torch.equal(split.train.scenes(torch.tensor([7])).image[0], images[0][7])
    assert split.train.size == 16 and split.train.classes == SMALL.classes
    with pytest.raises(EconError, match="images of 32 pixels, the model's size, got 16"):
        open_split(None, SMALL, 32, seed=1, n=3)


def test_generated_scenes_out_of_range():
    source = GeneratedScenes(SMALL, 0, 4)
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match="in 0 to 3"):
            source.images(torch.tensor([wrong]))
    with pytest.raises(EconError, match="at least 1 scene and fewer than 2\\^31, got 0"):
        GeneratedScenes(SMALL, 0, 0)
    with pytest.raises(EconError, match="train or valid, got 'test'"):
        GeneratedScenes(SMALL, 0, 4, "test")


# ------------------------------------------------------------------ folders of pictures


def test_folder_of_pictures(pictures):
    folder = ImageFolder(pictures, 16)
    assert len(folder) == 40 and folder.skipped == [] and folder.scenes(torch.arange(2)) is None
    images = folder.images(torch.tensor([39, 3]))
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.float32
    assert images.is_contiguous()
    assert images[:, 0, 0, 0].tolist() == pytest.approx([39 / 255, 3 / 255])
    split = open_split(pictures, SMALL, 16, seed=0, n=1)
    reds = [s.images(torch.arange(len(s)))[:, 0, 0, 0] * 255 for s in (split.train, split.valid)]
    assert reds[1].round().tolist() == [19, 39]
    assert sorted(torch.cat(reds).round().tolist()) == list(range(40))


@pytest.mark.parametrize(("n", "held_out"), [(2, 1), (3, 1), (19, 1), (20, 1), (59, 2)])
def test_at_least_one_picture_is_held_out(tmp_path, n, held_out):
    for i in range(n):
        save(tmp_path / f"{i:03}.png")
    held = split(ImageFolder(tmp_path, 16), 100)
    assert (len(held.train), len(held.valid)) == (n - held_out, held_out)


def test_one_picture_cannot_be_split(tmp_path):
    save(tmp_path / "only.png")
    with pytest.raises(EconError, match="at least 2 images, one to train on"):
        open_split(tmp_path, SMALL, 16, 0)


def test_unreadable_files_are_named_and_skipped(pictures):
    (pictures / "notes.txt").write_text("not a picture")
    whole = save(pictures / "x.jpg", size=(64, 64)).read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "empty.png").touch()
    (pictures / ".hidden").write_text("never looked at")
    with pytest.warns(UserWarning, match="skipped 3 of 44 files.*cut.jpg.*empty.png.*notes.txt"):
        folder = ImageFolder(pictures, 16)
    assert len(folder) == 41 and len(folder.skipped) == 3
    with pytest.raises(EconError, match="readable PNG, JPEG, GIF or WebP image, got .*cut.jpg"):
        ImageFolder(pictures, 16, strict=True)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(EconError, match="images or videos, got .*, empty"):
        ImageFolder(tmp_path, 16)
    (tmp_path / "a.txt").write_text("a")
    with (
        pytest.warns(UserWarning, match="a.txt .not a PNG, JPEG, GIF or WebP."),
        pytest.raises(EconError, match="none among its 1 files"),
    ):
        ImageFolder(tmp_path, 16)
    with pytest.raises(EconError, match="nowhere, which does not exist"):
        ImageFolder(tmp_path / "nowhere", 16)
    with pytest.raises(EconError, match="a.txt, which has none of these formats"):
        open_split(tmp_path / "a.txt", SMALL, 16, 0)


def test_find_images(pictures):
    single = save(pictures / "c" / "picture.data.png")
    (pictures / "b" / "notes.txt").write_text("x")
    assert len(find_images([pictures])) == 41
    assert find_images([single, pictures / "b"])[0] == single
    (pictures / "d").mkdir()
    with pytest.raises(EconError, match="which has none"):
        find_images([pictures / "d"])
    with pytest.raises(EconError, match="missing.png: no such file"):
        find_images([pictures / "missing.png"])


# ------------------------------------------------------------------ one picture


def test_a_picture_of_the_right_size_is_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for size in (None, 16):
        got = read_image(tmp_path / "a.png", size)
        assert got.dtype == torch.float32
        assert np.array_equal((got * 255).round().permute(1, 2, 0).numpy(), pixels)


def test_crop_keeps_the_middle_and_resize_stretches(tmp_path):
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255  # black, white, black thirds
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 32, "crop") == 1).all()
    stretched = read_image(tmp_path / "a.png", 32, "resize", "area")
    assert stretched.mean() == pytest.approx(1 / 3, abs=0.001)
    assert read_image(tmp_path / "a.png").shape == (3, 32, 96)


def test_modes_become_rgb(tmp_path):
    def first(image, **options):
        image.save(tmp_path / "m.png", **options)
        return [round(v * 255) for v in read_image(tmp_path / "m.png", 8)[:, 0, 0].tolist()]

    assert first(Image.new("L", (8, 8), 77)) == [77] * 3
    assert first(Image.new("1", (8, 8), 1)) == [255] * 3
    assert first(Image.new("RGBA", (8, 8), (200, 0, 0, 0))) == [255] * 3  # clear: white
    assert first(Image.new("RGBA", (8, 8), (200, 0, 0, 255))) == [200, 0, 0]
    assert first(Image.new("LA", (8, 8), (0, 128))) == [127] * 3
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert first(palette) == [9, 8, 7]
    assert first(palette, transparency=1) == [255] * 3
    deep = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    assert first(deep) == [128] * 3


def write_png(path, values, kind, bits=16, clear=b""):
    """A PNG file by its specification: ``values`` (H, W, C), 16 bits or packed bytes a row."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width = values.shape[:2]
    rows = values.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    width = width if bits >= 8 else rows.shape[1] * 8 // bits
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_a_channel_are_rounded(tmp_path, kind, channels):
    values = np.random.default_rng(0).integers(0, 65536, (40, 30, channels))
    if channels in (2, 4):
        values[..., -1] = 65535 * (np.arange(30) % 2)  # every second column is clear
    write_png(tmp_path / "a.png", values, kind)
    want = np.round(values / 257)
    colours = want[..., : 3 if channels > 2 else 1].repeat(1 if channels > 2 else 3, -1)
    if channels in (2, 4):
        colours[:, ::2] = 255
        assert (decode_cutout(tmp_path / "a.png")[..., 3] == want[..., -1]).all()
        assert (decode_cutout(tmp_path / "a.png")[:, 1::2, :3] == colours[:, 1::2]).all()
    got = (read_image(tmp_path / "a.png") * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(got, colours)
    folder = ImageFolder(tmp_path, 16, "resize")
    assert len(folder) == 1 and folder.images(torch.arange(1)).shape == (1, 3, 16, 16)


def test_a_clear_colour_is_clear_whatever_its_bits(tmp_path):
    for bits, packed, clear in ((1, 0b01010101, 1), (2, 0b00011011, 2), (4, 0x19, 9)):
        write_png(
            tmp_path / "a.png", np.full((1, 1, 1), packed), 0, bits, struct.pack(">H", clear)
        )
        levels = [packed >> s & 2**bits - 1 for s in range(8 - bits, -1, -bits)]
        want = [255 if v == clear else v * 255 // (2**bits - 1) for v in levels]
        assert (read_image(tmp_path / "a.png")[0, 0] * 255).round().tolist() == want
    grey = np.array([1234, 1235, 4660]).reshape(1, 3, 1)  # the upper bytes of two are the same
    write_png(tmp_path / "a.png", grey, 0, clear=struct.pack(">H", 1234))
    assert (read_image(tmp_path / "a.png")[0, 0] * 255).round().tolist() == [255, 5, 18]
    write_png(tmp_path / "a.png", grey.repeat(3, 2), 2, clear=struct.pack(">HHH", *[1235] * 3))
    assert (read_image(tmp_path / "a.png")[1, 0] * 255).round().tolist() == [5, 255, 18]


def test_cmyk_and_large_transparent_pictures(tmp_path, monkeypatch):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert read_image(tmp_path / "a.jpg")[:, 4, 4].round().tolist() == [1, 0, 0]
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr("econ_pyro.data.images._STRIP", 20 * 7)  # seven rows at a time
    assert torch.equal(read_image(tmp_path / "a.png"), whole)
    alpha = pixels[..., 3:] / 255
    want = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(whole.permute(1, 2, 0).numpy() * 255 - want).max() <= 1


def test_odd_metadata_is_no_reason_to_stop(tmp_path):
    for exif in (
        b"Exif\0\0XXXX\0\0\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\1",
    ):
        for name in ("a.jpg", "a.png", "a.webp"):
            save(tmp_path / name, exif=exif)
            assert read_image(tmp_path / name).shape == (3, 16, 16)


def test_camera_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), "white")
    image.paste("black", (0, 0, 8, 8))  # left half black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    got = read_image(tmp_path / "a.jpg")
    assert got.shape == (3, 16, 8)
    assert got[:, :7].max() < 0.1 and got[:, 9:].min() > 0.9


def test_pictures_that_fill_the_memory(tmp_path, monkeypatch):
    save(tmp_path / "big.png", size=(40, 40))
    for limit in (1000, 500):  # Pillow warns above the limit and refuses above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(EconError, match=f"at most {limit:,} pixels, got .*big.png"):
            read_image(tmp_path / "big.png")


def test_unreadable_pictures(tmp_path):
    with pytest.raises(EconError, match="gone.png, which does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(EconError, match="which is a folder"):
        read_image(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EconError, match="readable PNG, JPEG, GIF or WebP image, got .*a.png"):
            read_image(tmp_path / "a.png")


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_pictures_are_read_or_named(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    name = data.draw(st.sampled_from(["a.png", "a.jpg"]))
    raw = bytearray(save(folder / name, size=(20, 20)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        image = read_image(folder / name, 8)
    except EconError as error:
        assert name in str(error)
    else:
        assert image.shape == (3, 8, 8) and image.min() >= 0 and image.max() <= 1
