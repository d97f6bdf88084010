"""Refinement against sums over all shapes, all orders, and scenes whose truth is known."""

import dataclasses
import itertools
import math

import pytest
import torch

from econ_pyro.core.compositing import scopes
from econ_pyro.core.distributions import FixedNoiseNormal, MeanBernoulli, PixelNoise, pixel_errors
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import (
    arrange,
    explains_enough,
    likeliest_order,
    log_joint,
    log_likelihood,
)
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.mixture import Mixture, mean_colour_corrected, with_outliers
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.refinement import e_step, fill_spare, refine
from helpers.selections import draws_of, same_layers

SIGMA = 0.1
PIXEL_NOISE = PixelNoise(SIGMA)
ORACLE = OracleCompetition(num_slots=3, temperature=0.0)
NO_NOISE = draws_of(torch.zeros(1, 3, 2).double())
OF_ONE = draws_of(torch.zeros(1, 3, 1).double(), experts=1)


def painted(n=3, size=16, seed=0):
    """An image of n overlapping squares, and their layers front to back, the background last."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.rand(1, n + 1, 3, 1, 1, generator=g).expand(-1, -1, -1, size, size).clone()
    shape = torch.full((1, n + 1, 1, size, size), 0.02)
    for t in range(n):
        top, left = torch.randint(2, 8, (2,), generator=g).tolist()
        shape[:, t, :, top : top + 6, left : left + 6] = 0.98
    shape[:, n] = 0.5  # what is behind all others is everywhere, whatever its shape says
    x = mean[:, n]
    for t in reversed(range(n)):
        x = torch.where(shape[:, t] > 0.5, mean[:, t], x)
    return x, mean, shape


def test_the_likelihood_is_the_sum_over_all_shapes():
    g = torch.Generator().manual_seed(3)
    x, mean = torch.rand(1, 3, 2, 2, generator=g), torch.rand(1, 4, 3, 2, 2, generator=g)
    shape = torch.rand(1, 4, 1, 2, 2, generator=g)
    expected = 0.0
    for i, j in itertools.product(range(2), repeat=2):
        pixel = 0.0
        for m in itertools.product((0, 1), repeat=3):
            p = math.prod(
                shape[0, t, 0, i, j].item() if on else 1 - shape[0, t, 0, i, j].item()
                for t, on in enumerate(m)
            )
            seen = (*m, 1).index(1)
            error = (x[0, :, i, j] - mean[0, seen, :, i, j]).square().sum().item()
            pixel += p * math.exp(-error / (2 * SIGMA**2))
        expected += math.log(pixel)
    found = log_likelihood(pixel_errors(x.double(), mean.double(), PIXEL_NOISE), shape.double())
    assert found.item() == pytest.approx(expected, abs=1e-2)  # a weight is at least 1e-6


@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.9)])
def test_hardly_an_order_is_likelier(n, share):
    found, best = [], []
    for seed in range(20):
        x, mean, shape = painted(n, seed=seed)
        shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        mean, shape = mean[:, [*shuffled, n]], shape[:, [*shuffled, n]]
        errors = pixel_errors(x, mean, PIXEL_NOISE)
        order = likeliest_order(errors, shape)
        assert order[0, -1] == n and order[0].sort().values.tolist() == list(range(n + 1))
        found.append(log_likelihood(in_order(errors, order), in_order(shape, order)))
        every = [
            log_likelihood(errors[:, [*p, n]], shape[:, [*p, n]])
            for p in itertools.permutations(range(n))
        ]
        best.append(max(every))
    assert (torch.cat(found) > torch.cat(best) - 1e-2).float().mean() >= share


def test_images_have_orders_of_their_own():
    x, mean, shape = painted(2, seed=1)
    swapped = [1, 0, 2]
    x2, mean2, shape2 = (torch.cat(a) for a in ((x, x), (mean, mean[:, swapped]), (shape,) * 2))
    shape2 = torch.cat([shape, shape[:, swapped]])
    order = likeliest_order(pixel_errors(x2, mean2, PIXEL_NOISE), shape2)
    assert order.tolist() == [[0, 1, 2], [1, 0, 2]]


def test_layers_stay_in_place_where_no_order_is_likelier():
    # of one colour, all orders are as likely but for rounding errors
    errors = torch.rand(20, 1, 1, 16, 16).expand(-1, 5, -1, -1, -1)
    order = likeliest_order(errors, torch.rand(20, 5, 1, 16, 16))
    assert torch.equal(order, torch.arange(5).expand(20, -1))


@pytest.mark.parametrize(("nats", "expected"), [(0.3, [1, 0, 2]), (0.003, [0, 1, 2])])
def test_a_layer_moves_for_a_part_of_a_nat_but_not_for_nothing(nats, expected):
    errors, shape = torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 4, 4)
    shape[:, :2, :, 1, 1:3] = 1  # two pixels that both would cover
    errors[:, 0, :, 1, 1] = nats
    assert likeliest_order(errors, shape)[0].tolist() == expected


def test_of_two_layers_of_one_object_one_explains_enough_and_a_spare_one_does_not():
    x, mean, shape = painted(2, seed=1)
    twice = [0, 0, 1, 2]
    l_z = torch.full((1, 4), 10.0)
    kept = explains_enough(pixel_errors(x, mean[:, twice], PIXEL_NOISE), shape[:, twice], l_z)
    assert kept.tolist() == [[True, False, True, True]]
    spare = mean.clone()
    spare[:, 0] = 1 - spare[:, 1].round()  # a colour that is not in the image
    mean_3, shape_3 = torch.cat([spare[:, :1], mean], 1), torch.cat([shape[:, :1], shape], 1)
    kept = explains_enough(pixel_errors(x, mean_3, PIXEL_NOISE), shape_3, l_z)
    assert kept.tolist() == [[False, True, True, True]]
    dear = torch.full((1, 3), 1e6)
    assert explains_enough(pixel_errors(x, mean, PIXEL_NOISE), shape, dear).tolist() == [
        [False, False, True]
    ]


def in_pixels(errors, shape, order):
    """Parts of each pixel's mixture, the layers of one image in that order, as lists."""
    pixels = []
    for i, j in itertools.product(range(errors.shape[2]), range(errors.shape[3])):
        free, parts = 1.0, []
        for t in order:
            m = 1.0 if t == order[-1] else shape[t, 0, i, j].item()
            parts.append(free * m * math.exp(-errors[t, 0, i, j].item()))
            free *= 1 - m
        pixels.append(parts)
    return pixels


