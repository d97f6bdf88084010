import dataclasses
import itertools
import math

import pytest
import torch

from econ_pyro.infer.competition import compete, elect, exhaust
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.proposals import Rules, propose, propose_layers
from econ_pyro.infer.selection import draw_winners
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.training.distributed import World

RULES = Rules(experts=3, steps=3, sigma_x=0.1, lam=0.7, temperature=0.0)


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
        out = guide.encoders[e](seen, x.new_empty(1, 0))[0]
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
    d = compete(model, guide, images, noise, RULES)
    traced = ClassConditionalELBO().terms(model, guide, images, d.k, noise)
    for a, b in zip(traced, d.terms, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        rows = naive_terms(model, guide, images[:1], d.k[0], noise[0], 0.1)
    for j, name in enumerate("xzr"):
        naive = torch.stack([row[j] for row in rows])
        torch.testing.assert_close(
            getattr(traced, name)[0].detach(), naive, rtol=1e-3, atol=1e-3, msg=name
        )


def test_gradient_of_the_elbo_is_that_of_the_naive_loop(pq, images):
    model, guide = pq
    noise, k = torch.randn(1, 3, 2, dtype=torch.float64), torch.tensor([[0, 1, 2]])
    parameters = [*model.parameters(), *guide.parameters()]
    elbo = ClassConditionalELBO(beta=0.5, gamma=2.0)
    ours = torch.autograd.grad(
        elbo.differentiable_loss(model, guide, images[:1], k, noise), parameters, allow_unused=True
    )
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
    d = compete(model, guide, images, noise, RULES)
    scope = torch.ones(5, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        terms = propose(model, guide, images, scope, noise[:, 0], RULES).terms
        torch.testing.assert_close(d.scores[:, 0], 0.7 * terms.x + terms.r)
    assert torch.equal(d.k, d.scores.argmin(2))
    torch.testing.assert_close(d.region.sum(1), torch.ones_like(scope))
    assert torch.equal(d.region[:, -1], d.scope[:, -1])  # footnote 7


def test_rules_that_name_no_weight_are_the_best_by_l_x_and_l_r(pq, images):
    rules = Rules(experts=3, steps=3, sigma_x=0.1)
    d = compete(*pq, images, torch.zeros(5, 3, 2).double(), rules)
    rows = torch.arange(5)[:, None], torch.arange(3)
    torch.testing.assert_close(d.scores[(*rows, d.k)], d.terms.x + d.terms.r)
    assert torch.equal(d.k, d.scores.argmin(2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_winners_follow_the_softmax_of_scores(temperature):
    scores = torch.tensor([0.0, 1.0, 2.0]).mul(temperature).expand(20_000, 3)
    share = torch.bincount(draw_winners(scores, temperature), minlength=3) / 20_000
    expected = torch.tensor([1, 1 / math.e, 1 / math.e**2])
    torch.testing.assert_close(share, expected / expected.sum(), atol=0.02, rtol=0)
    assert (draw_winners(scores, 0.0) == 0).all()


def test_exhaustive_search_is_the_minimum_over_all_assignments(pq, images):
    model, guide = pq
    noise = torch.randn(5, 3, 2, dtype=torch.float64)
    best = exhaust(model, guide, images, noise, RULES, beta=0.5, gamma=2.0)
    losses = []
    for ks in itertools.product(range(3), repeat=3):
        k = torch.tensor(ks).expand(5, 3)
        with torch.no_grad():
            terms = ClassConditionalELBO().terms(model, guide, images, k, noise)
        losses.append(terms.loss(0.5, 2.0).sum(1))
    torch.testing.assert_close(best.loss, torch.stack(losses).min(0).values)
    greedy = compete(model, guide, images, noise, RULES).terms.loss(0.5, 2.0).sum(1)
    assert (best.loss <= greedy + 1e-9).all()


def make_svi(pq, **changes):
    model, guide = pq
    optim = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-2)
    elbo = ClassConditionalELBO(beta=1.0, gamma=0.5)
    return CompetitiveSVI(
        model, guide, optim, elbo, dataclasses.replace(RULES, **changes), latent=2
    )


def test_losers_stay_bit_unchanged_even_with_adam_in_motion(pq, images):
    svi = make_svi(pq, temperature=50.0)
    for _ in range(3):
        svi.step(images)  # Adam now has momentum for every expert that has won
    svi.rules = dataclasses.replace(svi.rules, temperature=0.0)
    with torch.no_grad():  # expert 1 cannot win: its appearance is far off
        svi.model.decoders[1].both.head.bias[:3] = 50.0
    ensembles = [svi.model.decoders, svi.guide.attentions, svi.guide.encoders]
    before = [[p.clone() for p in e[1].parameters()] for e in ensembles]
    svi.step(images)
    assert 1 not in svi.last.k
    for ensemble, old in zip(ensembles, before, strict=True):
        for p, q in zip(ensemble[1].parameters(), old, strict=True):
            assert p.grad is None and torch.equal(p, q)
    winner = int(svi.last.k[0, 0])
    assert any(p.grad is not None for p in ensembles[0][winner].parameters())


def test_gradient_reaches_earlier_winners_through_the_scope(pq, images):
    model, guide = pq
    noise, k = torch.zeros(5, 3, 2, dtype=torch.float64), torch.tensor([[0, 1, 2]]).expand(5, 3)
    terms = ClassConditionalELBO().terms(model, guide, images, k, noise)
    last_layer_only = terms.loss(1.0, 1.0)[:, -1].sum()
    gradient = torch.autograd.grad(last_layer_only, guide.attentions[0].head.weight)[0]
    assert gradient.abs().max() > 0


def test_step_learns_and_evaluate_is_deterministic(pq, images):
    images = torch.full_like(images, 0.9)  # noise could not be learnt
    svi = make_svi(pq, temperature=1.0)
    first = svi.evaluate_loss(images)
    assert svi.evaluate_loss(images) == first
    k, means = svi.explain(images).k, torch.zeros(5, 3, 2).double()
    eq_13 = [
        svi.elbo.loss(svi.model, svi.guide, images[b, None], k[b, None], means[b, None])
        for b in range(5)
    ]
    assert first == pytest.approx(sum(eq_13) / 5)
    for _ in range(15):
        svi.step(images)
    assert svi.evaluate_loss(images) < 0.8 * first


def test_what_winners_took_are_shares_of_the_image(pq, images):
    svi = make_svi(pq)
    svi.step(images)
    assert svi.last.area.shape == (5, 3)
    torch.testing.assert_close(svi.last.area.sum(1), torch.ones(5).double())
    regions = torch.zeros(5, 3, 1, 16, 16).double()
    regions[:, 0, :, :4, :8], regions[:, 1, :, 4:], regions[:, 2, :, :4, 8:] = 1, 1, 1
    svi.step(images, regions)
    assert svi.last.area.tolist() == 5 * [[0.125, 0.75, 0.125]]


def test_svi_without_an_optimiser_says_so(pq, images):
    svi = make_svi(pq)
    svi.optim = None
    with pytest.raises(RuntimeError, match="only evaluate"):
        svi.step(images)


def test_shares_of_a_batch_have_the_luck_of_the_whole(pq):
    """Noise, competition and what hides pieces, without processes: each share in its turn."""
    svi = make_svi(pq, temperature=100.0)
    svi.optim, svi.occlude = torch.optim.SGD(svi.optim.param_groups[0]["params"], lr=0.0), 0.5
    x, losses, winners = torch.rand(16, 3, 16, 16).double(), [], []
    for world in (World(), World(0, 2), World(1, 2)):
        svi.world = world
        torch.manual_seed(5)
        losses.append(svi.step(x[world.rank :: world.size]))
        winners.append(svi.last.k)
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-9)
    assert torch.equal(winners[0], torch.stack(winners[1:], 1).flatten(0, 1))
    for share in (0.0, 1.0):
        svi.occlude = share
        torch.manual_seed(5)
        assert svi.step(x[1::2]) != pytest.approx(losses[2], rel=1e-8)


def test_the_luck_of_a_step_is_normal_and_gumbel(pq, images):
    svi = make_svi(pq)
    noise, gumbel = svi.draw(torch.zeros(8000, 3, 16, 16))
    assert noise.shape == (8000, 3, 2) and gumbel.shape == (8000, 3, 3)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    # Euler's constant, and pi over the root of 6
    assert abs(gumbel.mean() - 0.5772) < 0.03 and abs(gumbel.std() - 1.2825) < 0.03


def test_what_a_step_saw_holds_no_graph(pq, images):
    svi = make_svi(pq, temperature=1e9)
    svi.step(images)
    assert not svi.last.loss.requires_grad
    assert not any(term.requires_grad for term in svi.last.terms)
    assert torch.equal(svi.explain(images).k, svi.explain(images).scores.argmin(2))


def test_networks_run_in_bfloat16_if_asked(tiny):
    from econ_pyro.econ import Econ

    econ = Econ(tiny)
    x = torch.rand(2, 3, 16, 16)
    means = []
    for amp in (False, True):
        svi = CompetitiveSVI(econ.model, econ.guide, None, ClassConditionalELBO(), RULES, 2, amp)
        means.append(svi.explain(x).mean)
    assert means[1].dtype == torch.float32 and not torch.equal(*means)
    torch.testing.assert_close(*means, atol=0.02, rtol=0)


def test_true_regions_need_no_attention(pq, images):
    svi = make_svi(pq)
    regions = torch.nn.functional.one_hot(torch.randint(3, (5, 16, 16)), 3)
    regions = regions.permute(0, 3, 1, 2)[:, :, None].double()
    svi.step(images, regions)
    assert all(p.grad is None for p in svi.guide.attentions.parameters())
    assert torch.equal(svi.explain(images, regions).region, regions)


def test_experts_compete_for_true_regions_as_for_others(pq, images):
    regions = torch.nn.functional.one_hot(torch.randint(3, (5, 16, 16)), 3)
    regions = regions.permute(0, 3, 1, 2)[:, :, None].double()
    noise = torch.randn(5, 3, 2).double()
    d = compete(*pq, images, noise, RULES, regions)
    assert torch.equal(d.k, d.scores.argmin(2))
    for k in range(3):  # as if it had won all
        with torch.no_grad():
            terms = ClassConditionalELBO().terms(
                *pq, images, torch.full((5, 3), k), noise, regions
            )
        torch.testing.assert_close(d.scores[:, :, k], 0.7 * terms.x + terms.r)
    pushed = elect(*pq, images, noise, RULES, regions, handicap=torch.tensor([0, -1e9, 0]))
    assert (pushed.k == 1).all() and torch.equal(pushed.scores, d.scores)
    warm, luck = dataclasses.replace(RULES, temperature=1e9), torch.zeros(5, 3, 3).double()
    luck[:, :, 2] = 9
    assert (elect(*pq, images, noise, warm, regions, gumbel=luck).k == 2).all()


def test_each_expert_makes_its_proposal_of_its_own_region(pq, images):
    scope, noise = torch.rand(5, 3, 1, 16, 16).double(), torch.randn(5, 3, 2).double()
    r = scope[:, :, None] * torch.rand(5, 3, 3, 1, 16, 16).double()
    layers = propose_layers(*pq, images, scope, noise, RULES, r)
    for t, k in itertools.product(range(3), range(3)):
        alone = propose(*pq, images, scope[:, t], noise[:, t], RULES, r[:, t, k])
        for name in ("r", "mean", "shape", "z", "errors"):
            own, expected = getattr(layers, name)[:, t, k], getattr(alone, name)[:, k]
            torch.testing.assert_close(own, expected)
            assert not expected.requires_grad
        for own, expected in zip(layers.terms, alone.terms, strict=True):
            torch.testing.assert_close(own[:, t, k], expected[:, k])


def test_pyro_elbo_interface_gives_the_same_number(pq, images):
    model, guide = pq
    elbo, k = ClassConditionalELBO(0.5, 2.0), torch.zeros(5, 3, dtype=torch.long)
    noise = torch.zeros(5, 3, 2, dtype=torch.float64)
    value = elbo.differentiable_loss(model, guide, images, k, noise)
    assert elbo.loss(model, guide, images, k, noise) == pytest.approx(value.item())
    assert elbo.loss_and_grads(model, guide, images, k, noise) == pytest.approx(value.item())
    assert model.decoders[0].both.head.weight.grad is not None
    weighed_by_one = ClassConditionalELBO()
    terms = weighed_by_one.terms(model, guide, images, k, noise)
    total = sum(term.sum().item() for term in terms)
    assert weighed_by_one.loss(model, guide, images, k, noise) == pytest.approx(total / 5)
    module = elbo(model, guide)
    torch.testing.assert_close(module(images, k, noise), value)
