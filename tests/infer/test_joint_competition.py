"""Order and experts of things whose truth is known, drawn by experts made by hand."""

import dataclasses
import itertools

import pytest
import torch

from econ_pyro.core.distributions import FixedNoiseNormal, MeanBernoulli, PixelNoise
from econ_pyro.core.selection import Draws
from econ_pyro.infer.elbo import reconstruct
from econ_pyro.infer.joint_competition import JointCompetition
from helpers.selections import draws_of

SIGMA, SIZE = 0.1, 16


class ByHand:
    """p and q of one scene whose things each expert draws as a table says.

    Args:
        x: the image, ``(3, H, W)``.
        r: what is seen of each thing but the last, ``(T - 1, H, W)``, in order of salience.
        mean: ``(T, K, 3, H, W)``.
        shape: ``(T, K, H, W)``.
    """

    pixel_noise, latent_dim = PixelNoise(SIGMA), 1

    def __init__(self, x, r, mean, shape):
        self.x, self.r, self.mean, self.shape = x[None], r, mean, shape[:, :, None]
        self.num_slots, self.num_experts = mean.shape[:2]

    def candidates(self, x, s_t, n):
        r = self.r[None, :, None, None].expand(-1, n, self.mean.shape[1], -1, -1, -1)
        return torch.arange(n)[None] * 10, r

    def encode_all(self, x, r, noise, s=None):
        z = torch.zeros(*r.shape[:2], 1)
        return FixedNoiseNormal(z, torch.ones_like(z), noise[:, None].expand_as(z)).to_event(1)

    def decode_all(self, z):
        return self.mean, self.shape

    def latent_prior(self, *batch):
        zero = torch.zeros(*batch, 1)
        return FixedNoiseNormal(zero, torch.ones_like(zero), zero).to_event(1)

    def region_prior(self, s_t, shape):
        return MeanBernoulli(s_t * shape).to_event(3)

    def assign(self, **options):
        noise = torch.arange(float(self.num_slots))[None, :, None]
        competition = JointCompetition(self.num_slots, temperature=0.0)
        draws = draws_of(noise, self.num_experts)
        return dataclasses.replace(competition, **options)(self, self, self.x, draws=draws)


def square(top, side):
    m = torch.zeros(SIZE, SIZE)
    m[top : top + side, top : top + side] = 1
    return m


def scene(shapes, contrasts, salient, others=()):
    """Squares front to back over grey, found in the order ``salient``.

    Expert 0 draws them as they are, expert 1 the background alone, and further ones as ``others``
    say, in tables like ``shapes``.
    """
    n = len(shapes)
    x, left, seen = torch.full((3, SIZE, SIZE), 0.2), torch.ones(SIZE, SIZE), []
    means = []
    for shape, contrast in zip(shapes, contrasts, strict=True):
        seen.append(shape * left)
        left = left * (1 - shape)
        x = torch.where(seen[-1].bool(), torch.full_like(x, 0.2 + contrast), x)
        means.append(torch.full_like(x, 0.2 + contrast))
    grey, nothing = torch.full_like(x, 0.2), torch.zeros(SIZE, SIZE)
    everywhere = torch.ones(SIZE, SIZE)
    found = torch.stack([seen[i] for i in salient])
    drawn = [[shapes[i] for i in salient], [everywhere] * n]
    drawn += [[other[i] for i in salient] for other in others]
    colours = [
        [means[i] for i in salient],
        [grey] * n,
        *[[means[i] for i in salient]] * len(others),
    ]
    last = [nothing, everywhere, *[nothing] * len(others)]
    shape = torch.stack([torch.stack([*d, e]) for d, e in zip(drawn, last, strict=True)], 1)
    mean = torch.stack([torch.stack([*c, grey]) for c in colours], 1)
    return ByHand(x, found, mean, shape.clamp(1e-3, 1 - 1e-3))