def naive(errors, shape, order):
    return sum(math.log(sum(parts)) for parts in in_pixels(errors, shape, order))


def some_layers(n, seed):
    """Errors, shapes and costs of four layers of small images that compete for pixels."""
    g = torch.Generator().manual_seed(seed)
    errors = 4 * torch.rand(n, 4, 1, 4, 4, generator=g).double()
    shape = 0.05 + 0.9 * torch.rand(n, 4, 1, 4, 4, generator=g).double().round()
    return errors, shape, 2 * torch.rand(n, 4, generator=g).double()


def test_parts_of_the_mixture_pixel_by_pixel():
    errors, shape, _ = some_layers(3, seed=5)
    found = log_joint(errors, shape)
    for b in range(3):
        parts = torch.tensor(in_pixels(errors[b], shape[b], range(4))).double()
        expected = parts.log().T.view(4, 1, 4, 4)
        torch.testing.assert_close(found[b], expected, atol=1e-2, rtol=0)  # PROB_EPS


def test_layers_are_arranged_as_a_search_over_all_orders_does():
    n = 100
    errors, shape, l_z = some_layers(n, seed=2)
    order, worth_it = arrange(errors, shape, l_z)
    numbers, moved = set(), 0
    for b in range(n):
        kept = [0, 1, 2, 3]
        for t in (2, 1, 0):  # from the back on; the last stays
            without = [u for u in kept if u != t]
            gain = naive(errors[b], shape[b], kept) - naive(errors[b], shape[b], without)
            kept = without if gain < l_z[b, t] else kept
        spare = [t for t in range(3) if t not in kept]
        numbers.add(len(spare))
        arranged = order[b].tolist()
        assert sorted(arranged[: len(kept) - 1]) == kept[:-1] and arranged[-1] == 3
        assert worth_it[b].tolist() == [t in kept for t in arranged]
        found = naive(errors[b], shape[b], [*arranged[: len(kept) - 1], 3])
        best = max(naive(errors[b], shape[b], [*p, 3]) for p in itertools.permutations(kept[:-1]))
        assert found > best - 0.02
        moved += bool(spare) and arranged[: len(kept)] != kept
    assert numbers == {0, 1, 2, 3} and moved > 2


