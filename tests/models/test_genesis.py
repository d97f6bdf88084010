"""GENESIS: its programs, prior and masks."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from econ_pyro.config import Config
from econ_pyro.core.compositing import scopes
from econ_pyro.core.gated_conv import GatedConv2d, GatedDecoder, GatedEncoder
from econ_pyro.errors import EconError
from econ_pyro.guides.genesis import GenesisGuide
from econ_pyro.infer import scene_model
from econ_pyro.infer.slot_elbo import explained
from econ_pyro.model_config import GenesisConfig
from econ_pyro.models.autoregressive import AutoregressivePrior
from econ_pyro.models.genesis import Genesis

TINY = GenesisConfig(
    num_slots=3, size=16, mask_dim=3, component_dim=2, layers=2, features=4,
    channels=(4, 4, 6, 6), hidden=8,
)  # fmt: skip


@pytest.fixture
def pair():
    model = Genesis(TINY).double()
    return model, GenesisGuide(TINY, model.masks).double()


@pytest.fixture
def x(images):
    return images[:2]


def traces(model, guide, x):
    q = poutine.trace(guide).get_trace(x)
    return q, poutine.trace(poutine.replay(model, trace=q)).get_trace(x)


def test_sites_of_both_programs(pair, x):
    with pyro.validation_enabled(True):
        q, p = traces(*pair, x)
    latents = {f"z_{kind}_{t}" for kind in ("mask", "component") for t in (1, 2, 3)}
    assert latents | {"masks"} <= set(q.nodes) and latents | {"masks", "x"} <= set(p.nodes)
    p.compute_log_prob()
    assert {tuple(p.nodes[name]["log_prob"].shape) for name in latents | {"masks", "x"}} == {(2,)}


def test_masks_are_decoded_once_and_break_a_stick(pair, x, monkeypatch):
    model, guide = pair
    calls = []
    decoder = model.mask_decoders[0]
    decoder.register_forward_hook(lambda *parts: calls.append(parts[2]))
    q, p = traces(model, guide, x)
    assert len(calls) == 1
    m = p.nodes["masks"]["value"]
    assert m is q.nodes["masks"]["value"]
    torch.testing.assert_close(m.sum(1), torch.ones_like(m[:, 0]))
    share = calls[0].sigmoid().unflatten(0, (2, 2))  # of the first two slots
    s = torch.ones_like(m[:, 0])
    for t in range(2):
        torch.testing.assert_close(m[:, t], s * share[:, t])
        s = s * (1 - share[:, t])
    torch.testing.assert_close(m[:, 2], s)
    torch.testing.assert_close(p.nodes["_RETURN"]["value"].shape[:, :2], share)


def test_the_prior_of_a_slot_depends_on_earlier_slots_alone(pair):
    model, _ = pair
    zero = torch.zeros(1, 3, dtype=torch.float64)

    def priors(**latents):
        given = {f"z_mask_{t}": zero for t in (1, 2, 3)} | latents
        trace = poutine.trace(poutine.condition(model.prior, data=given)).get_trace(1)
        nodes = [trace.nodes[f"z_component_{t}"] for t in (1, 2, 3)]
        components.append([node["fn"].base_dist.loc for node in nodes])
        return {t: trace.nodes[f"z_mask_{t}"]["fn"].base_dist for t in (1, 2, 3)}

    components = []
    first, changed = priors(), priors(z_mask_2=zero + 1)
    same = [torch.equal(a, b) for a, b in zip(*components, strict=True)]
    assert same == [True, False, True]
    assert torch.equal(first[3].loc, zero) and torch.equal(first[3].scale, zero + 1)
    assert torch.equal(first[2].loc, changed[2].loc)
    assert not torch.equal(first[1].loc, changed[1].loc)
    # the first steps of the recurrent network by hand
    prior = model.mask_priors[0]
    assert isinstance(prior, AutoregressivePrior)
    hidden, _ = prior.cell(zero)
    mean, scale = prior.head(hidden).chunk(2, 1)
    torch.testing.assert_close(first[2].loc, mean.tanh())
    torch.testing.assert_close(first[2].scale, torch.sigmoid(scale + 4) + 1e-4)


def test_the_posterior_of_a_slot_depends_on_earlier_slots_alone(pair, x):
    _, guide = pair
    given = {f"z_mask_{t}": torch.zeros(2, 3, dtype=torch.float64) for t in (1, 2, 3)}

    def means(**latents):
        q = poutine.trace(poutine.condition(guide, data=given | latents)).get_trace(x)
        return [q.nodes[f"z_mask_{t}"]["fn"].base_dist.loc for t in (3, 2, 1)]

    first, changed = means(), means(z_mask_2=torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(first[0], changed[0]) and torch.equal(first[1], changed[1])
    assert not torch.equal(first[2], changed[2])
    # not only on the last one
    assert not torch.equal(means(z_mask_3=torch.ones(2, 3, dtype=torch.float64))[2], first[2])


def test_components_are_encoded_from_their_own_masks(pair, x):
    _, guide = pair
    q = poutine.trace(guide).get_trace(x)
    m = q.nodes["masks"]["value"]
    for i, t in enumerate((3, 2, 1)):
        mean, _ = guide.encode(x, m[:, i : i + 1])[:, 0].chunk(2, 1)
        torch.testing.assert_close(q.nodes[f"z_component_{t}"]["fn"].base_dist.loc, mean)


def test_terms_are_those_of_the_trace(pair, x):
    torch.manual_seed(5)
    q, p = traces(*pair, x)
    torch.manual_seed(5)
    found, terms = explained(*pair, x, 3)
    for i, t in enumerate((3, 2, 1)):
        wanted = 0
        for name in (f"z_mask_{t}", f"z_component_{t}"):
            a, b = (trace.nodes[name]["fn"].base_dist for trace in (q, p))
            ratio = (a.scale / b.scale).square()
            away = ((a.loc - b.loc) / b.scale).square()
            wanted = wanted + 0.5 * (ratio + away - 1 - ratio.log()).sum(1)
        torch.testing.assert_close(terms.z[:, i], wanted)
    assert not terms.r.any()
    torch.testing.assert_close(found.mask, p.nodes["masks"]["value"])
    errors = (x[:, None] - found.mean).square().sum(2, keepdim=True) / (2 * 0.7**2)
    wanted = -(found.mask * (-errors).exp()).sum(1).log().sum((1, 2, 3))
    torch.testing.assert_close(terms.x.sum(1), wanted)


def test_scenes_are_drawn_and_latents_set(pair):
    model, _ = pair
    drawn = Predictive(model.prior, num_samples=3, return_sites=("x", "z_component_2"))(4)
    assert drawn["x"].shape == (3, 4, 3, 16, 16) and drawn["z_component_2"].shape == (3, 4, 2)
    with pytest.raises(EconError, match=r"z_mask_2 of shape \(4, 3\), got \(4, 5\)"):
        poutine.condition(model.prior, data={"z_mask_2": torch.zeros(4, 5).double()})(4)


def test_latents_start_with_means_that_tell_images_apart():
    torch.manual_seed(0)
    x = torch.rand(8, 3, 1, 1).expand(-1, -1, 16, 16) * torch.rand(8, 1, 16, 16).round()

    def signal(informative):
        config = replace(
            TINY, mask_dim=16, component_dim=16, features=16, hidden=64, informative=informative
        )
        guide = GenesisGuide(config, Genesis(config).masks)
        with pyro.settings.context(module_local_params=True):
            q = poutine.trace(guide).get_trace(x, mean=True)
        found = [q.nodes[name]["fn"].base_dist for name in ("z_mask_3", "z_component_3")]
        return [(one.loc.std(0).mean().item(), one.scale.mean().item()) for one in found]

    for mean, scale in signal(True):
        assert mean > scale and scale == pytest.approx(math.exp(-2), rel=0.7)
    for mean, scale in signal(False):
        assert mean < 0.2 * scale


def test_one_slot_takes_everything(x):
    model = scene_model.build(Config(model=TINY))
    d = model.decompose(x.float(), 1)
    assert torch.equal(d.region, torch.ones(2, 1, 1, 16, 16))
    d = model.decompose(x.float(), 4)
    torch.testing.assert_close(d.region, scopes(d.region) * d.shape)


def test_gated_convolutions_halve_and_double():
    h = torch.rand(2, 3, 8, 8)
    assert GatedConv2d(3, 5, 2)(h).shape == (2, 5, 4, 4)
    assert GatedConv2d(3, 5, 1)(h).shape == (2, 5, 8, 8)
    assert GatedConv2d(3, 5, 2, transposed=True)(h).shape == (2, 5, 16, 16)
    layer = GatedConv2d(3, 5, 1)
    with torch.no_grad():
        layer.convolution.bias[5:] = -100.0  # closed gates
    assert not layer(h).any()
    channels = (4, 4, 6, 6, 6)
    assert GatedEncoder(channels, 32, 7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert GatedDecoder(7, channels, 32)(torch.rand(2, 7)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 18}, "a multiple of 4"),
        ({"sigma": 0.0}, "a positive model.sigma"),
        ({"channels": (4, 4)}, "4 to 10 values for model.channels"),
        ({"mask_dim": 0}, "at least 1 for model.mask-dim"),
        ({"kind": "monet"}, "one of genesis for model.kind"),
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