@pytest.mark.parametrize("back_side", [5, 8, 11])
@pytest.mark.parametrize("salient", [[0, 1], [1, 0]])
def test_the_nearer_of_two_is_in_front_whatever_their_sizes(back_side, salient):
    w = scene([square(2, 5), square(4, back_side)], [0.6, 0.4], salient).assign()
    assert w.seed_pixel.tolist() == [[10 * salient.index(0), 10 * salient.index(1), -1]]
    assert w.noise.flatten().tolist() == [salient.index(0), salient.index(1), 2]
    assert w.k.tolist() == [[0, 0, 1]]
    hidden = (square(2, 5) * square(4, back_side)).sum().item()
    assert w.area[0].tolist() == pytest.approx(
        [25, back_side**2 - hidden, SIZE**2 - 25 - back_side**2 + hidden]
    )


def test_a_chain_of_three_is_put_in_order():
    shapes = [square(1, 3), square(3, 6), square(5, 10)]  # the nearest hides one pixel
    for salient in ([2, 1, 0], [1, 2, 0], [0, 1, 2]):
        w = scene(shapes, [0.2, 0.5, 0.7], salient).assign()
        assert w.seed_pixel.tolist() == [[10 * salient.index(i) for i in range(3)] + [-1]]


def test_without_order_the_salient_comes_first_and_pays_for_what_is_hidden():
    by_hand = scene([square(2, 6), square(4, 8)], [0.6, 0.4], [1, 0])
    unordered, ordered = by_hand.assign(ordered=False), by_hand.assign()
    assert unordered.seed_pixel.tolist() == [[0, 10, -1]] and ordered.seed_pixel.tolist() == [
        [10, 0, -1]
    ]
    # 16 pixels that are drawn with probability 0.999 and not seen
    assert unordered.losses[0, 0, 0] > 16 * 6
    assert ordered.losses[0, 1, 0] < 2


def test_a_hidden_thing_goes_to_the_expert_that_is_best_behind_what_hides_it():
    front, back = square(2, 7), square(5, 8)
    bitten = back * (1 - square(2, 6))  # whoever draws little more than is seen of it
    bitten[-5:-3, -5:-3] = 0  # but for a corner
    by_hand = scene([front, back], [0.6, 0.4], [1, 0], others=[[front, bitten]])
    # as if it came first, drawing the hidden part costs more than leaving the corner out
    assert by_hand.assign(ordered=False).k[0, 0] == 2
    w = by_hand.assign()
    assert w.seed_pixel.tolist() == [[10, 0, -1]] and w.k[0, 1] == 0
    assert w.losses[0, 1, 0] < 2 < 20 < w.losses[0, 1, 2]


CHAIN = [square(1, 4), square(3, 6), square(7, 6)]


@pytest.mark.parametrize(
    ("shapes", "salient"),
    [
        ([square(2, 5), square(4, 8)], [0, 1]),
        *((CHAIN, salient) for salient in itertools.permutations(range(3))),
    ],
)
def test_losses_are_costs_in_the_scope_of_the_place(shapes, salient):
    by_hand = scene(shapes, [0.6, 0.4, 0.2][: len(shapes)], salient)
    losses = by_hand.assign(lam=0.5).losses[0]
    scope = torch.ones(SIZE, SIZE)
    regions = [*by_hand.r, torch.ones(SIZE, SIZE)]
    true_order = [*(salient.index(i) for i in range(len(shapes))), len(shapes)]
    for place, t in enumerate(true_order):
        r = regions[t]
        seen = (scope * r).double()
        for k in range(2):
            error = (by_hand.x[0] - by_hand.mean[t, k]).square().sum(0) / (2 * SIGMA**2)
            p = (scope * by_hand.shape[t, k, 0]).double()
            cost = 0.5 * (seen * error).sum()
            for a, b in ((seen, p), (1 - seen, 1 - p)):
                cost += (a * ((a + 1e-6).log() - (b + 1e-6).log())).sum()
            assert losses[place, k].item() == pytest.approx(cost.item(), rel=1e-3, abs=1e-2)
        scope = scope * (1 - r)


