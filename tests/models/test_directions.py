"""Objects that are turned: what directions mean, and the search for them."""

import dataclasses
import math

import pytest
import torch

from econ_pyro.core.distributions import PROB_EPS
from econ_pyro.core.pose import (
    coordinates,
    direction_of,
    latents_of_position,
    object_coordinates,
    turned,
)
from econ_pyro.core.whitening import Whitening, moments, refit
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.elbo import BatchedELBO, ClassConditionalELBO
from econ_pyro.model_config import PoseLatents
from econ_pyro.models import pose_search
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder
from econ_pyro.models.pose_search import fitting_directions
from helpers.odd_shape import odd_decoder
from helpers.selections import draws_of, selected
from helpers.trainers import TINY, small_expert

EXPERT = small_expert(7, features=8, pose=True, angle=True, shape_dim=4)
POSITION = torch.tensor([0.2, -0.1], dtype=torch.double)


def direction(degrees):
    angle = torch.tensor(degrees, dtype=torch.double) / 180 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1)


def degrees_of(v):
    return torch.atan2(v[:, 1], v[:, 0]) * 180 / math.pi


def apart(a, b):
    """Absolute difference of angles in degrees."""
    return ((a - b + 180) % 360 - 180).abs()


def latents(degrees, position=POSITION):
    z = torch.zeros(len(degrees), 7, dtype=torch.double)
    z[:, :2] = latents_of_position(position, 1.0)
    z[:, 2:4] = 1.5 * direction(degrees)
    return z


@pytest.fixture
def odd(monkeypatch):
    return odd_decoder(EXPERT, monkeypatch)


def test_directions_of_the_prior_are_uniform():
    torch.manual_seed(0)
    v = direction_of(torch.randn(100_000, 2))
    torch.testing.assert_close(v.norm(dim=1), torch.ones(len(v)))
    share = torch.histc(degrees_of(v), bins=12, min=-180, max=180) / len(v)
    assert (share - 1 / 12).abs().max() < 0.004


def test_no_latent_is_without_a_direction():
    z = torch.zeros(2, 2, requires_grad=True)
    assert direction_of(z).tolist() == [[1, 0], [1, 0]]
    direction_of(z).sum().backward()
    assert z.grad.isfinite().all()


def test_turning_twice_adds_the_angles():
    v = torch.tensor([[3.0, 4.0]]).double()
    once = turned(turned(v, direction([30.0])), direction([50.0]))
    torch.testing.assert_close(once, turned(v, direction([80.0])))
    torch.testing.assert_close(once.norm(), torch.tensor(5.0).double())


def test_coordinates_are_those_of_the_objects_own_frame():
    grid, middle = coordinates(9).double(), torch.zeros(1, 2).double()
    plain = object_coordinates(middle, grid)
    where = object_coordinates(middle, grid, None, direction([90.0]))
    torch.testing.assert_close(where[:, 0], -plain[:, 1])
    torch.testing.assert_close(where[:, 1], plain[:, 0])
    torch.testing.assert_close(where[:, 2], plain[:, 2])  # the bump has no direction


def test_an_object_is_drawn_turned_about_its_position(odd):
    decoder, shape = odd
    middle = torch.zeros(2).double()
    upright, quarter = decoder(latents([0.0, 90.0], middle), shape)
    torch.testing.assert_close(quarter, torch.rot90(upright, -1, (1, 2)))
    assert (quarter - upright).abs().max() > 0.9


ANGLES = [0.0, 7.0, 41.0, 133.0, 187.5, 260.0, 359.0]


@pytest.mark.parametrize("hidden", [False, True])
def test_the_search_finds_the_angle(odd, hidden):
    decoder, shape = odd
    z = latents(ANGLES)
    r = (decoder(z, shape)[:, 3:] > 0.5).double()
    s = torch.ones_like(r)
    if hidden:  # by something nearer
        s[..., 15:] = 0
        assert 0.4 < (r * s).sum() / r.sum() < 0.9
    k = torch.zeros(len(z), dtype=torch.long)
    found = fitting_directions([decoder], latents([77.0] * len(z)), k, r * s, s)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(z)).double())
    # an edge moves by a pixel every eleven degrees
    assert apart(degrees_of(found), torch.tensor(ANGLES)).max() < (8 if hidden else 4)