def decomposed(make_pq, x, mean, shape, r):
    """Those layers as if the competition had found them, with costs of their latents of 10."""
    model, guide = make_pq()
    d = GreedyCompetition(num_slots=3).decompose(model, guide, x.double())
    ten = torch.full((1, 3), 10.0).double()
    terms = d.terms._replace(z=ten)
    mean, shape, r = (a.double() for a in (mean, shape, r))
    return model, guide, dataclasses.replace(d, mean=mean, shape=shape, region=r, terms=terms)


def test_a_wrong_order_is_put_right_and_pixels_go_where_they_belong(make_pq):
    x, mean, shape = painted(2, seed=4)
    front, back = (shape[:, t] > 0.5 for t in range(2))
    assert (front & back).sum() >= 4
    true = torch.stack([front, back & ~front, ~front & ~back], 1).float()
    wrong = [1, 0, 2]
    # the hidden one was taken first, with a piece of what hides it
    r = torch.stack([back, front & ~back, ~front & ~back], 1).float()
    model, guide, d = decomposed(make_pq, x, mean[:, wrong], shape[:, wrong], r)
    d = dataclasses.replace(d, k=torch.tensor([[2, 1, 0]]), seed_pixel=torch.tensor([[7, 5, -1]]))
    refined = refine(model, guide, d, NO_NOISE, ORACLE)
    assert refined.k.tolist() == [[1, 2, 0]] and refined.seed_pixel.tolist() == [[5, 7, -1]]
    assert (refined.region.round() == true).all()
    torch.testing.assert_close(refined.region.sum(1), torch.ones(1, 1, 16, 16).double())
    torch.testing.assert_close(refined.scope[:, 1], 1 - refined.region[:, 0])
    torch.testing.assert_close(refined.mean, mean.double())
    error = (refined.region * (x[:, None] - mean).square()).sum((2, 3, 4)) / (2 * SIGMA**2)
    torch.testing.assert_close(refined.terms.x, error)
    q, p = refined.region, refined.scope * shape
    yes, no = ((a + 1e-6).log() - (b + 1e-6).log() for a, b in ((q, p), (1 - q, 1 - p)))
    torch.testing.assert_close(refined.terms.r, (q * yes + (1 - q) * no).sum((2, 3, 4)))


def test_an_unknown_colour_gives_no_pixels_away(make_pq):
    x, mean, shape = painted(2, seed=4)
    front, back = (shape[:, t] > 0.5 for t in range(2))
    r = torch.stack([front, back & ~front, ~front & ~back], 1).float()
    drawn = mean.clone()
    drawn[:, 0] = mean[:, 2]  # as if the front one were of the background's colour
    _, _, d = decomposed(make_pq, x, drawn, shape, r)
    seen = mean_colour_corrected(d)
    torch.testing.assert_close(seen[:, 1:], mean[:, 1:].double())
    assert (seen[:, 0] - mean[:, 0]).abs().max() < 0.05  # 36 pixels against one
    model, guide, d = decomposed(make_pq, x, drawn, shape, r)
    refined = refine(model, guide, d, NO_NOISE, ORACLE)
    assert (refined.region.round() == r).all()