# from (2, 0, 1) the way to the true order is through less likely ones: a layer moves only forward
@pytest.mark.parametrize("salient", sorted({*itertools.permutations(range(3))} - {(2, 0, 1)}))
def test_each_thing_is_ordered_as_its_own_expert_draws_it(salient):
    """Expert i draws shape i as it is, and of the others what is seen of them, moved."""
    by_hand = scene(CHAIN, [0.6, 0.4, 0.3], salient, others=[CHAIN, CHAIN])
    own = torch.tensor([0, 2, 3])[list(salient)]  # expert 1 draws the background
    r = by_hand.r[None, :, None, None].repeat(1, 1, 4, 1, 1, 1)
    by_hand.candidates = lambda x, s_t, n: (10 * torch.arange(n)[None], r)
    for t, expert in enumerate(own.tolist()):
        for k in {0, 2, 3} - {expert}:
            by_hand.shape[t, k, 0] = by_hand.r[t].roll((2, -2), (0, 1))
            r[0, t, k, 0] = by_hand.shape[t, k, 0]
    by_hand.shape.round_()  # of shapes apart, all orders are as likely
    w = by_hand.assign()
    assert w.seed_pixel.tolist() == [[10 * salient.index(i) for i in range(3)] + [-1]]
    assert w.k.tolist() == [[0, 2, 3, 1]]
    seen = [by_hand.r[salient.index(i)] for i in range(3)]
    assert torch.equal(w.region[0, :, 0], torch.stack([*seen, 1 - sum(seen)]))


def test_the_last_layer_is_seen_as_what_most_experts_leave():
    by_hand = scene([square(2, 5), square(9, 5)], [0.6, 0.4], [0, 1], others=[[square(2, 5)] * 2])
    r = by_hand.r[None, :, None, None].repeat(1, 1, 3, 1, 1, 1)
    r[:, :, 0] = 1  # one expert would take everything
    r[:, 0, 2, 0, 2:4] = 0  # and one less of the first
    by_hand.candidates = lambda x, s_t, n: (torch.arange(n)[None], r)
    seen, encode = [], by_hand.encode_all
    by_hand.encode_all = lambda x, r, noise, s: (seen.append(r), encode(x, r, noise))[1]
    for bias in (None, torch.tensor([0, 0, -1e6])):
        w = by_hand.assign(expert_bias=bias)
        # in the end it takes what the winners leave, whoever they are
        assert torch.equal(w.region.sum(1), torch.ones(1, 1, SIZE, SIZE))
    left = 1 - square(2, 5) - square(9, 5)
    assert torch.equal(seen[0][-1, :, 0], left.expand(3, -1, -1))


def test_a_better_expert_makes_another_order():
    """A near square and a middle one hide parts of the same third, which was found first."""
    near, middle, back = square(1, 5), square(11, 4), square(4, 8)
    seen = back * (1 - near) * (1 - middle)
    assert (back * middle).sum() == 1
    # an expert that draws what is seen of it, a little of what the near one hides, and not the
    # other corners, is the best as if it came first, and says nothing of the middle one
    little = seen + square(4, 1)
    little[4, -5], little[-5, 4], little[4, -6], little[-6, 4] = 0, 0, 0, 0
    # and one that draws just what is seen, in a colour that is off, is not the best at any time
    by_hand = scene(
        [near, middle, back],
        [0.6, 0.4, 0.3],
        [2, 1, 0],
        others=[[near, middle, little], [near, middle, seen]],
    )
    by_hand.mean[0, 3] += 0.1
    # the middle one is another expert's: the first sees it in the wrong place
    r = by_hand.r[None, :, None, None].repeat(1, 1, 4, 1, 1, 1)
    r[0, 1, 0] = middle.roll((-6, 2), (0, 1))
    by_hand.shape[1, 0] = r[0, 1, 0].clamp(1e-3, 1 - 1e-3)
    by_hand.candidates = lambda x, s_t, n: (10 * torch.arange(n)[None], r)
    assert by_hand.assign(ordered=False).k[0, 0] == 2
    # behind the near one the true square is better, and its last pixel is the middle one's
    w = by_hand.assign()
    assert w.seed_pixel[0, 2:].tolist() == [0, -1] and w.k[0, 2] == 0
    assert torch.equal(w.region.sum(1), torch.ones(1, 1, SIZE, SIZE))