def test_the_search_is_as_good_as_trying_every_degree(odd):
    decoder, shape = odd
    z = latents([23.0])
    r = (decoder(z, shape)[:, 3:] > 0.5).double()
    s = torch.rand(r.shape, generator=torch.Generator().manual_seed(0)).double()
    r = r * s

    def l_r(degrees):
        """Cross entropy of the region (Eq. 12 but for a constant) at full resolution."""
        m = decoder(latents(degrees), shape)[:, 3:]
        p = (s * m).clamp(PROB_EPS, 1 - PROB_EPS)
        return -(r * p.log() + (1 - r) * (1 - p).log()).sum((1, 2, 3))

    found = fitting_directions([decoder], z, torch.tensor([0]), r, s)
    all_angles = l_r([float(a) for a in range(360)])
    assert l_r(degrees_of(found).tolist()) < all_angles.min() + 0.02 * all_angles.min()
    assert all_angles.max() > 2 * all_angles.min()


def test_each_region_is_compared_with_its_own_experts_shape(odd):
    decoder, shape = odd
    mirrored = ObjectCentredDecoder(EXPERT, 32).double()
    with torch.no_grad():
        mirrored.bump.zero_()
    both = [shape, shape.flip(3)]
    pose_search.draw_shapes = lambda decoders: both  # undone with the fixture
    z = latents([41.0, 41.0])
    r = torch.cat([d(z[:1], m)[:, 3:] for d, m in zip((decoder, mirrored), both, strict=True)])
    found = fitting_directions([decoder, mirrored], z, torch.tensor([0, 1]), r, torch.ones_like(r))
    assert apart(degrees_of(found), torch.tensor([41.0, 41.0])).max() < 4


def turned_tiny():
    model = dataclasses.replace(TINY.model, expert=EXPERT)
    torch.manual_seed(0)
    return Econ(dataclasses.replace(TINY, model=model)).double()


def test_traced_and_batched_bounds_agree(images):
    econ = turned_tiny()
    noise = torch.randn(len(images), 3, 7).double()
    greedy = GreedyCompetition(num_slots=3, temperature=0.0)
    d = greedy.decompose(econ.model, econ.guide, images, draws=draws_of(noise))
    given = econ.guide.given(selected(d.k, noise))
    traced, batched = (
        elbo.terms(econ.model, given, images, d.k)
        for elbo in (ClassConditionalELBO(), BatchedELBO())
    )
    for a, b, c in zip(traced, d.terms, batched, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    batched.loss(1.0, 1.0).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in econ.parameters())


def test_a_posterior_has_the_direction_that_fits(images):
    econ = turned_tiny()
    n = len(images)
    r, k = torch.rand(n, 1, 16, 16).double(), torch.arange(n) % 3
    z = econ.guide.encode(images, r, k, torch.zeros(()), torch.ones_like(r)).base_dist.loc
    found = econ.model.fitting_directions(z, k, r, torch.ones_like(r))
    torch.testing.assert_close(direction_of(z[:, 2:4]), found)
    torch.testing.assert_close(z[:, 2:4].norm(dim=1), torch.full((n,), 1.5).double())
    every = econ.guide.encode_all(
        images, r[:, None].expand(-1, 3, -1, -1, -1), torch.zeros(n, 7).double()
    )
    torch.testing.assert_close(every.base_dist.loc[torch.arange(n), k], z)


def test_directions_keep_their_scale():
    config = PoseLatents(dim=8, angle=True, size=True, shape_dim=5)
    encoder, decoder = Whitening(config), Whitening(config)
    mean = torch.randn(500, 8) * 3 + 1
    k = torch.zeros(500, dtype=torch.long)
    refit(encoder, decoder, moments(k, mean, torch.zeros_like(mean), 1)[0])
    kept = (encoder.scale == 1) & (encoder.shift == 0)
    assert kept.tolist() == [True, True, False, True, True, False, False, False]


@pytest.mark.parametrize("shape_dim", [None, 2, 5])
def test_turned_shapes_depend_on_the_pose_alone(shape_dim):
    with pytest.raises(EconError, match="expected 4 for model.expert.latents.shape-dim"):
        PoseLatents(dim=7, angle=True, shape_dim=shape_dim)
