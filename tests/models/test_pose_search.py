"""The search for poses: what is displaced comes back, also where half of it is hidden."""

import math

import pytest
import torch

from econ_pyro.core.pose import direction_of, latents_of_position, position_of
from econ_pyro.econ import Econ
from econ_pyro.models.pose_search import fitting_poses
from helpers.odd_shape import odd_decoder
from helpers.trainers import TINY, changed, small_expert

EXPERT = small_expert(8, features=8, pose=True, size=True, angle=True, shape_dim=5)


@pytest.fixture
def decoder(monkeypatch):
    return odd_decoder(EXPERT, monkeypatch)


def latents(position, log_size, degrees):
    angle = math.radians(degrees)
    z = torch.zeros(1, 8, dtype=torch.double)
    z[:, :2] = latents_of_position(torch.tensor([position], dtype=torch.double), 1.0)
    z[0, 2] = log_size
    z[0, 3:5] = 1.5 * torch.tensor([math.cos(angle), math.sin(angle)])
    return z


def drawn(decoder, shape, z):
    return decoder(z, shape)[:, 3:].detach()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_displaced_object_is_found(decoder, hidden):
    decoder, shape = decoder
    true, guess = latents((0.2, -0.1), 0.3, 40.0), latents((0.3, 0.05), 0.1, 60.0)
    m = drawn(decoder, shape, true)
    s = torch.ones_like(m)
    if hidden:
        s[..., :16] = 0.0  # its left half is behind something
        assert 0.2 < ((1 - s) * m).sum() / m.sum() < 0.8
    k = torch.tensor([0])
    found = torch.cat([fitting_poses([decoder], guess, k, s * m, s), guess[:, 5:]], 1)
    assert (position_of(found[:, :2], 1.0) - position_of(true[:, :2], 1.0)).abs().max() < 0.05
    assert (found[0, 2] - true[0, 2]).abs() < 0.1
    assert (direction_of(found[:, 3:5]) * direction_of(true[:, 3:5])).sum() > math.cos(0.15)
    both = torch.stack([drawn(decoder, shape, z) > 0.5 for z in (found, true)])
    assert both.all(0).sum() > 0.8 * both.any(0).sum()  # the hidden part, too


def test_what_fits_stays(decoder):
    decoder, shape = decoder
    true = latents((0.2, -0.1), 0.3, 40.0)
    m = drawn(decoder, shape, true)
    found = fitting_poses([decoder], true, torch.tensor([0]), m, torch.ones_like(m))
    torch.testing.assert_close(found, true[:, :5])


def test_of_poses_that_show_the_same_the_likeliest_is_found(decoder):
    decoder, shape = decoder
    guess = latents((0.0, 0.0), 0.9, 0.0)
    s = torch.zeros(1, 1, 32, 32, dtype=torch.double)
    s[..., 18:21, 15:18] = 1.0  # all that is not hidden, within the object
    assert (drawn(decoder, shape, guess)[s > 0] > 0.99).all()
    found = fitting_poses([decoder], guess, torch.tensor([0]), s, s)
    assert (drawn(decoder, shape, torch.cat([found, guess[:, 5:]], 1))[s > 0] > 0.9).all()
    assert found[0, :3].square().sum() < 0.5 * guess[0, :3].square().sum()


def test_decomposing_searches_and_training_does_not():
    config = changed(TINY, model__expert=small_expert(
        8, pose=True, size=True, angle=True, shape_dim=5, seeded=True))  # fmt: skip
    econ, asked = Econ(config), []
    found = econ.guide.find_poses

    def asking(*given):
        asked.append(given)
        return found(*given)

    econ.guide.find_poses = asking
    x = torch.rand(2, 3, 16, 16)
    econ.loss_terms(x)
    assert not asked
    econ.decompose(x)
    assert asked and not econ.guide._searching
