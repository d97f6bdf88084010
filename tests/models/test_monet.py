"""MONet: its programs, and its loss beside that of ECON with one expert."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from econ_pyro.config import Config
from econ_pyro.core.compositing import compose, scopes
from econ_pyro.core.distributions import MeanBernoulli
from econ_pyro.core.slot_masks import PixelMixture, SlotMasks, slot_divergences
from econ_pyro.errors import EconError
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.guides.monet import MonetGuide
from econ_pyro.infer import scene_model
from econ_pyro.infer.elbo import decoded_terms, reconstruct
from econ_pyro.infer.slot_elbo import explained
from econ_pyro.model_config import EconConfig, MonetConfig
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.models.monet import Monet

SIGMA = 0.2
TINY = MonetConfig(
    num_slots=3, size=16, sigma=SIGMA, sigma_background=SIGMA, latent_dim=2, layers=2, features=4,
    channels=(4, 4), hidden=8,
)  # fmt: skip


class WithoutScope(DeadLeaves):
    """ECON with Eq. 7 as in MONet: the mask has to match wherever it is hidden, too."""

    def region_prior(self, s_t, shape):
        return MeanBernoulli(shape).to_event(3)


def monet(**fields):
    config = replace(TINY, **fields)
    return Monet(config).double(), MonetGuide(config).double()


def with_one_expert(model, guide):
    """ECON with K = 1 and the same networks."""
    sizes = model.config
    config = EconConfig(
        num_experts=1, num_slots=sizes.num_slots, size=16, sigma_x=SIGMA, expert=sizes.networks
    )
    p, q = WithoutScope(config).double(), AmortizedGuide(config).double()
    p.decoders.load_state_dict(model.decoders.state_dict())
    q.attentions.load_state_dict(guide.attentions.state_dict())
    q.encoders.load_state_dict(guide.encoders.state_dict())
    return p, q


@pytest.fixture
def x(images):
    return images[:2]


def test_attention_latents_and_kl_are_those_of_econ_with_one_expert(x):
    model, guide = monet()
    p, q = with_one_expert(model, guide)
    k = torch.zeros(2, 3, dtype=torch.long)
    _, m = q.regions(x, k)
    torch.testing.assert_close(m, guide.log_masks(x, 3).exp())
    found, terms = explained(model, guide, x, 3, mean=True)
    torch.testing.assert_close(found.mask, m)
    posterior = q.posteriors(x, m, k)
    torch.testing.assert_close(found.z, posterior.mean.unflatten(0, (2, 3)))
    decoded = p.decode(posterior.mean, k.flatten())
    torch.testing.assert_close(found.mean, decoded.mean.unflatten(0, (2, 3)))
    torch.testing.assert_close(found.shape, decoded.shape.unflatten(0, (2, 3)))
    torch.testing.assert_close(terms.z, reconstruct(p, q, x, k).terms.z)  # Eq. 11


@pytest.mark.parametrize("hard", [True, False])
def test_likelihood_is_that_of_econ_with_one_expert(x, hard):
    """Of hard masks, the same; of soft ones, Eq. 10 is larger by KL(m || m*)."""
    model, guide = monet()
    p, _ = with_one_expert(model, guide)
    found, terms = explained(model, guide, x, 3, mean=True)
    m = found.mask
    if hard:
        m = torch.nn.functional.one_hot(m.argmax(1), 3).movedim(-1, 1).double()
    sigma = torch.full((3,), SIGMA, dtype=torch.float64)
    ours = PixelMixture(m, found.mean, sigma).slot_losses(x)
    eq_10, _ = decoded_terms(p, x, scopes(m), m, found.mean, found.shape)
    if hard:
        torch.testing.assert_close(ours, eq_10)
        return
    torch.testing.assert_close(ours, terms.x)
    errors = (x[:, None] - found.mean).square().sum(2, keepdim=True) / (2 * SIGMA**2)
    best = SlotMasks((m.log() - errors).log_softmax(1))
    gap = slot_divergences(SlotMasks(m.log()), best).sum(1)
    torch.testing.assert_close(eq_10.sum(1), ours.sum(1) + gap)
    assert (gap > 0).all()


@pytest.mark.parametrize("slots", [2, 3])
def test_mask_term_is_that_of_econ_with_one_expert_without_the_scope(x, slots):
    """Eq. 12 counts what belongs to a layer, as MONet does, and what does not."""
    model, guide = monet(num_slots=slots)
    p, _ = with_one_expert(model, guide)
    found, terms = explained(model, guide, x, slots, mean=True)
    _, logits = model.decode(found.z)
    drawn, m = logits.softmax(1), found.mask
    _, eq_12 = decoded_terms(p, x, scopes(m), m, found.mean, drawn)
    elsewhere = ((1 - m) * ((1 - m) / (1 - drawn)).log()).sum((2, 3, 4))
    torch.testing.assert_close(eq_12, terms.r + elsewhere, rtol=1e-4, atol=1e-3)
    if slots == 2:  # what does not belong to one slot belongs to the other
        torch.testing.assert_close(eq_12.sum(1), 2 * terms.r.sum(1), rtol=1e-4, atol=1e-3)


def test_sites_of_both_programs(x):
    model, guide = monet(sigma_background=0.1)
    with pyro.validation_enabled(True):
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    names = {"z_1", "z_2", "z_3", "masks"}
    assert names <= set(q.nodes) and names | {"x"} <= set(p.nodes)
    assert torch.equal(p.nodes["masks"]["value"], q.nodes["masks"]["value"])
    assert model.sigma(3).tolist() == pytest.approx([0.1, SIGMA, SIGMA])
    p.compute_log_prob()
    shapes = {name: tuple(p.nodes[name]["log_prob"].shape) for name in names | {"x"}}
    assert set(shapes.values()) == {(2,)}


def test_terms_are_the_evidence_lower_bound_that_pyro_estimates(x):
    """Of many samples; with a constant of the pixels, and masks at their mean."""
    model, guide = monet(sigma_background=0.1)
    n, constant = 300, 256 * 3 * (math.log(0.1) + 0.5 * math.log(2 * math.pi))
    many = x[:1].expand(n, -1, -1, -1)
    with torch.no_grad():
        q = poutine.trace(guide).get_trace(many)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(many)
        terms = explained(model, guide, many, 3).terms
    p.compute_log_prob()
    q.compute_log_prob()
    sampled = constant + sum(node["log_prob"] for _, node in p.iter_stochastic_nodes())
    sampled = sampled + p.nodes["x"]["log_prob"]
    sampled = sampled - sum(node["log_prob"] for _, node in q.iter_stochastic_nodes())
    analytic = -sum(term.sum(1) for term in terms)
    error = ((sampled.var() + analytic.var()) / n).sqrt()
    assert error < 0.5 and (sampled.mean() - analytic.mean()).abs() < 4 * error


def test_latents_can_be_set_and_scenes_predicted():
    model, _ = monet()
    z = torch.zeros(4, 2, dtype=torch.float64)
    alike = poutine.condition(model.prior, data={"z_1": z, "z_2": z, "z_3": z})(4)
    torch.testing.assert_close(alike.mask, torch.full_like(alike.mask, 1 / 3))
    torch.testing.assert_close(alike.mean[:, 0], alike.mean[:, 2])
    drawn = Predictive(model.prior, num_samples=3, return_sites=("x", "z_2"))(4)
    assert drawn["x"].shape == (3, 4, 3, 16, 16) and drawn["z_2"].shape == (3, 4, 2)


def test_clean_samples_are_mixed_from_their_layers():
    model = scene_model.build(Config(model=TINY))
    drawn, again = model.sample(5, seed=3), model.sample(5, seed=3)
    assert torch.equal(drawn.image, again.image)
    assert drawn.shape.shape == (5, 3, 1, 16, 16) and (drawn.shape[:, -1] == 1).all()
    s, mixed = torch.ones(5, 1, 16, 16), 0
    for t in range(3):
        mixed = mixed + s * drawn.shape[:, t] * drawn.appearance[:, t]
        s = s * (1 - drawn.shape[:, t])
    torch.testing.assert_close(mixed, drawn.image)


def test_decompositions_are_the_guides(x):
    model = scene_model.build(Config(model=TINY))
    d = model.decompose(x.float(), batch=1)
    assert d.region.shape == (2, 3, 1, 16, 16) and d.competition_losses.shape == (2, 3, 0)
    torch.testing.assert_close(d.reconstruction, compose(d.region, d.mean))
    torch.testing.assert_close(d.scope, scopes(d.region))
    torch.testing.assert_close(d.region, model.decompose(x.float()).region)
    assert model.decompose(x.float(), 5).region.shape[1] == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 18}, "a multiple of 4"),
        ({"sigma": 0.0}, "a positive model.sigma"),
        ({"sigma_background": float("nan")}, "a finite number for model.sigma-background"),
        ({"channels": ()}, "1 to 10 values"),
        ({"latent_dim": 0}, "at least 1 for model.latent-dim"),
        ({"kind": "econ"}, "one of monet for model.kind"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        replace(TINY, **fields)


def test_programs_check_what_they_are_given(x):
    model, guide = monet()
    for program in (model, guide):
        with pytest.raises(EconError, match="add the batch axis"):
            program(x[0])
        with pytest.raises(EconError, match="at least 1 for slots"):
            program(x, 0)
    with pytest.raises(EconError, match=r"z_2 of shape \(4, 2\), got \(4, 3\)"):
        poutine.condition(model.prior, data={"z_2": torch.zeros(4, 3)})(4)
