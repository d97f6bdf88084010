"""Decoders that draw about a place, and encoders that find it."""

import pytest
import torch

from econ_pyro.config import ExpertConfig
from econ_pyro.errors import EconError
from econ_pyro.guides.encoder import Encoder
from econ_pyro.models.decoder import SpatialBroadcastDecoder
from econ_pyro.place import PLACE, centre, coordinates

SMALL = ExpertConfig(latent=3, layers=2, features=8, channels=(4, 4), centred=True)
PIXEL = 2 / 31  # of the coordinates of 32 pixels


def test_centre_is_the_mean_pixel():
    r = torch.full((1, 1, 32, 32), 1e-9)
    r[0, 0, 4:8, 10:20] = 0.7
    y, x = (PLACE * centre(r, coordinates(32))[0]).tolist()
    assert y == pytest.approx(-1 + PIXEL * 5.5, abs=1e-4)  # rows 4 to 7
    assert x == pytest.approx(-1 + PIXEL * 14.5, abs=1e-4)


def test_what_is_drawn_moves_with_its_place():
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(SMALL, 32).double()
    here = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.double)
    there = here + torch.tensor([[3 * PIXEL / PLACE, -2 * PIXEL / PLACE, 0.0]])
    a, b = decoder(here), decoder(there)
    inner = slice(6, 26)  # away from the border, which convolutions pad
    moved = a.roll((3, -2), (2, 3))
    torch.testing.assert_close(b[..., inner, inner], moved[..., inner, inner], atol=1e-5, rtol=0)
    assert (a - b).abs().max() > 1e-3


def test_a_new_encoder_is_within_one_of_the_centre():
    torch.manual_seed(0)
    encoder, r = Encoder(SMALL, 32), torch.full((2, 1, 32, 32), 1e-5)
    r[0, 0, :8, :8] = 1
    r[1, 0, 20:, 10:30] = 1
    out = encoder(torch.cat([torch.rand(2, 3, 32, 32), r.log()], 1))
    assert out.shape == (2, 6)
    assert (out[:, :2] - centre(r, coordinates(32))).abs().max() < 1


def test_a_place_takes_two_latents():
    with pytest.raises(EconError, match="at least 2 latents"):
        ExpertConfig(latent=1, centred=True)