def test_what_is_not_worth_its_latent_comes_behind():
    shapes = [square(2, 5), square(9, 4)]
    by_hand = scene(shapes, [0.6, 0.001], [1, 0])  # of the second nothing is to be seen
    by_hand.encode_all = lambda x, r, noise, s: FixedNoiseNormal(
        torch.ones(*r.shape[:2], 1), torch.ones(*r.shape[:2], 1), torch.zeros(*r.shape[:2], 1)
    ).to_event(1)
    assert by_hand.assign().seed_pixel.tolist() == [[10, 0, -1]]


def test_the_terms_of_the_winners_are_those_that_they_competed_with():
    by_hand = scene(CHAIN, [0.6, 0.4, 0.3], [1, 2, 0])
    competition = JointCompetition(num_slots=4, lam=0.5, temperature=0.0)
    draws = draws_of(torch.zeros(1, 4, 1), experts=2)
    d, _ = competition.contest(by_hand, by_hand, by_hand.x, draws)
    won = d.competition_losses.gather(2, d.k[:, :, None])[:, :, 0]
    torch.testing.assert_close(0.5 * d.terms.x + d.terms.r, won)
    torch.testing.assert_close(d.region, d.scope * d.region.round())  # of binary shares
    torch.testing.assert_close(d.region.sum(1), torch.ones(1, 1, SIZE, SIZE))


@pytest.fixture
def joint():
    return JointCompetition(num_slots=3, temperature=0.0)


def test_the_order_of_experts_changes_nothing(make_pq, images, joint):
    model, guide = make_pq(seeded=True)
    d = joint.decompose(model, guide, images)
    for ensemble in (model.decoders, guide.attentions, guide.encoders):
        first, second, third = ensemble
        ensemble[0], ensemble[1], ensemble[2] = third, first, second
    turned = joint.decompose(model, guide, images)
    assert torch.equal((d.k + 1) % 3, turned.k) and torch.equal(d.seed_pixel, turned.seed_pixel)
    torch.testing.assert_close(d.region, turned.region)


def test_explaining_is_the_winners_account(make_pq, images, joint):
    model, guide = make_pq(seeded=True)
    draws = draws_of(torch.randn(5, 3, 2).double())
    w = joint(model, guide, images, draws=draws)
    d = joint.decompose(model, guide, images, draws=draws)
    layers = reconstruct(model, guide.given(w), images, w.k)
    torch.testing.assert_close(d.region, layers.region)
    torch.testing.assert_close(d.terms, layers.terms)
    torch.testing.assert_close(d.region.sum(1), torch.ones(5, 1, 16, 16).double())
    assert torch.equal(d.k, w.k) and torch.equal(d.competition_losses, w.losses)


def test_biases_and_gumbel_noise_move_winners_not_losses(make_pq, images, joint):
    model, guide = make_pq(seeded=True)
    draws = draws_of(torch.zeros(5, 3, 2).double())
    usual = joint(model, guide, images, draws=draws)
    biased = dataclasses.replace(joint, expert_bias=torch.tensor([0.0, 0.0, -1e6]))
    pushed = biased(model, guide, images, draws=draws)
    assert (pushed.k == 2).all() and torch.equal(pushed.losses, usual.losses)
    warm = dataclasses.replace(joint, temperature=1e9)
    gumbel = torch.zeros(5, 3, 3).double()
    gumbel[:, :, 1] = 100
    assert (warm(model, guide, images, draws=Draws(draws.noise, gumbel)).k == 1).all()


def test_one_slot_is_all_there_is(make_pq, images, joint):
    joint = dataclasses.replace(joint, num_slots=1)
    d = joint.decompose(*make_pq(seeded=True), images)
    assert (d.region == 1).all() and (d.seed_pixel == -1).all()
