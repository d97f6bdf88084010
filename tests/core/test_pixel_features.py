"""Which pixels are alike: logits about the means of layers, against a loop."""

import math

import pytest
import torch

from econ_pyro.core.pixel_features import NEAR, like_last, logits_around, logits_of_layers


def features(*boxes, images=1, size=8, dtype=torch.float64):
    """Sharpness 2 and two features, which are 0 but in boxes of rows and columns."""
    found = torch.zeros(images, 3, size, size, dtype=dtype)
    found[:, 0] = 2.0
    for i, (rows, columns), value in boxes:
        found[i, 1:, rows, columns] = torch.tensor(value, dtype=dtype)[:, None, None]
    return found


def test_logits_end_where_regions_do():
    f = features((0, (slice(0, 1), slice(0, 1)), (math.sqrt(NEAR), 0.0)))
    logits = logits_around(torch.zeros(1, 2).double(), f)
    assert logits.shape == (1, 1, 8, 8)
    assert logits[0, 0, 0, 0].item() == pytest.approx(0.0, abs=1e-12)
    assert (logits.flatten()[1:] == 8.0).all()  # 4 g


def test_logits_of_layers_are_about_the_means_of_their_regions():
    generator = torch.Generator().manual_seed(0)
    f = torch.rand(2, 4, 6, 6, generator=generator, dtype=torch.float64)
    r = torch.rand(2, 3, 1, 6, 6, generator=generator, dtype=torch.float64).softmax(1)
    r[1, 0] = 0.0
    logits = logits_of_layers(f, r)
    assert logits.shape == r.shape
    for b in range(2):
        for t in range(3):
            if not r[b, t].any():
                assert not logits[b, t].any()
                continue
            mean = [(r[b, t, 0] * f[b, c]).sum() / r[b, t].sum() for c in (1, 2, 3)]
            for y in range(6):
                for x in range(6):
                    d2 = sum((f[b, c + 1, y, x] - m) ** 2 for c, m in enumerate(mean))
                    expected = f[b, 0, y, x] * (4 - 20 * d2 / (d2 + 1 / 22))
                    torch.testing.assert_close(logits[b, t, 0, y, x], expected)


def test_layers_like_the_last_are_those_within_its_reach():
    near, far = (0.1, 0.0), (0.0, 0.12)  # a region ends at 0.107
    first, second, third = ((slice(4 * i, 4 * i + 4), slice(0, 4)) for i in range(3))
    half = (slice(8, 10), slice(0, 4))  # of the third layer, whose mean is 0.2 away
    f = features(*((i, first, near) for i in (0, 1)), *((i, second, far) for i in (0, 1)),
                 (1, half, (0.4, 0.0)), images=2, size=16)  # fmt: skip
    r = torch.zeros(2, 5, 1, 16, 16, dtype=f.dtype)
    for t, (rows, columns) in enumerate((first, second, third)):  # the fourth has no region
        r[:, t, :, rows, columns] = 1.0
    r[:, 4] = 1 - r[:, :4].sum(1)
    like = like_last(f, r)
    assert like.tolist() == [[True, False, True, False, False], [True, False, False, False, False]]
