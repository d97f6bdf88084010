"""True regions of some or all layers, by ``poutine.condition`` on the guide."""

import math

import pyro
import pytest
import torch
from pyro import poutine

from econ_pyro.core import sites
from econ_pyro.core.compositing import scopes
from econ_pyro.core.selection import Selection
from econ_pyro.errors import EconError
from econ_pyro.infer.elbo import BatchedELBO, ClassConditionalELBO
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.svi import CompetitiveSVI

T = 3
SEEDED = {"dim": 5, "pose": True, "shape_dim": 2, "seeded": True}


@pytest.fixture(params=[{}, SEEDED], ids=["paper", "seeded"])
def pq(make_pq, request):
    return make_pq(**request.param)


@pytest.fixture
def masks():
    """Binary regions that sum to 1, ``(B, T, 1, H, W)``."""
    layers = torch.nn.functional.one_hot(torch.randint(T, (5, 16, 16)), T)
    return layers.permute(0, 3, 1, 2)[:, :, None].double()


@pytest.fixture
def selection(pq):
    """Experts, noise and seed pixels that a competition might have fixed; no true regions."""
    k = torch.randint(3, (5, T))
    none = torch.zeros(5, T)
    noise = torch.randn(5, T, pq[0].latent_dim).double()
    return Selection(k, noise, torch.randint(256, (5, T)), none, none)


def data(masks, *layers):
    """What ``poutine.condition`` takes: the regions of layers t, of those front to back."""
    return {sites.r(t): masks[:, T - t] for t in layers}


def gradients(loss, modules):
    """Whether each module of an ensemble gets a gradient other than 0."""
    loss.backward()
    return [any(p.grad is not None and p.grad.any() for p in m.parameters()) for m in modules]


def clear(*modules):
    for module in modules:
        module.zero_grad(set_to_none=True)


@pytest.mark.parametrize("batched", [False, True])
def test_all_layers_given_are_the_oracle_competition(pq, images, masks, batched):
    model, guide = pq
    won = OracleCompetition(T, lam=0.7, temperature=9.0)(model, guide, images, masks)
    elbo = (BatchedELBO if batched else ClassConditionalELBO)(beta=0.5, gamma=2.0)
    parameters = [*model.parameters(), *guide.parameters()]
    conditioned = poutine.condition(guide.given(won._replace(evidence=None)), data(masks, 1, 2, 3))
    found = []
    for program in (conditioned, guide.given(won)):
        terms = elbo.terms(model, program, images, won.k)
        loss = elbo.differentiable_loss(model, program, images, won.k)
        found.append((terms, torch.autograd.grad(loss, parameters, allow_unused=True)))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * scale)


def test_a_step_with_true_regions_has_the_loss_of_conditioned_programs(pq, images, masks):
    model, guide = pq
    elbo, competition = ClassConditionalELBO(0.5, 2.0), OracleCompetition(T)
    optim = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.0)
    svi = CompetitiveSVI(model, guide, optim, elbo, competition)
    torch.manual_seed(4)
    loss = svi.step(images, masks)
    torch.manual_seed(4)
    won = competition(model, guide, images, masks)
    free = won._replace(evidence=None)
    conditioned = poutine.condition(guide.given(free), data(masks, 1, 2, 3))
    assert elbo.loss(model, conditioned, images, won.k) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("given", [(3,), (2,), (1,), (3, 2), (3, 1)])
