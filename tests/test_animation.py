"""Animated build-ups, read back with Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro import animation, canvas
from econ_pyro.layers import stages


def frames(path):
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.info["loop"] == 0  # 0: for ever
        for i in range(gif.n_frames):
            gif.seek(i)
            yield gif.info["duration"], np.asarray(gif.convert("RGB")).astype(int)


@pytest.mark.parametrize("batch", [1, 3])
def test_each_frame_has_a_layer_more_and_the_last_stays(tmp_path, batch):
    colours = torch.randint(0, 256, (batch, 4, 3, 1, 1)) / 255
    shape = torch.zeros(batch, 4, 1, 16, 16)
    for i in range(4):  # front to back, each a strip; the last is everywhere
        shape[:, i, :, :, 4 * i : 4 * i + 4] = 1
    shape[:, 3] = 1
    painted = stages(shape, colours.expand(-1, -1, -1, 16, 16))
    path = animation.build_up(painted, tmp_path / "a.gif")
    read = list(frames(path))
    assert [duration for duration, _ in read] == [700, 700, 700, 2000]
    for i, (_, sheet) in enumerate(read):
        assert sheet.shape == (96 + 2 * canvas.MARGIN + 1,) + sheet.shape[1:]
        for b in range(batch):
            left = canvas.MARGIN + b * (96 + canvas.GAP)
            panel = sheet[canvas.MARGIN : canvas.MARGIN + 96, left : left + 96]
            for x in range(4):
                owner = x if x >= 3 - i else 3  # painted from the back
                want = (colours[b, owner, :, 0, 0] * 255).round().numpy()
                assert abs(panel[:, 24 * x : 24 * x + 24] - want).max() <= 2


def test_what_is_not_painted_is_a_checkerboard(tmp_path):
    path = animation.build_up(torch.zeros(1, 0, 4, 16, 16), tmp_path / "a.gif")
    with Image.open(path) as gif:
        inner = np.asarray(gif.convert("RGB"))[14:110, 14:110]
    greys = [round(255 * level) for level in canvas.CHECKER]
    assert np.unique(inner).tolist() == greys
