import dataclasses
import itertools
import math

import pytest
import torch
from pyro import poutine

from econ_pyro.accel.execution import Execution
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.core import sites
from econ_pyro.core.selection import Draws
from econ_pyro.infer.competition import GreedyCompetition, draw_winners, propose, propose_layers
from econ_pyro.infer.elbo import BatchedELBO, ClassConditionalELBO
from econ_pyro.infer.exhaustive import ExhaustiveCompetition
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.svi import CompetitiveSVI
from helpers.selections import draws_of, selected

GREEDY = GreedyCompetition(num_slots=3, lam=0.7, temperature=0.0)
ORACLE = OracleCompetition(num_slots=3, lam=0.7, temperature=0.0)


def partition(images, soft=False):
    """Random regions of three layers."""
    if soft:
        return torch.rand(len(images), 3, 1, 16, 16).double().softmax(1)
    regions = torch.nn.functional.one_hot(torch.randint(3, (len(images), 16, 16)), 3)
    return regions.permute(0, 3, 1, 2)[:, :, None].double()


def naive_terms(model, guide, x, k, noise, sigma):
    """Eqs. 10-14 pixel by pixel in plain Python, of one image and given classes."""
    s = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    rows = []
    for i in range(3):
        last = i == 2
        e = int(k[i])
        inputs = torch.cat([x, s.clamp_min(1e-5).log()], 1)
        r = s if last else s * torch.sigmoid(guide.attentions[e](inputs))
        seen = torch.cat([x, r.clamp_min(1e-5).log()], 1)
        out = guide.encoders[e](seen)[0]
        loc, log_var = out[:2], out[2:]
        z = loc + (log_var / 2).exp() * noise[i]
        decoded = model.decoders[e](z[None])[0]
        l_x = l_r = 0.0
        for row in range(16):
            for column in range(16):
                q, m = r[0, 0, row, column], decoded[3, row, column]
                p = s[0, 0, row, column] * m
                for c in range(3):
                    error = x[0, c, row, column] - decoded[c, row, column]
                    l_x = l_x + q * error**2 / (2 * sigma**2)
                for a, b in ((q, p), (1 - q, 1 - p)):
                    if a > 0:
                        l_r = l_r + a * (torch.log(a) - torch.log(b))
        l_z = sum(0.5 * (loc[j] ** 2 + log_var[j].exp() - 1 - log_var[j]) for j in range(2))
        rows.append((l_x, l_z, l_r))
        s = s - r
    return rows


