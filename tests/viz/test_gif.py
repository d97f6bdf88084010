"""Animated build-ups, read back with Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.core.compositing import stages
from econ_pyro.viz import gif, panels


def frames(path):
    with Image.open(path) as opened:
        assert opened.format == "GIF" and opened.info["loop"] == 0  # 0: for ever
        for i in range(opened.n_frames):
            opened.seek(i)
            yield opened.info["duration"], np.asarray(opened.convert("RGB")).astype(int)


@pytest.mark.parametrize("batch", [1, 3])
def test_each_frame_has_a_layer_more_and_the_last_stays(tmp_path, batch):
    colours = torch.randint(0, 256, (batch, 4, 3, 1, 1)) / 255
    shape = torch.zeros(batch, 4, 1, 16, 16)
    for i in range(4):  # front to back, each a strip; the last is everywhere
        shape[:, i, :, :, 4 * i : 4 * i + 4] = 1
    shape[:, 3] = 1
    painted = stages(shape, colours.expand(-1, -1, -1, 16, 16))
    path = gif.build_up(painted, tmp_path / "a.gif")
    read = list(frames(path))
    assert [duration for duration, _ in read] == [700, 700, 700, 2000]
    for i, (_, sheet) in enumerate(read):
        assert sheet.shape == (96 + 2 * panels.MARGIN + 1,) + sheet.shape[1:]
        for b in range(batch):
            left = panels.MARGIN + b * (96 + panels.GAP)
            panel = sheet[panels.MARGIN : panels.MARGIN + 96, left : left + 96]
            for x in range(4):
                owner = x if x >= 3 - i else 3  # painted from the back
                want = (colours[b, owner, :, 0, 0] * 255).round().numpy()
                assert abs(panel[:, 24 * x : 24 * x + 24] - want).max() <= 2


def test_what_is_not_painted_is_a_checkerboard(tmp_path):
    path = gif.build_up(torch.zeros(1, 0, 4, 16, 16), tmp_path / "a.gif")
    with Image.open(path) as opened:
        inner = np.asarray(opened.convert("RGB"))[14:110, 14:110]
    greys = [round(255 * level) for level in panels.CHECKER]
    assert np.unique(inner).tolist() == greys
