"""Refined competitions: rounds of refinement, and layers that move behind others."""

import dataclasses
import itertools

import pytest
import torch

from econ_pyro.core.distributions import FixedNoiseNormal, MeanBernoulli, PixelNoise
from econ_pyro.core.pixel_features import like_last
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer import refined_competition
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.mixture import Mixture, log_evidence
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.refined_competition import Refined, merge_with_background, move_behind
from econ_pyro.infer.refinement import (
    e_step,
    fill_spare,
    in_their_scopes,
    refine,
    refine_rounds,
)
from helpers.selections import draws_of, same_layers
from helpers.trainers import changed, seeded_tiny

PIXEL_NOISE = PixelNoise(0.1)
ORACLE = OracleCompetition(num_slots=3, temperature=0.0)


def test_refinement_begins_with_things_as_each_was_looked_at(make_pq):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(7)).double()
    model, guide = make_pq(seeded=True)
    joint = JointCompetition(num_slots=3, temperature=0.0, ordered=False)
    draws = draws_of(noise)
    found, in_order_found = joint.contest(model, guide, images, draws)
    expected = refine(model, guide, found, draws_of(in_order_found), ORACLE)
    expected = move_behind(model, guide, expected, draws_of(in_order_found), 1.0)
    ours = Refined.of(joint).decompose(model, guide, images, draws=draws)
    assert torch.equal(ours.region, expected.region)


def test_refinement_explains_with_the_noise_of_each_layer(make_pq):
    """Of layers in another order than things were found, each with its own."""
    g = torch.Generator().manual_seed(8)
    images = torch.rand(12, 3, 16, 16, generator=g).double()
    noise = 9 * torch.randn(12, 3, 2, generator=g).double()
    model, guide = make_pq(seeded=True)
    joint, draws = JointCompetition(num_slots=3, temperature=0.0), draws_of(noise)
    found, moved = joint.contest(model, guide, images, draws)
    assert not torch.equal(moved, noise)
    expected = refine(model, guide, found, draws_of(moved), ORACLE)
    expected = move_behind(model, guide, expected, draws_of(moved), 1.0)
    ours = Refined.of(joint).decompose(model, guide, images, draws=draws)
    torch.testing.assert_close(ours.z, expected.z)
    torch.testing.assert_close(ours.region, expected.region)
    for b, t in itertools.product(range(12), range(3)):
        # layers that were drawn anew, too, still grew from the pixel of the old ones
        assert ours.seed_pixel[b, t] in found.seed_pixel[b]


