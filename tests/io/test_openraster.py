"""OpenRaster files, read back with zipfile, an XML parser and the formula of "over"."""

import io
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.io.openraster import RasterLayer, merge, write_ora


def read_ora(path):
    """Attributes of the image, and attributes and pixels of its layers, top first."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        layers = [
            (
                dict(layer.attrib),
                np.asarray(Image.open(io.BytesIO(archive.read(layer.get("src"))))),
            )
            for layer in stack.find("stack")
        ]
        merged = np.asarray(Image.open(io.BytesIO(archive.read("mergedimage.png"))))
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
        return dict(stack.attrib), layers, merged, thumbnail


def over(layers, height, width):
    """The layers, front to back, one over the other in float64; RGB times alpha, and alpha."""
    colour, alpha = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for attributes, pixels in reversed(layers):
        if attributes["visibility"] == "hidden":
            continue
        for y in range(pixels.shape[0]):
            for x in range(pixels.shape[1]):
                i, j = int(attributes["y"]) + y, int(attributes["x"]) + x
                if not (0 <= i < height and 0 <= j < width):
                    continue
                a = pixels[y, x, 3] / 255 * float(attributes["opacity"])
                colour[i, j] = a * pixels[y, x, :3] + (1 - a) * colour[i, j]
                alpha[i, j] = a + (1 - a) * alpha[i, j]
    return colour, alpha


def random_layers(seed, n=4, height=9, width=7):
    rng = np.random.default_rng(seed)
    layers = []
    for i in range(n):
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] *= rng.random((height, width)) < 0.3
        x, y = (int(v) for v in rng.integers(-3, 4, 2))
        layers.append(RasterLayer(f"layer {i}", pixels, x, y, bool(i % 3), 1.0 if i % 2 else 0.5))
    return layers


@pytest.mark.parametrize("seed", range(4))
def test_merged_image_is_the_layers_one_over_the_other(tmp_path, seed):
    path = tmp_path / "a.ora"
    layers = random_layers(seed)
    write_ora(path, layers, 7, 9)
    image, stored, merged, _ = read_ora(path)
    assert (image["w"], image["h"]) == ("7", "9")
    colour, alpha = over(stored, 9, 7)
    assert merged.shape == (9, 7, 4)
    np.testing.assert_allclose(merged[..., 3] / 255, alpha[..., 0], atol=4 / 255)
    shown = merged[..., :3] * (merged[..., 3:] / 255)
    np.testing.assert_allclose(shown, colour, atol=5)
    assert np.array_equal(merged, np.asarray(merge(layers, 7, 9)))  # cutting changes nothing


def test_archive_is_as_the_specification_has_it(tmp_path):
    path = tmp_path / "a.ora"
    write_ora(path, random_layers(0), 7, 9)
    # the type at a fixed place: a local header of 30 bytes, the name, then the stored text
    assert path.read_bytes()[30:54] == b"mimetypeimage/openraster"
    with zipfile.ZipFile(path) as archive:
        first, *rest = archive.infolist()
        assert first.filename == "mimetype" and first.compress_type == zipfile.ZIP_STORED
        assert archive.read("mimetype") == b"image/openraster"
        names = {info.filename for info in rest}
    sources = {f"data/layer-{i:03d}.png" for i in range(1, 5)}
    assert names == {"stack.xml", "mergedimage.png", "Thumbnails/thumbnail.png", *sources}


def test_layers_are_cut_and_keep_order_names_and_place(tmp_path):
    pixels = np.zeros((6, 8, 4), np.uint8)
    pixels[2:4, 3:7] = (10, 20, 30, 40)
    other = np.full((6, 8, 4), 255, np.uint8)
    front = RasterLayer('circle <&"> \x00 é (layer 1)', pixels, visible=False)
    back, empty = RasterLayer("back", other, 5, -1), RasterLayer("", np.zeros_like(pixels))
    write_ora(tmp_path / "a.ora", [front, back, empty], 8, 6)
    _, layers, _, _ = read_ora(tmp_path / "a.ora")
    a, b, c = (attributes for attributes, _ in layers)
    assert a["name"] == 'circle <&"> \ufffd é (layer 1)' and b["name"] == "back"
    assert (a["x"], a["y"], a["visibility"]) == ("3", "2", "hidden")
    assert (b["x"], b["y"], b["visibility"], b["opacity"]) == ("5", "-1", "visible", "1")
    assert [p.shape for _, p in layers] == [(2, 4, 4), (6, 8, 4), (1, 1, 4)]
    assert np.array_equal(layers[0][1], pixels[2:4, 3:7]) and c["composite-op"] == "svg:src-over"


@pytest.mark.parametrize(("size", "thumbnail"), [((600, 300), (256, 128)), ((20, 10), (20, 10))])
def test_thumbnail_is_the_merged_image_made_small_but_never_large(tmp_path, size, thumbnail):
    pixels = np.full((size[1], size[0], 4), (200, 100, 50, 255), np.uint8)
    write_ora(tmp_path / "a.ora", [RasterLayer("all", pixels)], *size)
    _, _, merged, small = read_ora(tmp_path / "a.ora")
    assert small.size == thumbnail and small.format == "PNG" and not small.info.get("interlace")
    assert np.unique(np.asarray(small).reshape(-1, 4), axis=0).tolist() == [[200, 100, 50, 255]]


def test_equal_layers_give_equal_bytes(tmp_path):
    for name in ("a.ora", "b.ora"):
        write_ora(tmp_path / name, random_layers(3), 7, 9)
    assert (tmp_path / "a.ora").read_bytes() == (tmp_path / "b.ora").read_bytes()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (RasterLayer("a", np.zeros((4, 4, 3), np.uint8)), r"\(H, W, 4\) uint8 of layer 'a'"),
        (RasterLayer("a", np.zeros((4, 4, 4))), "got float64"),
        (RasterLayer("a", np.zeros((4, 4, 4), np.uint8), opacity=1.5), "from 0 to 1, got 1.5"),
    ],
)
def test_wrong_layers_are_explained(tmp_path, layer, message):
    with pytest.raises(EconError, match=message):
        write_ora(tmp_path / "a.ora", [layer], 4, 4)
    assert not list(tmp_path.iterdir())
