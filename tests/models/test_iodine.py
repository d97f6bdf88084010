"""IODINE: its programs, the inputs of its refinement, and its objective over rounds."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch.distributions import kl_divergence

from econ_pyro.config import Config
from econ_pyro.core import sites
from econ_pyro.core.pose import coordinates
from econ_pyro.errors import EconError
from econ_pyro.guides.amortized import posterior
from econ_pyro.guides.iodine import IodineGuide, gains, spatial_inputs, vector_inputs
from econ_pyro.infer import scene_model
from econ_pyro.infer.slot_elbo import explained, refined_terms
from econ_pyro.model_config import IodineConfig
from econ_pyro.models.iodine import Iodine

TINY = IodineConfig(
    num_slots=3, size=16, sigma=0.2, rounds=2, latent_dim=2, layers=2, features=4, hidden=8
)


def iodine(**fields):
    config = replace(TINY, **fields)
    model = Iodine(config).double()
    return model, IodineGuide(config, model.decode, model.mixture).double()


@pytest.fixture
def x(images):
    return images[:2]


@pytest.fixture(params=["gaussian", "logistic"])
def likelihood(request):
    return request.param


def densities(likelihood, x, mean, sigma):
    """Of each pixel under each slot, by the formula, in float64."""
    away = (x[:, None] - mean) / sigma
    if likelihood == "gaussian":
        each = (-away.square() / 2).exp() / (sigma * math.sqrt(2 * math.pi))
    else:
        each = (-away).exp() / (sigma * (1 + (-away).exp()).square())
    return each.prod(2, keepdim=True)


def test_sites_of_both_programs(x, likelihood):
    model, guide = iodine(likelihood=likelihood)
    with pyro.validation_enabled(True):
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    latents = {"z_1", "z_2", "z_3"}
    drafts = {sites.z_draft(t, r) for t in (1, 2, 3) for r in (0, 1)}
    assert latents | drafts == set(q.stochastic_nodes) - {"scenes"}
    assert all(q.nodes[name]["infer"]["is_auxiliary"] for name in drafts)
    assert latents | {"masks"} == set(p.stochastic_nodes) - {"scenes"}
    p.compute_log_prob()
    assert {tuple(p.nodes[name]["log_prob"].shape) for name in latents | {"masks", "x"}} == {(2,)}
    found = p.nodes["_RETURN"]["value"]
    torch.testing.assert_close(found.mask.sum(1), torch.ones_like(found.mask[:, 0]))
    likely = (found.mask * densities(likelihood, x, found.mean, 0.2)).sum(1)
    torch.testing.assert_close(p.nodes["x"]["log_prob"], likely.log().sum((1, 2, 3)))


def test_refinement_sees_gradients_and_likelihoods_as_they_are_by_definition(x, likelihood):
    """Channel by channel, against formulas of exponentials and autograd of them."""
    model, guide = iodine(likelihood=likelihood)
    seen = []
    hook = guide.refinements[0].register_forward_pre_hook(lambda _, args: seen.append(args))
    q = poutine.trace(guide).get_trace(x)
    hook.remove()
    image = seen[0][0].unflatten(0, (2, 3))
    with torch.no_grad():
        z = torch.stack([q.nodes[f"z_{t}_draft_0"]["value"] for t in (3, 2, 1)], 1)
        mean, logits = model.decode(z)

        def loss(mean, logits):
            m = logits.softmax(1)
            return -(m * densities(likelihood, x, mean, 0.2)).sum(1).log().sum()

        def normalised(a):
            centred = a - a.mean((2, 3, 4), keepdim=True)
            spread = centred.square().mean((2, 3, 4), keepdim=True)
            return centred / (spread + 1e-5).sqrt()

        m, each = logits.softmax(1), densities(likelihood, x, mean, 0.2)
        whole = (m * each).sum(1, keepdim=True)
        others = (whole - m * each) / (1 - m)
        grid = coordinates(16).double().expand(2, 3, -1, -1, -1).flatten(0, 1)
        wanted = {
            (0, 3): x[:, None].expand(-1, 3, -1, -1, -1),
            (3, 6): mean,
            (6, 7): m,
            (7, 8): logits,
            (8, 9): each / each.sum(1, keepdim=True),
            (9, 11): grid.unflatten(0, (2, 3)),
            (15, 16): normalised(whole.log().expand_as(m)),
            (16, 17): normalised(whole.log() - others.log()),
        }
        for (first, last), expected in wanted.items():
            torch.testing.assert_close(image[:, :, first:last], expected)
    leaves = mean.clone().requires_grad_(), logits.clone().requires_grad_()
    exact = torch.autograd.grad(loss(*leaves), leaves)
    for first, gradient in zip((11, 14), exact, strict=True):
        channels = image[:, :, first : first + gradient.shape[2]]
        torch.testing.assert_close(channels, normalised(gradient))


def test_refinement_sees_lambda_and_its_gradient(x):
    """The whole of the negative ELBO, its KL included, through sample and decoder."""
    model, guide = iodine()
    with torch.no_grad():
        guide.refinements[0].start.normal_()
    seen = []
    hook = guide.refinements[0].register_forward_pre_hook(lambda _, args: seen.append(args))
    q = poutine.trace(guide).get_trace(x, None, True)
    hook.remove()
    lam = guide.refinements[0].start.detach().expand(2, 3, -1).clone().requires_grad_()
    log_q = posterior(lam, guide._noise(3, True)[0])
    z = log_q.rsample()
    drawn = torch.stack([q.nodes[f"z_{t}_draft_0"]["value"] for t in (3, 2, 1)], 1)
    torch.testing.assert_close(z, drawn)
    mean, logits = model.decode(z)
    mixed = (logits.softmax(1) * densities("gaussian", x, mean, 0.2)).sum(1)
    standard = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
    kl = kl_divergence(log_q, pyro.distributions.Normal(standard.loc, standard.scale).to_event(1))
    (d_lam,) = torch.autograd.grad(kl.sum() - mixed.log().sum(), lam)
    torch.testing.assert_close(seen[0][1].unflatten(0, (2, 3)), vector_inputs(lam, d_lam))


def test_what_is_stopped_has_no_gradient(x):
    model, _ = iodine()
    leaves = [torch.rand(2, 3, n, 16, 16, dtype=torch.float64) for n in (3, 1, 3, 1)]
    mean, logits, d_mean, d_logits = (a.requires_grad_() for a in leaves)
    likelihood = model.mixture(mean, logits.softmax(1))
    grid = coordinates(16).double()
    seen = spatial_inputs(x, mean, logits, likelihood, d_mean, d_logits, grid)
    weights = torch.randn_like(seen)
    found = torch.autograd.grad(
        (weights * seen).sum(), (mean, logits, d_mean, d_logits), allow_unused=True
    )
    assert found[2] is None and found[3] is None
    each = densities("gaussian", x, mean, 0.2)
    moving = [mean, logits.softmax(1), logits, each / each.sum(1, keepdim=True)]
    again = (weights[:, :, 3:9] * torch.cat(moving, 2)).sum()
    for a, b in zip(found[:2], torch.autograd.grad(again, (mean, logits)), strict=True):
        torch.testing.assert_close(a, b)


def test_gains_of_far_pixels_are_finite_and_those_of_one_slot_none():
    errors = torch.tensor([0.0, 1e4, 1e4]).view(1, 3, 1, 1, 1)
    log_m = torch.tensor([0.0, -200.0, 0.0]).view(1, 3, 1, 1, 1).log_softmax(1)
    found = gains(errors, log_m).flatten()
    assert found.isfinite().all() and found[0] == pytest.approx(1e4, rel=1e-3)
    assert found[2] == pytest.approx(-math.log(2), abs=1e-3)
    assert not gains(errors[:, :1], log_m[:, :1]).any()


def test_the_objective_is_a_weighted_mean_of_the_bounds_of_all_rounds(x):
    """Of each draft as of the last round: the model's trace, given its latents."""
    model, guide = iodine(rounds=3)
    pyro.set_rng_seed(3)
    terms = refined_terms(model, guide, x, 3)
    pyro.set_rng_seed(3)
    lams = []
    hook = guide.refinements[0].register_forward_pre_hook(
        lambda _, args: lams.append(args[1].unflatten(0, (2, 3))[:, :, :4])
    )
    q = poutine.trace(guide).get_trace(x, 3)
    hook.remove()
    wanted_x, wanted_z = 0, 0
    for r in range(4):
        names = [f"z_{t}_draft_{r}" if r < 3 else f"z_{t}" for t in (3, 2, 1)]
        given = {f"z_{3 - i}": q.nodes[name]["value"] for i, name in enumerate(names)}
        p = poutine.trace(poutine.condition(model, data=given)).get_trace(x)
        p.compute_log_prob()
        constant = 16 * 16 * 3 * (math.log(0.2) + 0.5 * math.log(2 * math.pi))
        wanted_x = wanted_x + r / 6 * (-p.nodes["x"]["log_prob"] - constant)
        for i, name in enumerate(names):
            log_q = posterior(lams[r][:, i], None) if r < 3 else q.nodes[name]["fn"]
            wanted_z = wanted_z + r / 6 * kl_divergence(log_q, model.latent_prior(2))
    torch.testing.assert_close(terms.x.sum(1), wanted_x)
    torch.testing.assert_close(terms.z.sum(1), wanted_z)
    assert not terms.r.any()


