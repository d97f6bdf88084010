"""GENESIS-V2: its programs, masks from seed pixels, and the seeds' noise."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from econ_pyro.config import Config
from econ_pyro.errors import EconError
from econ_pyro.guides.genesis_v2 import (
    Embedding,
    FeatureUNet,
    GenesisV2Guide,
    SlotEncoder,
    group_norm,
    grow,
)
from econ_pyro.guides.norm import InstanceNormReLU2d
from econ_pyro.infer import scene_model
from econ_pyro.infer.slot_elbo import explained
from econ_pyro.model_config import GenesisV2Config
from econ_pyro.models.genesis_v2 import GenesisV2

TINY = GenesisV2Config(
    num_slots=3, size=16, latent_dim=3, features=4, embedding_dim=3, channels=(4, 4), hidden=8
)


@pytest.fixture
def pair():
    return GenesisV2(TINY).double(), GenesisV2Guide(TINY).double()


@pytest.fixture
def x(images):
    return images[:2]


def test_sites_of_both_programs(pair, x):
    model, guide = pair
    with pyro.validation_enabled(True):
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    latents = {"z_1", "z_2", "z_3"}
    seeds = {"seed_noise_2", "seed_noise_3"}
    assert latents | seeds == set(q.stochastic_nodes) - {"scenes"}
    assert latents | {"masks"} == set(p.stochastic_nodes) - {"scenes"}
    assert p.observation_nodes == ["x"]
    p.compute_log_prob()
    assert {tuple(p.nodes[name]["log_prob"].shape) for name in latents | {"masks", "x"}} == {(2,)}
    m = p.nodes["masks"]["value"]
    torch.testing.assert_close(m.sum(1), torch.ones_like(m[:, 0]))


def test_masks_are_those_of_a_loop_over_pixels(pair, x):
    _, guide = pair
    features = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    # alike for both, so that the second seed differs only by what the first slot left
    noise = torch.rand(2, 1, 1, 16, 16, dtype=torch.float64).expand(-1, 2, -1, -1, -1)
    embedding = guide.embeddings[0]
    assert isinstance(embedding, Embedding)
    with torch.no_grad():
        embedding.gate.fill_(1.0)
    m = guide.masks(x, features, noise)
    torch.testing.assert_close(m.sum(1), torch.ones_like(m[:, 0]))
    e, width = embedding(x, features), embedding.log_width.exp().item()
    for b in range(2):
        left = [[1.0] * 16 for _ in range(16)]
        for t in range(2):
            pixels = [(h, w) for h in range(16) for w in range(16)]
            seed = max(
                pixels, key=lambda p, b=b, t=t: noise[b, t, 0, p[0], p[1]] * left[p[0]][p[1]]
            )
            for h, w in pixels[::7]:
                distance = (e[b, :, h, w] - e[b, :, seed[0], seed[1]]).square().sum()
                share = torch.exp(-distance / width).clamp(0.01, 0.99).item()
                assert m[b, t, 0, h, w].item() == pytest.approx(left[h][w] * share)
            left = (torch.tensor(left).double() - m[b, t, 0].detach()).tolist()
        torch.testing.assert_close(m[b, 2, 0], torch.tensor(left).double())


def test_embeddings_are_positions_alone_while_the_gate_is_closed(pair, x):
    embedding = pair[1].embeddings[0]
    features = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    e = embedding(x, features)
    step = e[0, :2, 1:, :-1] - e[0, :2, :-1, :-1]
    torch.testing.assert_close(step[0], torch.full_like(step[0], 2 / 15))
    torch.testing.assert_close(step[1], torch.zeros_like(step[1]))
    assert not e[:, 2].any()
    with torch.no_grad():
        embedding.gate.fill_(2.0)
    torch.testing.assert_close(embedding(x, features) - e, 2 * embedding.head(features))


def test_embeddings_may_start_as_colours(x):
    config = replace(TINY, embedding_dim=6, colour_weight=4.0, spread=3.0)
    embedding = Embedding(config).double()
    e = embedding(x, torch.randn(2, 4, 16, 16, dtype=torch.float64))
    torch.testing.assert_close(e[:, 2:5], 4 * x)
    assert not e[:, 5].any()
    # half is taken where exp(-d^2 / width) is one half, at d^2 = spread^2 / T
    width = embedding.log_width.exp().item()
    assert width * math.log(2) == pytest.approx(9 / 3)


def test_slots_start_with_latents_that_tell_them_apart(x):
    torch.manual_seed(0)
    flat = torch.eye(3)[:, :, None, None].expand(-1, -1, 16, 16)  # red, green, blue
    features, m = torch.zeros(3, 4, 16, 16), torch.ones(3, 1, 1, 16, 16)

    def signal(informative):
        config = replace(TINY, latent_dim=32, hidden=64, informative=informative)
        mean, log_variance = GenesisV2Guide(config).encode(flat, features, m)[:, 0].chunk(2, 1)
        return mean.std(0).mean().item(), (0.5 * log_variance).exp().mean().item()

    mean, scale = signal(True)
    assert mean > scale and scale == pytest.approx(math.exp(-2), rel=0.5)
    mean, scale = signal(False)
    assert mean < 0.3 * scale


def test_the_norm_leaves_differences_between_channels():
    h = torch.randn(2, 16, 4, 4) + 5 * torch.arange(16)[:, None, None]
    norm = group_norm(16)
    first, last = norm[0](h)[:, ::2], norm[0](h)[:, 1::2]
    # of each pair that is normalised together, the mean of the second stays larger
    assert (last.mean((2, 3)) > first.mean((2, 3)) + 1).all()
    network = FeatureUNet(TINY.networks, 16)
    assert sum(isinstance(part, nn.GroupNorm) for part in network.modules()) == 4
    assert not any(isinstance(part, InstanceNormReLU2d) for part in network.modules())


def test_a_seed_takes_its_own_pixel_and_no_pixel_is_lost():
    embedding = torch.zeros(1, 2, 4, 4)
    embedding[0, :, 0, 0] = 100.0
    alpha = grow(embedding, torch.tensor([0]), torch.tensor(1.0))
    assert alpha[0, 0, 0, 0] == pytest.approx(0.99)
    assert alpha[0, 0, 1:].unique().tolist() == pytest.approx([0.01])


def test_features_colours_and_places_are_pooled_by_masks(pair, x):
    _, guide = pair
    features = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    m = torch.rand(2, 3, 1, 16, 16, dtype=torch.float64)
    encoder = guide.encoders[0]
    assert isinstance(encoder, SlotEncoder)
    line = torch.linspace(-1, 1, 16, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(2, -1, -1, -1)
    seen = torch.cat([features, x, place], 1)
    out = guide.encode(x, features, m)
    for t in range(3):
        mean = (m[:, t] * seen).sum((2, 3)) / m[:, t].sum((2, 3))
        torch.testing.assert_close(out[:, t], encoder(mean))


def test_decompositions_have_the_same_seeds_whenever_they_are_asked_for(x):
    model = scene_model.build(Config(model=TINY))
    d = model.decompose(x.float())
    torch.rand(3)
    again = model.decompose(x.float(), batch=1)
    torch.testing.assert_close(d.region, again.region)
    assert model.decompose(x.float(), 1).region.eq(1).all()
    assert model.decompose(x.float(), 6).region.shape[1] == 6
    torch.testing.assert_close(d.shape, d.region)


def test_terms_are_a_kl_in_latents_and_a_mixture(pair, x):
    found, terms = explained(*pair, x, 3)
    assert not terms.r.any() and (terms.z > 0).all() and found.z.shape == (2, 3, 3)
    errors = (x[:, None] - found.mean).square().sum(2, keepdim=True) / (2 * 0.7**2)
    wanted = -(found.mask * (-errors).exp()).sum(1).log().sum((1, 2, 3))
    torch.testing.assert_close(terms.x.sum(1), wanted)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 24}, "a multiple of 16"),
        ({"embedding_dim": 1}, "at least 2 for model.embedding-dim"),
        ({"sigma": -1.0}, "a positive model.sigma"),
        ({"kind": "genesis"}, "one of genesis-v2 for model.kind"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        replace(TINY, **fields)


def test_programs_check_what_they_are_given(pair, x):
    for program in pair:
        with pytest.raises(EconError, match="add the batch axis"):
            program(x[0])
        with pytest.raises(EconError, match="at least 1 for slots"):
            program(x, 0)
