"""The savings competition against plain sums over pixels, and the choices it is made for."""

import itertools

import pytest
import torch

from econ_pyro.core.distributions import MeanBernoulli, PixelNoise
from econ_pyro.core.selection import Draws
from econ_pyro.infer.competition import GreedyCompetition, propose
from econ_pyro.infer.savings import SavingsCompetition
from helpers.selections import draws_of

SAVINGS = SavingsCompetition(num_slots=3, lam=0.7, temperature=0.0)


def zeros(n=5):
    return draws_of(torch.zeros(n, 3, 2).double())


def bernoulli_kl(r, p):
    terms = torch.xlogy(r, r / p) + torch.xlogy(1 - r, (1 - r) / (1 - p))
    return terms.nan_to_num(0.0).sum().item()


def saved(r, ending, errors, shape, scope, lam):
    """Nats that a region saves, of one image and one expert."""
    p = (scope * shape).clamp(1e-6, 1 - 1e-6)
    return ((ending - lam * errors) * r).sum().item() - bernoulli_kl(r, p)


def by_hand(p, q, x, i, scope, layers, lam, lookahead):
    """Losses of all experts for image i in a scope, by loops over experts."""
    noise = torch.zeros(len(x), 2).double()
    now, last = propose(p, q, x, scope, noise), propose(p, q, x, scope, noise, scope)
    costs = lam * last.terms.x[i] + last.terms.r[i]
    ending = lam * last.errors[i, costs.argmin()]
    losses = []
    for k in range(3):
        parts = (now.errors[i], now.shape[i])
        total = saved(now.r[i, k], ending, parts[0][k], parts[1][k], scope[i], lam)
        left = scope[i] - now.r[i, k]
        later = []
        for j in {0, 1, 2} - {k}:
            r_j = left * now.r[i, j] / scope[i]
            later.append(max(0.0, saved(r_j, ending, parts[0][j], parts[1][j], left, lam)))
        if lookahead and layers > 1:
            total += sum(sorted(later)[::-1][: layers - 1])
        losses.append(-total)
    return losses


@pytest.mark.parametrize("lookahead", [True, False])
def test_losses_are_the_nats_that_regions_do_not_save(pq, images, lookahead):
    p, q = pq
    competition = SavingsCompetition(3, 0.7, 0.0, lookahead=lookahead)
    d = competition.contest(p, q, images, zeros()).layers
    for i, layers in itertools.product(range(5), (2, 1)):
        t = 2 - layers
        expected = by_hand(p, q, images, i, d.scope[:, t], layers, 0.7, lookahead)
        assert d.competition_losses[i, t].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_last_layer_competes_by_its_costs(pq, images):
    p, q = pq
    d = SAVINGS.contest(p, q, images, zeros()).layers
    last = propose(p, q, images, d.scope[:, 2], torch.zeros(5, 2).double(), d.scope[:, 2])
    expected = 0.7 * last.terms.x + last.terms.r
    torch.testing.assert_close(d.competition_losses[:, 2], expected)
    assert torch.equal(d.k[:, 2], expected.argmin(1))


class Drawings:
    """Model and guide whose experts propose and draw given squares of one colour each."""

    num_experts, latent_dim, pixel_noise = 3, 1, PixelNoise(0.1)

    def __init__(self, whole, proposed, colours):
        self.whole, self.proposed, self.colours = whole, proposed, colours

    def attend_all(self, x, s_t):
        return s_t[:, None] * self.proposed(s_t)

    def encode_all(self, x, r, noise, s=None):
        zero = torch.zeros(len(x), 3, 1)
        return torch.distributions.Independent(torch.distributions.Normal(zero, zero + 1e-6), 1)

    def decode_all(self, z):
        size = self.whole.shape[-1]
        mean = self.colours[None, :, :, None, None].expand(len(z), -1, -1, size, size)
        return mean, self.whole[None].expand(len(z), -1, -1, -1, -1)

    def latent_prior(self, *batch):
        zero = torch.zeros(*batch, 1)
        return torch.distributions.Independent(torch.distributions.Normal(zero, zero + 1), 1)

    def region_prior(self, s_t, shape):
        return MeanBernoulli(s_t * shape).to_event(3)


def square(top, left, side=6, size=16, inside=0.99):
    m = torch.full((1, size, size), 0.01)
    m[:, top : top + side, left : left + side] = inside
    return m