def test_experts_replace_the_layers_that_make_the_image_likelier_anew(make_pq):
    x, mean, shape = painted(2, seed=3)
    front, back = (shape[:, t] > 0.5 for t in range(2))
    r = torch.stack([front, back & ~front, ~front & ~back], 1).float()
    chequered = (torch.arange(16)[:, None] + torch.arange(16)) % 2  # nothing of the kind is there
    wrong = mean.clone()
    wrong[:, 2] = chequered
    model, guide, d = decomposed(make_pq, x, wrong, shape, r)
    refined = refine(model, guide, d, NO_NOISE, ORACLE)
    assert torch.equal(refined.mean[:, :2], d.mean[:, :2])  # no expert knows the objects better
    assert torch.equal(refined.z[:, :2], d.z[:, :2])
    drawn, m = model.decode(refined.z[:, 2], refined.k[:, 2])
    torch.testing.assert_close(drawn, refined.mean[:, 2])
    torch.testing.assert_close(m, refined.shape[:, 2])
    errors = (pixel_errors(x.double(), e.mean, PIXEL_NOISE) for e in (refined, d))
    likely = (log_likelihood(e, d_.shape) for e, d_ in zip(errors, (refined, d), strict=True))
    assert next(likely) > next(likely)


class OneExpert:
    """p and q of one expert, which encodes and draws what it is told, whatever it sees.

    Args:
        mean: ``(T, 3, H, W)``.
        shape: ``(T, 1, H, W)``.
        l_z: what the latents cost, ``(T,)`` nats.
    """

    pixel_noise, num_experts, latent_dim = PIXEL_NOISE, 1, 1

    def __init__(self, mean, shape, l_z):
        self.mean, self.shape, self.loc = mean[:, None], shape[:, None], (2 * l_z).sqrt()

    def encode_all(self, x, r, noise, s=None):
        loc = self.loc[:, None, None]  # of N(loc, 1): loc^2 / 2
        return FixedNoiseNormal(loc, torch.ones_like(loc), torch.zeros_like(loc)).to_event(1)

    def decode_all(self, z):
        return self.mean, self.shape

    def latent_prior(self, *batch):
        zero = torch.zeros(*batch, 1).double()
        return FixedNoiseNormal(zero, torch.ones_like(zero), zero).to_event(1)

    def region_prior(self, s_t, shape):
        return MeanBernoulli(s_t * shape).to_event(3)


@pytest.mark.parametrize("margin", [-0.5, 0.5])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_is_drawn_anew_if_that_gains_more_than_its_latent_costs(layer, margin):
    x, mean, shape = (a.double() for a in painted(2, seed=3))
    shape[:, 2] = 1
    front, back = (shape[:, t] > 0.5 for t in range(2))
    r = torch.stack([front, back & ~front, ~front & ~back], 1).double()
    drawn = mean.clone()
    drawn[0, layer, 0] += torch.linspace(-0.15, 0.15, 16).double()  # better: the true colour

    def likelihood(mean):
        """Pixel by pixel, a mixture over what is in front."""
        total = 0.0
        for i, j in itertools.product(range(16), repeat=2):
            free, pixel = 1.0, 0.0
            for t in range(3):
                error = (x[0, :, i, j] - mean[0, t, :, i, j]).square().sum().item()
                pixel += free * shape[0, t, 0, i, j].item() * math.exp(-error / (2 * SIGMA**2))
                free *= 1 - shape[0, t, 0, i, j].item()
            total += math.log(pixel)
        return total

    gain = likelihood(mean) - likelihood(drawn)
    assert gain > 1
    ten = torch.full((1, 3), 10.0).double()
    costs = torch.full((3,), 10.0).double()
    costs[layer] += gain + margin
    pq = OneExpert(mean[0], shape[0], costs)
    nothing = torch.zeros(1, 3, dtype=torch.long)
    found = Decomposition(
        x, nothing, scopes(r), r, drawn, shape, ten[..., None] * 0, Terms(ten, ten, ten),
        torch.zeros(1, 3, 1).double(), nothing,
    )  # fmt: skip
    refined = refine(pq, pq, found, OF_ONE, ORACLE)
    anew = margin < 0
    torch.testing.assert_close(refined.mean, mean if anew else drawn)
    cost = costs[layer].item() if anew else 10
    assert refined.terms.z[0, layer].item() == pytest.approx(cost)