def test_refinement_is_the_configurations_choice(tiny):
    images = torch.rand(2, 3, 16, 16)
    assert not tiny.model.competition.refine
    as_published = Econ(tiny).decompose(images)
    competition = dataclasses.replace(tiny.model.competition, refine=True)
    model = dataclasses.replace(tiny.model, competition=competition)
    econ = Econ(dataclasses.replace(tiny, model=model))
    assert torch.equal(econ.decompose(images, refine=False).region, as_published.region)
    assert not torch.equal(econ.decompose(images).region, as_published.region)
    given = torch.ones(2, 3, 1, 16, 16) / 3  # true regions are not for the model to change
    assert torch.equal(econ.decompose(images, evidence=given).region, given)


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_refined_is_selected_as_it_was(make_pq, ordered):
    """Bias, temperature and occlusion of the competition within count, and nothing is refined."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    model, guide = make_pq(seeded=True)
    bias = torch.tensor([0.0, -1e9, 0.0])
    for options in ((0.0, bias, 0.0), (1e9, None, 0.7)):
        joint = JointCompetition(3, 1.0, *options, ordered=ordered)
        refined = Refined.of(joint)
        torch.manual_seed(1)
        wanted = joint(model, guide, images)
        torch.manual_seed(1)
        won = refined(model, guide, images)
        for a, b in zip(won, wanted, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    refined.temperature, refined.expert_bias = 0.0, bias  # as schedules and load balancing do
    assert (refined(model, guide, images).k == 1).all()


@pytest.mark.parametrize(("rounds", "outliers"), [(1, 0.0), (1, 0.05), (3, 0.05)])
def test_rounds_of_refinement_one_by_one(make_pq, rounds, outliers):
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    model, guide = make_pq()
    inner, draws = GreedyCompetition(3, 0.7, 0.0), draws_of(torch.zeros(6, 3, 2).double())
    oracle = OracleCompetition(num_slots=3, lam=0.7, temperature=0.0)

    def by_hand(outliers_in_refining, outliers_in_filling):
        d = refine(
            model, guide, inner.decompose(model, guide, images), draws, oracle,
            Mixture(outliers_in_refining),
        )  # fmt: skip
        for _ in range(rounds - 1):
            d = fill_spare(model, guide, d, 0.7, Mixture(outliers_in_filling))
            d = refine(model, guide, d, draws, oracle, Mixture(outliers_in_refining))
        return move_behind(model, guide, d, draws, 0.7, Mixture(outliers_in_refining))

    refined = Refined.of(inner, rounds=rounds, mixture=Mixture(outliers))
    found = refined.decompose(model, guide, images)
    expected = by_hand(outliers, outliers)
    assert same_layers(found, expected) and torch.equal(found.terms.x, expected.terms.x)
    if outliers:
        assert not torch.equal(found.region, by_hand(0.0, outliers).region)


@pytest.mark.parametrize("rounds", [1, 3])
def test_refined_twice_is_the_likelier_of_both_in_each_image(make_pq, rounds):
    """From layers that were refined without covariances and then with them, and from others."""
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    model, guide = make_pq()
    noise = torch.randn(12, 3, 2, generator=torch.Generator().manual_seed(7)).double()
    inner, draws = GreedyCompetition(3, 0.7, 0.0), draws_of(noise)
    oracle = OracleCompetition(num_slots=3, lam=0.7, temperature=0.0)
    even, mixture = Mixture(0.01), Mixture(0.01, covariance=0.1)

    def refined(d, mixture, rounds):
        d = refine_rounds(model, guide, d, draws, oracle, rounds, mixture)
        return move_behind(model, guide, d, draws, 0.7, mixture)

    def evidence(d):
        return log_evidence(d, d.area > 0, PIXEL_NOISE, mixture)

    d = inner.decompose(model, guide, images, draws=draws)
    once = refined(d, mixture, rounds)
    other = refined(refined(d, even, rounds), mixture, {1: 1, 3: 2}[rounds])
    options = {"rounds": rounds, "twice": True}
    found = Refined.of(inner, mixture=mixture, **options).decompose(
        model, guide, images, draws=draws
    )
    better = evidence(other) > evidence(once)
    assert better.any() and not better.all()
    for b in range(12):
        assert same_layers(found[b : b + 1], (other if better[b] else once)[b : b + 1])
    plain = [
        Refined.of(inner, mixture=even, rounds=rounds, twice=twice).decompose(
            model, guide, images, draws=draws
        )
        for twice in (False, True)
    ]
    assert same_layers(*plain)  # there is nothing to leave out at first


FRONT, BACK = (slice(4, 12), slice(4, 12)), (slice(2, 14), slice(9, 15))  # rows and columns


class Tall:
    """p and q of two experts, of which the second draws a tall block wherever it looks.

    The first draws nothing. Both note the scopes that they see. Their latents cost so many nats.
    """

    num_experts, latent_dim, pixel_noise = 2, 1, PIXEL_NOISE

    def __init__(self, rows, columns, cost=0.0):
        self.shape = torch.full((2, 1, 16, 16), 0.02).double()
        self.shape[1, :, rows, columns] = 0.98
        self.scopes, self.regions = [], []
        self.mean = (2 * cost) ** 0.5

    def encode_all(self, x, r, noise, s=None):
        self.scopes.append(s)
        self.regions.append(r)
        zero = torch.zeros(len(x), 2, 1).double()
        noise = noise[:, None].expand_as(zero)
        return FixedNoiseNormal(zero + self.mean, zero + 1, noise).to_event(1)

    def decode_all(self, z):
        blue = torch.tensor([0.0, 0.0, 1.0]).double()[:, None, None]
        return blue.expand(len(z), 2, 3, 16, 16), self.shape.expand(len(z), -1, -1, -1, -1)

    def latent_prior(self, *batch):
        zero = torch.zeros(*batch, 1).double()
        return FixedNoiseNormal(zero, torch.ones_like(zero), zero).to_event(1)

    def region_prior(self, s_t, shape):
        return MeanBernoulli(s_t * shape).to_event(3)


def in_front_by_mistake(drawn_rows):
    """A red block in front of a tall blue one, of which only the visible part was drawn.

    Args:
        drawn_rows: of the blue one; as it is in front, the rest would hide the red one.
    """
    colours = torch.eye(3).double()[[2, 0, 1], :, None, None].expand(3, 3, 16, 16)
    masks = torch.zeros(3, 1, 16, 16).double()
    masks[1, :, 4:12, 4:12], masks[2] = 1, 1
    masks[0, :, drawn_rows, 12:15] = 1  # what the red one leaves of it
    whole = torch.zeros(16, 16).bool()
    whole[BACK] = True
    x = torch.where(whole, colours[0], colours[2])
    x = torch.where(masks[1] > 0, colours[1], x)[None]
    shape, zero = 0.02 + 0.96 * masks[None], torch.zeros(1, 3).double()
    k = torch.zeros(1, 3, dtype=torch.long)
    d = Decomposition(
        x, k, torch.ones_like(shape), shape, colours[None], shape, zero[:, :, None],
        Terms(zero, zero, zero), torch.zeros(1, 3, 2).double(), k - 1,
    )  # fmt: skip
    d, kept = e_step(d, PIXEL_NOISE)
    assert kept.all()
    blue = d.mean[:, :, 2, 0, 0].argmax(1).item()
    return d, blue, whole


def test_a_layer_that_is_drawn_whole_moves_behind_what_hides_it(monkeypatch):
    d, blue, whole = in_front_by_mistake(slice(3, 13))
    experts, behind = Tall(*BACK), []

    def noting(anew, *options):
        behind.append(anew.z[0, -2].item())
        return e_step(anew, *options)

    monkeypatch.setattr(refined_competition, "e_step", noting)
    noise = torch.tensor([[[1.0], [2.0], [3.0]]]).double()
    moved = move_behind(experts, experts, d, draws_of(noise), 1.0)
    # from the back on, each with its own noise, and drawn anew behind all but the last
    assert behind == [2.0, 1.0]
    assert moved.mean[0, :, 2, 0, 0].tolist() == [0, 1, 0]  # red, blue, green
    assert moved.k.tolist() == [[0, 1, 0]]
    assert torch.equal(moved.shape[0, 1, 0] > 0.5, whole)
    # its own pixels and the background's: what is red is another's
    scope = experts.scopes[1 - blue][0, 0] > 0.5
    red = torch.zeros(16, 16).bool()
    red[FRONT] = True
    assert torch.equal(scope, ~red)
    visible = moved.region[0, :, 0] > 0.5
    assert torch.equal(visible[0], red) and torch.equal(visible[1], whole & ~red)
    torch.testing.assert_close(moved.scope[:, 1], 1 - moved.region[:, 0])
    again = in_their_scopes(experts, moved)
    torch.testing.assert_close(moved.terms.r, again.terms.r)


def test_a_layer_that_would_be_less_likely_behind_stays():
    d, _, _ = in_front_by_mistake(slice(2, 14))
    experts = Tall(slice(2, 9), slice(9, 15))  # half as tall as what is to be seen
    moved = move_behind(experts, experts, d, draws_of(torch.zeros(1, 3, 1).double()), 1.0)
    assert same_layers(moved, d)


def test_a_layer_that_would_cost_more_than_it_gains_stays():
    d, _, _ = in_front_by_mistake(slice(3, 13))
    experts = Tall(*BACK, cost=300.0)  # the layer is worth more, but its hidden part is not
    moved = move_behind(experts, experts, d, draws_of(torch.zeros(1, 3, 1).double()), 1.0)
    assert same_layers(moved, d)


def test_each_layer_has_to_be_better_than_the_ones_before_left_it(monkeypatch):
    d, _, _ = in_front_by_mistake(slice(3, 13))
    experts, found = Tall(*BACK), []
    for last in (-1.0, 5.0, 10.005, 20.0):  # rounding errors do not count
        likely = iter(torch.tensor([[0.0], [10.0], [last]]).double())
        monkeypatch.setattr(refined_competition, "log_evidence", lambda *d, it=likely: next(it))
        draws = draws_of(torch.zeros(1, 3, 1).double())
        found.append(move_behind(experts, experts, d, draws, 1.0))
    assert same_layers(found[0], found[1]) and same_layers(found[0], found[2])
    assert not same_layers(found[0], found[3])


def test_what_is_like_the_background_goes_to_it(make_pq):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    model, guide = make_pq(seeded=True)
    inner = JointCompetition(num_slots=4, temperature=0.0)
    d = Refined.of(inner).decompose(model, guide, images)
    assert (d.area[:, 0] > 0).all() and (d.area[:, 1] > 0).any()
    # one feature, by which what is in front is like the background, and all else like nothing
    each = torch.tensor([0.0, 1.0, 2.0, 0.0])[:, None, None, None]
    features = torch.cat([torch.ones_like(images[:, :1]), (d.region * each).sum(1)], 1)
    assert like_last(features, d.region)[:, 0].all()
    merged = merge_with_background(model, d, features)
    torch.testing.assert_close(merged.region.sum(1), d.region.sum(1))
    torch.testing.assert_close(merged.region[:, -1], d.region[:, -1] + d.region[:, 0])
    torch.testing.assert_close(merged.region[:, 0], d.region[:, 1])  # it has moved forward
    assert torch.equal(merged.k[:, 0], d.k[:, 1]) and torch.equal(merged.z[:, 0], d.z[:, 1])
    assert (merged.area[:, -2] == 0).all()  # as a spare layer
    expected = in_their_scopes(model, merged)
    assert torch.equal(merged.scope, expected.scope)
    assert torch.equal(merged.terms.x, expected.terms.x)
    assert merged.terms.x.sum() > d.terms.x.sum()
    features[:, 1] += d.region[:, 0, 0]
    assert same_layers(merge_with_background(model, d, features), d)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("merging", [False, True])
def test_features_are_asked_for_once_if_the_configuration_says_so(merging, weight):
    seeded = seeded_tiny(dim=4, shape_dim=2)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"refine": True, "refine_merging": merging, "feature_weight": weight}
    options |= {"refine_rounds": 2, "refine_division": True}
    config = changed(seeded, **{f"model__competition__{k}": v for k, v in options.items()})
    econ, seen, of = Econ(config), [], []
    found = econ.guide.pixel_features(image)
    econ.guide.pixel_features = lambda x: seen.append(x) or found
    errors = Mixture.errors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Mixture, "errors", lambda self, *a: of.append(self.features) or errors(self, *a)
        )
        steps = {}
        for step in ("divide_again", "move_behind"):  # what they take the pixels to be comes last
            plain = getattr(refined_competition, step)
            patch.setattr(
                refined_competition,
                step,
                lambda *a, step=step, plain=plain: [steps.update({step: a[-1]}), plain(*a)][1],
            )
        econ.decompose(image)
    assert steps["divide_again"].features is None  # of two objects of one colour
    assert steps["move_behind"].features is (found if weight else None)
    assert len(seen) == (merging or weight > 0)
    assert {None if f is None else id(f) for f in of} == ({None, id(found)} if weight else {None})


@pytest.mark.parametrize(
    ("option", "value", "without"),
    [("refine_merging", True, "no-refine-merging"), ("feature_weight", 0.5, "feature-weight 0")],
)
def test_features_are_those_of_seeded_attention(tiny, option, value, without):
    name = option.replace("_", "-")
    with pytest.raises(EconError, match=f"kind seeded, whose features .*{name}.*{without}"):
        changed(tiny, **{f"model__competition__{option}": value})