def occlusion(ground=0.99):
    """Expert 0 draws the square in front, 1 the larger one that it hides in part, 2 the ground."""
    front, behind = square(5, 5), square(1, 1, side=8)
    whole = torch.stack([front, behind, torch.full_like(front, ground)])
    visible = behind * (1 - front)
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    hard = [(m > 0.5).float() for m in (front, visible)]
    x = sum(r * c[:, None, None] for r, c in zip(hard, colours, strict=False))
    # each proposes what is visible of its object and still in the scope; the ground's, nothing
    x = 0.95 * x + 0.02  # no expert has quite the right colour
    share = torch.stack([*hard, torch.zeros_like(front)])
    return Drawings(whole, lambda s: share[None].expand(len(s), -1, -1, -1, -1), colours), x[None]


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_as_many_later_layers_count_as_there_are_before_the_last(slots):
    squares = [square(1, 1), square(1, 9), square(9, 1)]
    colours = torch.eye(3)
    hard = [(m > 0.5).float() for m in squares]
    x = sum(m * c[:, None, None] for m, c in zip(hard, colours, strict=True))[None].double()
    share = torch.stack(hard)[None].double()
    drawn = Drawings(torch.stack(squares).double(), lambda s: share, colours.double())
    draws = Draws(torch.zeros(1, slots, 1), torch.zeros(1, slots, 3))
    d = SavingsCompetition(slots, 0.7, 0.0).contest(drawn, drawn, x, draws).layers
    expected = by_hand(drawn, drawn, x, 0, d.scope[:, 0], slots - 1, 0.7, lookahead=True)
    assert d.competition_losses[0, 0].tolist() == pytest.approx(expected, rel=1e-4)
    fewer = by_hand(drawn, drawn, x, 0, d.scope[:, 0], slots - 2, 0.7, lookahead=True)
    assert slots == 2 or max(e - f for e, f in zip(fewer, expected, strict=True)) > 100


def test_what_an_expert_leaves_of_its_own_object_is_not_saved_later():
    object_, ground = square(5, 5), square(0, 0, side=16, inside=0.5)
    x = ((object_ > 0.5) * torch.ones(3, 1, 1))[None].double()
    share = torch.stack([0.5 * (object_ > 0.5), 0 * ground, 0 * ground])[None].double()
    colours = torch.tensor([[1.0] * 3, [0.0] * 3, [0.0] * 3]).double()
    drawn = Drawings(torch.stack([object_, ground, ground]).double(), lambda s: share, colours)
    found = SavingsCompetition(3, 1.0, 0.0).contest(drawn, drawn, x, none()).layers
    expected = by_hand(drawn, drawn, x, 0, found.scope[:, 0], 2, 1.0, lookahead=False)
    assert found.competition_losses[0, 0, 0].item() == pytest.approx(expected[0], rel=1e-4)


def none(n=1):
    return Draws(torch.zeros(n, 3, 1), torch.zeros(n, 3, 3))


def test_what_is_in_front_goes_first():
    drawn, x = occlusion()
    ahead = SavingsCompetition(3, 1.0, 0.0).contest(drawn, drawn, x, none()).layers
    assert ahead.k.tolist() == [[0, 1, 2]]
    alone = SavingsCompetition(3, 1.0, 0.0, lookahead=False)
    # the larger region saves more, although it pays for its hidden part
    assert alone.contest(drawn, drawn, x, none()).layers.k.tolist() == [[1, 0, 2]]


def test_a_region_of_nothing_loses_but_wins_by_the_score_of_section_5_2():
    drawn, x = occlusion(ground=0.01)  # nothing proposed, and nothing drawn that is not taken
    greedy = GreedyCompetition(3, 1.0, 0.0).contest(drawn, drawn, x, none()).layers
    assert greedy.k[0, 0] == 2 and greedy.region[0, 0].sum() == 0
    savings = SavingsCompetition(3, 1.0, 0.0).contest(drawn, drawn, x, none()).layers
    assert (savings.region.sum((2, 3, 4)) > 0).all()


def test_with_as_many_layers_as_experts_and_more():
    drawn, x = occlusion()
    for slots in (1, 2, 5):
        draws = Draws(torch.zeros(1, slots, 1), torch.zeros(1, slots, 3))
        d = SavingsCompetition(slots, 1.0, 0.0).contest(drawn, drawn, x, draws).layers
        assert d.k.shape == (1, slots)
        torch.testing.assert_close(d.region.sum(1), torch.ones(1, 1, 16, 16))