def test_a_layer_that_is_not_worth_its_latent_is_not_drawn_anew_to_make_it_cheaper():
    x, mean, shape = (a.double() for a in painted(2, seed=3))
    shape[:, 2], shape[:, 0] = 1, 0  # nothing of the first: a spare one
    x = torch.where(shape[:, 1] > 0.5, mean[:, 1], mean[:, 2])
    r = torch.stack([shape[:, 0] * 0, shape[:, 1] > 0.5, shape[:, 1] < 0.5], 1).double()
    ten, nothing = torch.full((1, 3), 10.0).double(), torch.zeros(1, 3, dtype=torch.long)
    found = Decomposition(
        x, nothing, scopes(r), r, mean, shape, ten[..., None] * 0, Terms(ten, ten, ten),
        torch.zeros(1, 3, 1).double(), nothing,
    )  # fmt: skip
    white, cheap = torch.ones_like(mean[0]), torch.tensor([50.0, 1.0, 50.0]).double()
    pq = OneExpert(white, shape[0], cheap)
    refined = refine(pq, pq, found, OF_ONE, ORACLE)
    torch.testing.assert_close(refined.mean, mean[:, [1, 0, 2]])  # the spare one behind
    assert refined.terms.z.tolist() == [[10, 10, 10]] and refined.area[0, 1] == 0