def test_gradients_reach_all_weights_and_the_decoder_through_refinement(x):
    model, guide = iodine()
    terms = refined_terms(model, guide, x, 3)
    (terms.x + terms.z).sum().backward()
    for network in (model, guide):
        for name, weight in network.named_parameters():
            assert weight.grad is not None and weight.grad.any(), name


def test_gradients_are_those_of_differences_with_stopped_inputs(x):
    """Of the first lambda, with one round: f's inputs are constant but for lambda itself."""
    model, guide = iodine(rounds=1)
    network = guide.refinements[0]
    for p in network.blocks.parameters():  # sees nothing of the image, which is not stopped
        p.data.zero_()
    network.cell.weight_ih.data.zero_()

    def loss():
        pyro.set_rng_seed(0)
        terms = refined_terms(model, guide, x, 3)
        return (terms.x + terms.z).sum()

    loss().backward()
    found, wanted = network.start.grad, []
    with torch.no_grad():
        for i in range(len(network.start)):
            network.start[i] += 1e-6
            up = loss()
            network.start[i] -= 2e-6
            wanted.append((up - loss()) / 2e-6)
            network.start[i] += 1e-6
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_refinement_without_gradients_is_the_same(x):
    model, guide = iodine()
    with torch.no_grad():
        found, terms = explained(model, guide, x, 3, mean=True)
    again, with_gradients = explained(model, guide, x, 3, mean=True)
    assert again.z.requires_grad and not found.z.requires_grad and not terms.x.requires_grad
    torch.testing.assert_close(found.z, again.z)
    torch.testing.assert_close(terms.z, with_gradients.z)
    assert (found.z[:, 0] - found.z[:, 1]).abs().min() > 0  # drafts tell slots apart