def test_some_layers_given_leave_the_others_to_attention(pq, images, masks, selection, given):
    """The same regions, all of them given, have the same terms."""
    model, guide = pq
    program = guide.given(selection)
    conditioned = poutine.condition(program, data(masks, *given))
    trace = poutine.trace(conditioned).get_trace(images, selection.k)
    assert trace.observation_nodes == [sites.r(t) for t in sorted(given, reverse=True)]
    regions = torch.stack([trace.nodes[sites.r(t)]["value"] for t in (3, 2, 1)], 1)
    scope = torch.ones(5, 1, 16, 16).double()
    for i, t in enumerate((3, 2, 1)):
        if t in given:
            assert torch.equal(regions[:, i], masks[:, i])
        elif t == 1:
            torch.testing.assert_close(regions[:, i], scope)  # footnote 7
        else:
            k_t, pixel = selection.k[:, i], selection.seed_pixel[:, i]
            pixels = (pixel,) if hasattr(guide, "candidates") else ()
            own = guide.attend(images, scope, k_t, *pixels)
            torch.testing.assert_close(regions[:, i], own)
        scope = (scope - regions[:, i]).clamp_min(0)
    elbo = ClassConditionalELBO()
    ours = elbo.terms(model, conditioned, images, selection.k)
    known = guide.given(selection._replace(evidence=regions.detach()))
    for a, b in zip(ours, elbo.terms(model, known, images, selection.k), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_l_r_of_a_given_region_is_a_kl_of_each_pixel(pq, images, selection):
    """Soft regions, too; the decoder's shape is that of the latent that the region encodes."""
    model, guide = pq
    masks = (3 * torch.rand(5, T, 1, 16, 16).double()).softmax(1)
    masks[0] = masks[0].round()
    masks[0, 2] = 1 - masks[0, 0] - masks[0, 1]  # binary, with a clear scope
    conditioned = poutine.condition(guide.given(selection), data(masks, 1, 2, 3))
    found = ClassConditionalELBO().terms(model, conditioned, images, selection.k).r
    scope = scopes(masks)
    for b in (0, 1):
        for i in range(T):
            q_z = guide.encode(images, masks[:, i], selection.k[:, i], selection.noise[:, i])
            shape = model.decode(q_z.rsample(), selection.k[:, i]).shape
            total = 0.0
            for row in range(16):
                for column in range(16):
                    q = masks[b, i, 0, row, column].item()
                    s = scope[b, i, 0, row, column].item()
                    p = s * shape[b, 0, row, column].item()
                    total += q * math.log(q / p) if q > 0 else 0.0
                    total += (1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0
            assert found[b, i].item() == pytest.approx(total, rel=1e-3, abs=1e-3)


def test_a_given_front_layer_teaches_its_expert_but_not_its_attention(pq, images, masks):
    model, guide = pq
    k = torch.tensor([[0, 1, 2]]).expand(5, -1)
    conditioned = poutine.condition(guide, data(masks, 3))
    loss = ClassConditionalELBO().differentiable_loss(model, conditioned, images, k)
    assert gradients(loss, guide.attentions) == [False, True, False]  # the last takes all
    assert all(p.grad is None for p in guide.attentions[0].parameters())
    clear(model, guide)
    loss = ClassConditionalELBO().differentiable_loss(model, conditioned, images, k)
    assert gradients(loss, [*guide.encoders, *model.decoders]) == 6 * [True]


def test_a_given_layer_passes_gradients_to_those_in_front_of_it(pq, images, masks):
    """Through its scope, in KL(mask || s m); and none to its own attention."""
    model, guide = pq
    k = torch.tensor([[0, 1, 2]]).expand(5, -1)
    conditioned = poutine.condition(guide, data(0.5 * masks, 2))
    terms = ClassConditionalELBO().terms(model, conditioned, images, k)
    assert gradients(terms.r[:, 1].sum(), guide.attentions) == [True, False, False]


def test_gradients_of_given_layers_reach_their_own_networks_alone(pq, images, masks):
    model, guide = pq
    k = torch.tensor([[0, 1, 2]]).expand(5, -1)
    conditioned = poutine.condition(guide, data(masks, 1, 2, 3))
    for i in range(T):
        terms = ClassConditionalELBO().terms(model, conditioned, images, k)
        clear(model, guide)
        reached = gradients(terms.loss(1.0, 1.0)[:, i].sum(), [*guide.encoders, *model.decoders])
        assert reached == 2 * [j == i for j in range(T)]
        assert all(p.grad is None for p in guide.attentions.parameters())


def test_the_batched_elbo_traces_programs_under_handlers(pq, images, masks, selection):
    model, guide = pq
    program = poutine.condition(guide.given(selection), data(masks, 3))
    own = [
        elbo(0.5, 2.0).terms(model, program, images, selection.k)
        for elbo in (BatchedELBO, ClassConditionalELBO)
    ]
    for a, b in zip(*own, strict=True):
        assert torch.equal(a, b)
    without = BatchedELBO().terms(model, guide.given(selection), images, selection.k)
    assert not torch.allclose(without.r, own[0].r)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask.bool(), r"floats \(5, 1, 16, 16\) for r_3, got bool .*\.float\(\)"),
        (lambda mask: mask.long(), r"for r_3, got int64 .*\.float\(\)"),
        (lambda mask: 255 * mask, r"values in \[0, 1\] for r_3, got values from 0 to 255"),
        (lambda mask: mask - 0.01, r"values in \[0, 1\] for r_3, got values from -0.01 to 0.99"),
        (lambda mask: mask / 0, "not a number"),
    ],
)
def test_observed_masks_are_floats_between_0_and_1(pq, images, masks, selection, change, message):
    model, guide = pq
    masks[0, 0] = 1.0
    changed = {sites.r(3): change(masks[:, 0])}
    with pytest.raises(EconError, match=message):
        poutine.condition(guide, data=changed)(images, selection.k)
    with pytest.raises(EconError, match=message):
        poutine.condition(model, data=changed)(images, selection.k)


def test_values_of_masks_are_not_read_without_validation(pq, images, masks, selection):
    """Reading them would wait for a GPU."""
    conditioned = poutine.condition(pq[1], data={sites.r(3): 255 * masks[:, 0]})
    with pyro.validation_enabled(False):
        conditioned(images, selection.k)
