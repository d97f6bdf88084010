"""Frames of animations and videos against the pictures they were made of."""

import builtins

import numpy as np
import pytest
import torch

from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.readers.video import frames, is_video
from econ_pyro.data.splits import open_split
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig
from helpers.pictures import LEVELS, pictures, write_video


@pytest.mark.parametrize(("name", "options"), [
    ("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}),
])  # fmt: skip
def test_animations_through_pillow(tmp_path, name, options):
    first, *rest = pictures()
    path = tmp_path / name
    first.save(path, save_all=True, append_images=rest, duration=40, **options)
    assert not is_video(path)
    got = list(frames(path))
    assert [int(f.pixels[12, 20, 1]) for f in got] == LEVELS
    assert all(f.original_size == (32, 24) and (f.pixels[:, :3] == 255).all() for f in got)
    source = open_images(path, 16)
    assert len(source) == 6 and source.info.kind == f"a video or animation, {name}"
    assert source.info.sequential and source.info.original_sizes == {(32, 24): 6}
    split = open_split(path, SceneConfig(), 16, 0)
    assert (len(split.train), len(split.valid)) == (5, 1)
    last = split.valid.images(torch.tensor([0]))[0]
    assert last[0, 8, 8].item() == pytest.approx(LEVELS[-1] / 255, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_videos_through_pyav(tmp_path, name):
    path = write_video(tmp_path / name)
    assert is_video(path)
    got = [int(f.pixels[12, 20, 1]) for f in frames(path)]
    np.testing.assert_allclose(got, LEVELS, atol=12)  # compressed with loss
    assert len(open_images(path, 16)) == 6
    path.rename(tmp_path / "nameless")
    assert len(open_images(tmp_path / "nameless", 16)) == 6  # told by its beginning


def test_a_folder_of_pictures_and_videos(tmp_path):
    write_video(tmp_path / "b.mp4")
    pictures()[2].save(tmp_path / "a.jpg")
    pictures()[0].save(tmp_path / "c.gif", save_all=True, append_images=pictures()[1:])
    source = open_images(tmp_path, 16)
    assert len(source) == 13 and "3 image and video files" in source.info.kind
    few = open_images(tmp_path, 16, limit=4)
    assert len(few) == 4 and few.info.truncated


def test_damaged_videos(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EconError, match="readable video, got .*a.mp4"):
        open_images(path, 16)
    path.write_text("neither fish nor fowl, but with the name of a video")
    with pytest.raises(EconError, match="readable video, got .*a.mp4"):
        open_images(path, 16)
    pictures()[0].save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="skipped 1 of 2 files .*a.mp4"):
        assert len(open_images(tmp_path, 16)) == 1
    with pytest.raises(EconError, match="a.mp4"):
        open_images(tmp_path, 16, strict=True)

    def without(name, *args, real=builtins.__import__):
        if name == "av":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EconError, match=r"package av.*pip install 'econ-pyro\[video\]'"):
        open_images(path, 16)