def test_competition_elbo_and_a_naive_loop_agree_on_every_term(pq, images):
    model, guide = pq
    noise = torch.randn(5, 3, 2, dtype=torch.float64)
    d = GREEDY.decompose(model, guide, images, draws=draws_of(noise))
    given = guide.given(selected(d.k, noise))
    traced, batched = (
        elbo.terms(model, given, images, d.k) for elbo in (ClassConditionalELBO(), BatchedELBO())
    )
    for a, b, c in zip(traced, d.terms, batched, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    with torch.no_grad():
        rows = naive_terms(model, guide, images[:1], d.k[0], noise[0], 0.1)
    for j, name in enumerate("xzr"):
        naive = torch.stack([row[j] for row in rows])
        torch.testing.assert_close(
            getattr(traced, name)[0].detach(), naive, rtol=1e-3, atol=1e-3, msg=name
        )


@pytest.mark.parametrize("kind", [ClassConditionalELBO, BatchedELBO])
def test_small_regions_teach_nothing(pq, images, kind):
    model, guide = pq
    noise, k = torch.randn(5, 3, 2, dtype=torch.float64), torch.tensor([[0, 1, 2]] * 5)
    given = guide.given(selected(k, noise))
    limit = 100  # pixels: about what lies between the first layers and the others
    there = given.regions(images, k)[1].sum((2, 3, 4)) >= limit
    assert there.any() and not there.all()
    whole = kind(0.5, 2.0).terms(model, given, images, k)
    some = kind(0.5, 2.0, limit).terms(model, given, images, k)
    for a, b in zip(some, whole, strict=True):
        torch.testing.assert_close(a, b * there)
    nothing = kind(0.5, 2.0, 16 * 16 + 1).differentiable_loss(model, given, images, k)
    gradients = torch.autograd.grad(nothing, [*model.parameters()], allow_unused=True)
    assert nothing == 0 and all(g is None or not g.any() for g in gradients)


def test_gradient_of_the_elbo_is_that_of_the_naive_loop(pq, images):
    model, guide = pq
    noise, k = torch.randn(1, 3, 2, dtype=torch.float64), torch.tensor([[0, 1, 2]])
    parameters = [*model.parameters(), *guide.parameters()]
    elbo = ClassConditionalELBO(beta=0.5, gamma=2.0)
    loss = elbo.differentiable_loss(model, guide.given(selected(k, noise)), images[:1], k)
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    rows = naive_terms(model, guide, images[:1], k[0], noise[0], 0.1)
    loss = sum(x + 0.5 * z + 2.0 * r for x, z, r in rows)
    naive = torch.autograd.grad(loss, parameters, allow_unused=True)
    for a, b in zip(ours, naive, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_greedy_step_is_the_best_of_all_experts(pq, images):
    model, guide = pq
    noise = torch.zeros(5, 3, 2, dtype=torch.float64)
    d = GREEDY.decompose(model, guide, images, draws=draws_of(noise))
    scope = torch.ones(5, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        terms = propose(model, guide, images, scope, noise[:, 0]).terms
        torch.testing.assert_close(d.competition_losses[:, 0], 0.7 * terms.x + terms.r)
    assert torch.equal(d.k, d.competition_losses.argmin(2))
    torch.testing.assert_close(d.region.sum(1), torch.ones_like(scope))
    assert torch.equal(d.region[:, -1], d.scope[:, -1])  # footnote 7


def test_images_are_decomposed_by_the_best_and_lambda_is_1_if_not_given(pq, images):
    warm = GreedyCompetition(3, temperature=1e9, expert_bias=torch.tensor([0.0, -1e9, 0.0]))
    d = warm.decompose(*pq, images)
    rows = torch.arange(5)[:, None], torch.arange(3)
    torch.testing.assert_close(d.competition_losses[(*rows, d.k)], d.terms.x + d.terms.r)
    assert torch.equal(d.k, d.competition_losses.argmin(2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_winners_follow_the_softmax_of_losses(temperature):
    losses = torch.tensor([0.0, 1.0, 2.0]).mul(temperature).expand(20_000, 3)
    share = torch.bincount(draw_winners(losses, temperature), minlength=3) / 20_000
    expected = torch.tensor([1, 1 / math.e, 1 / math.e**2])
    torch.testing.assert_close(share, expected / expected.sum(), atol=0.02, rtol=0)
    assert (draw_winners(losses, 0.0) == 0).all()


def test_exhaustive_search_is_the_minimum_over_all_assignments(pq, images):
    model, guide = pq
    noise = torch.randn(5, 3, 2, dtype=torch.float64)
    exhaustive = ExhaustiveCompetition(3, beta=0.5, gamma=2.0)
    best = exhaustive.search(model, guide, images, noise)
    losses = []
    for ks in itertools.product(range(3), repeat=3):
        k = torch.tensor(ks).expand(5, 3)
        with torch.no_grad():
            given = guide.given(selected(k, noise))
            terms = ClassConditionalELBO().terms(model, given, images, k)
        losses.append(terms.loss(0.5, 2.0).sum(1))
    torch.testing.assert_close(best.loss, torch.stack(losses).min(0).values)
    greedy = GREEDY.decompose(model, guide, images, draws=draws_of(noise))
    assert (best.loss <= greedy.terms.loss(0.5, 2.0).sum(1) + 1e-9).all()
    d = exhaustive.decompose(model, guide, images, draws=draws_of(noise))
    assert torch.equal(d.k, best.k)
    torch.testing.assert_close(d.terms.loss(0.5, 2.0).sum(1), best.loss)
    own = d.competition_losses.gather(2, d.k[:, :, None])[:, :, 0]
    torch.testing.assert_close(own, d.terms.loss(0.5, 2.0))
    torch.testing.assert_close(d.region.sum(1), torch.ones(5, 1, 16, 16).double())
    won = exhaustive(model, guide, images, draws=draws_of(noise))
    assert torch.equal(won.k, best.k) and torch.equal(won.region, d.region)


def make_svi(pq, competition=GREEDY, **changes):
    model, guide = pq
    optim = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-2)
    elbo = ClassConditionalELBO(beta=1.0, gamma=0.5)
    return CompetitiveSVI(model, guide, optim, elbo, dataclasses.replace(competition, **changes))


def validation_loss(svi, images):
    return svi.elbo.loss_of(svi.decompose(images).terms).item()


def test_losers_stay_bit_unchanged_even_with_adam_in_motion(pq, images):
    svi = make_svi(pq, temperature=50.0)
    for _ in range(3):
        svi.step(images)  # Adam now has momentum for every expert that has won
    svi.competition.temperature = 0.0
    with torch.no_grad():  # expert 1 cannot win: its appearance is far off
        svi.model.decoders[1].layers.head.bias[:3] = 50.0
    ensembles = [svi.model.decoders, svi.guide.attentions, svi.guide.encoders]
    before = [[p.clone() for p in e[1].parameters()] for e in ensembles]
    k = svi.update(images).k
    assert 1 not in k
    for ensemble, old in zip(ensembles, before, strict=True):
        for p, q in zip(ensemble[1].parameters(), old, strict=True):
            assert p.grad is None and torch.equal(p, q)
    winner = int(k[0, 0])
    assert any(p.grad is not None for p in ensembles[0][winner].parameters())


def test_gradient_reaches_earlier_winners_through_the_scope(pq, images):
    model, guide = pq
    noise, k = torch.zeros(5, 3, 2, dtype=torch.float64), torch.tensor([[0, 1, 2]]).expand(5, 3)
    terms = ClassConditionalELBO().terms(model, guide.given(selected(k, noise)), images, k)
    last_layer_only = terms.loss(1.0, 1.0)[:, -1].sum()
    gradient = torch.autograd.grad(last_layer_only, guide.attentions[0].head.weight)[0]
    assert gradient.abs().max() > 0


def test_steps_learn_and_decomposing_is_deterministic(pq, images):
    images = torch.full_like(images, 0.9)  # noise could not be learnt
    svi = make_svi(pq, temperature=1.0)
    first = validation_loss(svi, images)
    assert validation_loss(svi, images) == first
    k, means = svi.decompose(images).k, torch.zeros(1, 3, 2).double()
    eq_13 = [
        svi.elbo.loss(svi.model, svi.guide.given(selected(own, means)), x, own)
        for x, own in zip(images.split(1), k.split(1), strict=True)
    ]
    assert first == pytest.approx(sum(eq_13) / 5)
    for _ in range(15):
        svi.step(images)
    assert validation_loss(svi, images) < 0.8 * first


def test_what_winners_took_are_shares_of_the_image(pq, images):
    area = make_svi(pq).update(images).area
    assert area.shape == (5, 3)
    torch.testing.assert_close(area.sum(1), torch.ones(5).double())
    regions = torch.zeros(5, 3, 1, 16, 16).double()
    regions[:, 0, :, :4, :8], regions[:, 1, :, 4:], regions[:, 2, :, :4, 8:] = 1, 1, 1
    area = make_svi(pq, ORACLE).update(images, regions).area
    assert area.tolist() == 5 * [[0.125, 0.75, 0.125]]


def test_shares_of_a_batch_have_the_luck_of_the_whole(pq):
    """Noise, competition and what hides pieces, without processes: each share in its turn."""
    svi = make_svi(pq, temperature=100.0)
    svi.optim = torch.optim.SGD(svi.optim.param_groups[0]["params"], lr=0.0)
    svi.competition.occlusion = 0.5
    x, losses, winners = torch.rand(16, 3, 16, 16).double(), [], []
    for group in (ProcessGroup(), ProcessGroup(0, 2), ProcessGroup(1, 2)):
        svi.execution = Execution(group=group)
        torch.manual_seed(5)
        step = svi.update(x[group.rank :: group.size])
        losses.append(step.loss.item())
        winners.append(step.k)
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-9)
    assert torch.equal(winners[0], torch.stack(winners[1:], 1).flatten(0, 1))
    for share in (0.0, 1.0):
        svi.competition.occlusion = share
        torch.manual_seed(5)
        assert svi.step(x[1::2]) != pytest.approx(losses[2], rel=1e-8)


def test_random_numbers_of_a_step_are_normal_gumbel_and_uniform(pq):
    noise, gumbel, uniform = make_svi(pq, occlusion=0.5).draw(torch.zeros(8000, 3, 16, 16))
    assert noise.shape == (8000, 3, 2) and gumbel.shape == (8000, 3, 3)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    # Euler's constant, and pi over the root of 6
    assert abs(gumbel.mean() - 0.5772) < 0.03 and abs(gumbel.std() - 1.2825) < 0.03
    assert uniform.shape == (8000, 3, 4) and 0 <= uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.std() - 12**-0.5) < 0.01
    assert make_svi(pq).draw(torch.zeros(2, 3, 16, 16)).occlusion is None


def test_what_a_step_saw_holds_no_graph(pq, images):
    svi = make_svi(pq, temperature=1e9)
    step = svi.update(images)
    assert not step.loss.requires_grad
    assert not any(term.requires_grad for term in step.terms)
    d = svi.decompose(images)
    assert torch.equal(d.k, d.competition_losses.argmin(2))


def test_networks_run_in_bfloat16_if_asked(tiny):
    from econ_pyro.econ import Econ

    econ = Econ(tiny)
    x = torch.rand(2, 3, 16, 16)
    means = []
    for amp in (False, True):
        parts = (econ.model, econ.guide, None, ClassConditionalELBO(), GREEDY)
        means.append(CompetitiveSVI(*parts, Execution(amp=amp)).decompose(x).mean)
    assert means[1].dtype == torch.float32 and not torch.equal(*means)
    torch.testing.assert_close(*means, atol=0.02, rtol=0)


def test_true_regions_need_no_attention(pq, images):
    svi, regions = make_svi(pq, ORACLE), partition(images)
    svi.step(images, regions)
    assert all(p.grad is None for p in svi.guide.attentions.parameters())
    assert torch.equal(svi.decompose(images, regions).region, regions)


def test_experts_compete_for_true_regions_as_for_others(pq, images):
    model, guide = pq
    regions, noise = partition(images), torch.randn(5, 3, 2).double()
    d = ORACLE.decompose(*pq, images, regions, draws_of(noise))
    assert torch.equal(d.k, d.competition_losses.argmin(2))
    for k in range(3):  # as if it had won all
        won = selected(torch.full((5, 3), k), noise, evidence=regions)
        with torch.no_grad():
            terms = ClassConditionalELBO().terms(model, guide.given(won), images, won.k)
        torch.testing.assert_close(d.competition_losses[:, :, k], 0.7 * terms.x + terms.r)
    biased = dataclasses.replace(ORACLE, expert_bias=torch.tensor([0, -1e9, 0]))
    pushed = biased(*pq, images, regions, draws_of(noise))
    assert (pushed.k == 1).all() and torch.equal(pushed.losses, d.competition_losses)
    assert torch.equal(pushed.evidence, regions)
    warm, gumbel = dataclasses.replace(ORACLE, temperature=1e9), torch.zeros(5, 3, 3).double()
    gumbel[:, :, 2] = 9
    assert (warm(*pq, images, regions, Draws(noise, gumbel)).k == 2).all()


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("elbo", [ClassConditionalELBO(), BatchedELBO()])
def test_true_regions_are_those_that_a_handler_observes(make_pq, images, elbo, seeded):
    model, guide = make_pq(seeded=seeded)
    noise, k = torch.randn(5, 3, 2).double(), torch.randint(3, (5, 3))
    regions = partition(images, soft=True)
    wanted = elbo.terms(model, guide.given(selected(k, noise, evidence=regions)), images, k)
    data = {sites.r(t): regions[:, i] for i, t in enumerate(sites.front_to_back(3))}
    observed = poutine.condition(guide.given(selected(k, noise)), data=data)
    for a, b in zip(elbo.terms(model, observed, images, k), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_one_true_region_is_its_layers_and_takes_its_part_of_the_scope(pq, images):
    model, guide = pq
    noise, k = torch.randn(5, 3, 2).double(), torch.randint(3, (5, 3))
    mask = partition(images)[:, 0]
    given, elbo = guide.given(selected(k, noise)), ClassConditionalELBO()
    terms = elbo.terms(model, poutine.condition(given, data={"r_3": mask}), images, k)
    r = guide.attend(images, 1 - mask, k[:, 1])
    regions = torch.stack([mask, r, 1 - mask - r], 1)
    wanted = elbo.terms(model, guide.given(selected(k, noise, evidence=regions)), images, k)
    for a, b in zip(terms, wanted, strict=True):
        torch.testing.assert_close(a, b)
    attentions = [*guide.attentions.parameters()]
    gradient = torch.autograd.grad(terms.r.sum(), attentions, allow_unused=True)
    attended = set(k[:, 1].tolist())  # the first layer's attention has no say
    heads = [e.head.weight for e in guide.attentions]
    moved = {e for e, w in enumerate(heads) if gradient[_index(attentions, w)] is not None}
    assert moved == attended


def _index(parameters, wanted):
    return next(i for i, p in enumerate(parameters) if p is wanted)


def test_layer_by_layer_experts_may_grow_regions_from_seeds_too(make_pq, images):
    model, guide = make_pq(seeded=True)
    noise = torch.randn(5, 3, 2).double()
    d = GREEDY.decompose(model, guide, images, draws=draws_of(noise))
    won = GREEDY(model, guide, images, draws=draws_of(noise))
    assert won.seed_pixel is None and torch.equal(won.k, d.k)
    for elbo in (ClassConditionalELBO(), BatchedELBO()):
        terms = elbo.terms(model, guide.given(won), images, won.k)
        for a, b in zip(terms, d.terms, strict=True):
            torch.testing.assert_close(a, b)
    make_svi((model, guide)).step(images)


def test_each_expert_makes_its_proposal_of_its_own_region(pq, images):
    scope, noise = torch.rand(5, 3, 1, 16, 16).double(), torch.randn(5, 3, 2).double()
    r = scope[:, :, None] * torch.rand(5, 3, 3, 1, 16, 16).double()
    layers = propose_layers(*pq, images, scope, noise, r)
    for t, k in itertools.product(range(3), range(3)):
        alone = propose(*pq, images, scope[:, t], noise[:, t], r[:, t, k])
        for name in ("r", "mean", "shape", "z", "errors"):
            own, expected = getattr(layers, name)[:, t, k], getattr(alone, name)[:, k]
            torch.testing.assert_close(own, expected)
            assert not expected.requires_grad
        for own, expected in zip(layers.terms, alone.terms, strict=True):
            torch.testing.assert_close(own[:, t, k], expected[:, k])


def test_pyro_elbo_interface_gives_the_same_number(pq, images):
    model, guide = pq
    elbo, k = ClassConditionalELBO(0.5, 2.0), torch.zeros(5, 3, dtype=torch.long)
    given = guide.given(selected(k, torch.zeros(5, 3, 2, dtype=torch.float64)))
    value = elbo.differentiable_loss(model, given, images, k)
    assert elbo.loss(model, given, images, k) == pytest.approx(value.item())
    assert elbo.loss_and_grads(model, given, images, k) == pytest.approx(value.item())
    assert model.decoders[0].layers.head.weight.grad is not None
    weighed_by_one = ClassConditionalELBO()
    terms = weighed_by_one.terms(model, given, images, k)
    total = sum(term.sum().item() for term in terms)
    assert weighed_by_one.loss(model, given, images, k) == pytest.approx(total / 5)
    torch.testing.assert_close(elbo(model, given)(images, k), value)
    module = elbo(model, guide)
    torch.manual_seed(3)
    fresh = module(images, k)
    torch.manual_seed(3)
    torch.testing.assert_close(elbo.differentiable_loss(model, guide, images, k), fresh)
    assert len([*module.parameters()]) == sum(len([*p.parameters()]) for p in pq)