def test_what_a_spare_layer_would_be_like_changes_nothing():
    """Of the background's own colour, but not worth its latent, wherever it says that it is."""
    x, mean, shape = (a.double() for a in painted(2, seed=3))
    shape[:, 0], shape[:, 2] = 0, 1
    mean[:, 0], mean[:, 1] = mean[:, 2], mean[:, 2] + 0.1  # some doubt whose pixels are whose
    front = shape[:, 1] > 0.5
    x = torch.where(front, mean[:, 1], mean[:, 2])
    drawn = mean.clone()
    drawn[0, 2, 0] += torch.linspace(-0.1, 0.1, 16).double()
    r = torch.stack([front * 0, front, ~front], 1).double()
    costs, nothing = torch.tensor([[1e4, 10, 10]]).double(), torch.zeros(1, 3, dtype=torch.long)
    expert = OneExpert(mean[0, [1, 0, 2]], shape[0, [1, 0, 2]], torch.tensor([99, 99, 15.0]))
    refined = []
    for spare in (0.0, 0.98):
        shape[:, 0, :, 13:] = spare  # away from the other
        found = Decomposition(
            x, nothing, scopes(r), r, drawn, shape, costs[..., None] * 0,
            Terms(costs, costs, costs), torch.zeros(1, 3, 1).double(), nothing,
        )  # fmt: skip
        refined.append(refine(expert, expert, found, OF_ONE, ORACLE))
    one, other = refined
    assert one.terms.z[0].tolist() == pytest.approx([10, 1e4, 15])  # the background anew
    for name in ("region", "scope", "mean", "k"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    torch.testing.assert_close(one.terms.x, other.terms.x)


@pytest.mark.parametrize("pixels", [0.01, 1.0, 9.0])
def test_a_colour_as_seen_is_that_of_the_pixels_and_one_as_drawn(make_pq, pixels):
    x, mean, shape = painted(2, seed=4)
    r = torch.zeros(1, 3, 1, 16, 16)
    r[:, 0, :, 4:7, 4:7] = pixels / 9
    r[:, 2] = 1 - r[:, 0]
    _, _, d = decomposed(make_pq, x, mean, shape, r)
    colours = x[0, :, 4:7, 4:7].flatten(1)
    expected = (pixels * colours.mean(1) + mean[0, 0, :, 0, 0]) / (pixels + 1)
    seen = mean_colour_corrected(d)[0, 0]
    torch.testing.assert_close(seen, expected[:, None, None].expand_as(seen).double())


class OneSquare:
    """An expert that proposes and draws one square of the image's last unexplained colour."""

    num_experts, latent_dim, pixel_noise = 1, 1, PIXEL_NOISE

    def __init__(self, shape, colour):
        self.shape, self.colour, self.scopes = shape, colour, []

    def attend_all(self, x, s_t):
        self.scopes.append(s_t)
        return (s_t * (self.shape > 0.5))[:, None]

    def encode_all(self, x, r, noise, s=None):
        zero = torch.zeros(len(x), 1, 1)
        return FixedNoiseNormal(zero, zero + 1e-6, noise[:, None]).to_event(1)

    def decode_all(self, z):
        size = self.shape.shape[-1]
        mean = self.colour[None, None, :, None, None].expand(len(z), 1, 3, size, size)
        return mean, self.shape[None, None].expand(len(z), 1, 1, size, size)

    def latent_prior(self, *batch):
        zero = torch.zeros(*batch, 1)
        return torch.distributions.Independent(torch.distributions.Normal(zero, zero + 1), 1)

    def region_prior(self, s_t, shape):
        return MeanBernoulli(s_t * shape).to_event(3)


def with_an_object_missing(missing):
    """Two images of two squares; of the second image's, one has no layer."""
    x, mean, shape = painted(2, seed=4)
    k = torch.zeros(1, 3, dtype=torch.long)
    zero = torch.zeros(1, 3)
    whole = Decomposition(
        x, k, torch.ones_like(shape), shape, mean, shape, zero[:, :, None],
        Terms(zero, zero, zero), zero[:, :, None], k - 1,
    )  # fmt: skip
    whole = whole.in_order(likeliest_order(pixel_errors(x, mean, PIXEL_NOISE), shape))
    whole, _ = e_step(whole, PIXEL_NOISE)
    other = [t for t in range(2) if t != missing]
    region = whole.region.clone()
    region[:, -1] += region[:, missing]
    region[:, missing] = 0
    lacking = dataclasses.replace(whole, region=region)
    lacking = lacking.in_order(torch.tensor([[*other, missing, 2]]))
    return whole, Decomposition.cat([whole, lacking])


@pytest.mark.parametrize("missing", [0, 1])
def test_a_spare_layer_goes_to_what_is_explained_worst(missing):
    whole, both = with_an_object_missing(missing)
    expert = OneSquare(whole.shape[0, missing], whole.mean[0, missing, :, 0, 0])
    filled = fill_spare(expert, expert, both, 1.0)
    # the scope is what no layer explains: of the first image nothing, of the second the object
    (scope,) = expert.scopes
    visible = whole.region[0, missing]
    assert scope[0].max() < 0.05
    assert (scope[1] - (visible > 0.5).float()).abs().max() < 0.1
    assert same_layers(filled[0], both[0])
    torch.testing.assert_close(filled.region[1, 1], visible, atol=0.1, rtol=0)
    torch.testing.assert_close(filled.region[1].sum(0), torch.ones(1, 16, 16), atol=0.1, rtol=0)
    found, kept = e_step(filled, PIXEL_NOISE)
    assert kept.all()
    torch.testing.assert_close(found.region[1], found.region[0], atol=0.05, rtol=0)


def test_without_other_layers_there_is_no_spare_one():
    whole, _ = with_an_object_missing(0)
    alone = whole.in_order(torch.tensor([[2]]))
    expert = OneSquare(whole.shape[0, 0], whole.mean[0, 0, :, 0, 0])
    assert fill_spare(expert, expert, alone, 1.0) is alone


def test_a_refinement_with_outliers_step_by_step(make_pq):
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    model, guide = make_pq()
    draws = draws_of(torch.zeros(40, 3, 2).double())
    d = GreedyCompetition(3, 1.0, 0.0).decompose(model, guide, images)

    def by_hand(first, between, last):
        found, kept = e_step(d, PIXEL_NOISE, Mixture(first))
        anew = ORACLE.explain(model, guide, images, draws, found.region)

        def evidence(taken):
            e = anew.where(taken, found)
            errors = with_outliers(pixel_errors(images, e.mean, PIXEL_NOISE), PIXEL_NOISE, between)
            likely = log_likelihood(errors, e.shape * kept[:, :, None, None, None])
            return likely - (e.terms.z * kept).sum(1)

        taken = torch.zeros_like(kept)
        for t in (2, 0, 1):
            further = taken.clone()
            further[:, t] = True
            better = evidence(further) > evidence(taken)
            taken = torch.where(better[:, None], further, taken)
        return e_step(anew.where(taken, found), PIXEL_NOISE, Mixture(last))[0]

    refined = refine(model, guide, d, draws, ORACLE, Mixture(0.2))
    expected = by_hand(0.2, 0.2, 0.2)
    torch.testing.assert_close(refined.region, expected.region)
    torch.testing.assert_close(refined.mean, expected.mean)
    for others in ((0.0, 0.2, 0.2), (0.2, 0.0, 0.2), (0.2, 0.2, 0.0)):
        assert not torch.allclose(by_hand(*others).region, expected.region, atol=1e-3)


def test_outliers_do_not_change_the_colour_of_a_layer():
    x, mean, shape = painted(1)
    region = torch.cat([shape[:, :1], 1 - shape[:, :1]], 1)
    zero = torch.zeros(1, 2)
    k = zero.long()
    terms = Terms(zero, zero, zero)
    drawn = mean + 0.05  # not quite the right colour, which is to be corrected
    x[..., 4:7, 4:7] = 1 - x[..., 4:7, 4:7].round()  # something else in front of both
    d = Decomposition(
        x, k, region, region, drawn, shape, zero[:, :, None], terms, zero[:, :, None], k
    )
    off = (mean_colour_corrected(d) - mean).abs().amax((0, 2, 3, 4))
    kept_off = (mean_colour_corrected(d, PIXEL_NOISE) - mean).abs().amax((0, 2, 3, 4))
    assert (kept_off < 0.02).all() and off.max() > 0.05


def test_an_outline_goes_to_the_layer_whose_shape_has_it():
    size, inside = 16, slice(4, 12)
    shape = torch.full((1, 2, 1, size, size), 0.01)
    shape[:, 0, :, inside, inside] = 0.99
    mean = torch.tensor([[0.8, 0.7, 0.9], [0.3, 0.1, 0.2]])[None, :, :, None, None]
    mean = mean.expand(-1, -1, -1, size, size)
    whole = (shape[:, :1] > 0.5).float()
    x = (whole * mean[:, :1] + (1 - whole) * mean[:, 1:])[:, 0]
    x[..., inside, inside] = 0.0  # the outline is black, as nothing else is, but nearer the ground
    x[..., 5:11, 5:11] = mean[0, 0, :, :6, :6]
    region = torch.cat([whole, 1 - whole], 1)
    k, zero = torch.tensor([[0, 1]]), torch.zeros(1, 2)
    terms, losses = Terms(zero, zero, zero), zero[:, :, None]
    d = Decomposition(x, k, region, region, mean, shape, losses, terms, losses, k - 1)
    without = e_step(d, PIXEL_NOISE)[0].region[0, 0, 0, inside, inside]
    found = e_step(d, PIXEL_NOISE, Mixture(0.01))[0].region[0, 0, 0, inside, inside]
    assert found.min() > 0.5 and without.min() < 0.1