def test_drafts_can_be_set(x):
    model, guide = iodine()
    z = torch.ones(2, 2, dtype=torch.float64)
    every = {sites.z_draft(t, r): z for t in (1, 2, 3) for r in (0, 1)}
    for weight in (*model.parameters(), *guide.parameters()):
        weight.requires_grad_(False)
    q = poutine.trace(poutine.condition(guide, data=every)).get_trace(x)
    means = [q.nodes[f"z_{t}"]["fn"].base_dist.loc for t in (1, 2, 3)]
    torch.testing.assert_close(means[0], means[2])  # as nothing tells slots apart
    with pytest.raises(EconError, match=r"z_2_draft_1 of shape \(2, 2\), got \(2, 3\)"):
        poutine.condition(guide, data={"z_2_draft_1": torch.zeros(2, 3)})(x)


def test_latents_can_be_set_and_scenes_predicted(likelihood):
    model, _ = iodine(likelihood=likelihood)
    z = torch.zeros(4, 2, dtype=torch.float64)
    alike = poutine.condition(model.prior, data={"z_1": z, "z_2": z, "z_3": z})(4)
    torch.testing.assert_close(alike.mask, torch.full_like(alike.mask, 1 / 3))
    drawn = Predictive(model.prior, num_samples=3, return_sites=("x", "z_2"))(4)
    assert drawn["x"].shape == (3, 4, 3, 16, 16) and drawn["z_2"].shape == (3, 4, 2)


def test_clean_samples_are_mixed_from_their_layers(likelihood):
    model = scene_model.build(Config(model=replace(TINY, likelihood=likelihood)))
    drawn, again = model.sample(5, seed=3), model.sample(5, seed=3)
    assert torch.equal(drawn.image, again.image)
    s, mixed = torch.ones(5, 1, 16, 16), 0
    for t in range(3):
        mixed = mixed + s * drawn.shape[:, t] * drawn.appearance[:, t]
        s = s * (1 - drawn.shape[:, t])
    torch.testing.assert_close(mixed, drawn.image)


def test_decompositions_are_the_same_whenever_they_are_asked_for(x):
    model = scene_model.build(Config(model=TINY))
    d = model.decompose(x.float())
    torch.rand(3)
    again = model.decompose(x.float(), batch=1)
    torch.testing.assert_close(d.region, again.region)
    torch.testing.assert_close(d.shape, d.region)
    assert model.decompose(x.float(), 1).region.eq(1).all()
    assert model.decompose(x.float(), 6).region.shape[1] == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 18}, "a multiple of 4"),
        ({"sigma": 0.0}, "a positive model.sigma"),
        ({"rounds": 0}, "at least 1 for model.rounds"),
        ({"likelihood": "laplace"}, "one of gaussian, logistic for model.likelihood"),
        ({"latent_dim": 0}, "at least 1 for model.latent-dim"),
        ({"kind": "monet"}, "one of iodine for model.kind"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        replace(TINY, **fields)


def test_programs_check_what_they_are_given(x):
    for program in iodine():
        with pytest.raises(EconError, match="add the batch axis"):
            program(x[0])
        with pytest.raises(EconError, match="at least 1 for slots"):
            program(x, 0)
