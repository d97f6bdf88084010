"""Objects of one colour that touch: found as a pair, divided anew, kept if likelier."""

import dataclasses

import pytest
import torch

from econ_pyro.core.selection import Draws
from econ_pyro.econ import Econ
from econ_pyro.infer import division
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.division import divide_again, most_alike
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.mixture import log_evidence
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.refined_competition import Refined
from econ_pyro.infer.refinement import e_step, refine
from econ_pyro.infer.strategies import decomposition_of
from econ_pyro.training import shape_clusters
from econ_pyro.training.shape_clusters import REACH, SIDE, fit_shapes
from helpers.trainers import changed, seeded_tiny

BAR, SQUARE = (slice(6, 18), slice(8, 12)), (slice(12, 19), slice(12, 19))
RED, GREEN = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)


@pytest.fixture(scope="module")
def econ():
    """Experts that draw bars, squares and the background."""
    config = seeded_tiny(dim=8, angle=True, shape_dim=4, features=8, layers=3)
    competition = dataclasses.replace(
        config.model.competition, refine=True, refine_division=True, refine_rounds=1
    )
    config = changed(
        config, model__size=32, model__num_slots=3, model__competition=competition, seed=1
    )
    econ = Econ(config)
    wanted, a = torch.zeros(2, 1, SIDE, SIDE), SIDE / (2 * REACH)  # cells to a unit
    unit = 32 / 4  # pixels
    for i, (height, width) in enumerate([(12, 4), (7, 7)]):
        h, w = (round(side / unit / 2 * a) for side in (height, width))
        wanted[i, 0, SIDE // 2 - h : SIDE // 2 + h, SIDE // 2 - w : SIDE // 2 + w] = 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape_clusters, "FIT_STEPS", 150)
        fit_shapes(list(econ.model.decoders), wanted, REACH)
    for encoder in econ.guide.encoders:
        encoder.start_at_centre()
    return econ


def scene(colours):
    """A bar beside a square, front to back, and the background."""
    x, r = torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, 3, 1, 32, 32)
    for t, (where, colour) in enumerate(zip((BAR, SQUARE), colours, strict=True)):
        x[0][(slice(None), *where)] = torch.tensor(colour)[:, None, None]
        r[0, t, 0][where] = 1
    r[:, 2] = 1 - r.sum(1)
    return x, r


def divided_wrongly(r):
    """The two objects' common region, divided in its middle."""
    both, wrong = r[:, :2].sum(1), torch.zeros_like(r)
    upper = torch.zeros_like(both)
    upper[..., :13, :] = 1
    wrong[:, 0], wrong[:, 1], wrong[:, 2] = both * upper, both * (1 - upper), r[:, 2]
    return wrong


def explained(econ, x, r):
    draws = Draws(torch.zeros(len(x), 3, 8), torch.zeros(len(x), 3, 3))
    oracle = OracleCompetition(3, temperature=0.0)
    with econ.guide.pose_search():
        d = oracle.explain(econ.model, econ.guide, x, draws, r)
        return e_step(d, econ.model.pixel_noise)[0]


def apart(d, r):
    """Share of the objects' pixels that are in the right one of two layers."""
    inside = r[:, :2].sum(1, keepdim=True)[:, 0, 0] > 0
    first, own = d.segmentation[inside], r[:, :, 0].argmax(1)[inside]
    same = (first == d.segmentation[0, 7, 9]) == (own == 0)
    return same.float().mean().item()


def test_a_common_region_is_divided_into_its_objects(econ):
    x, r = scene((RED, RED))
    d = explained(econ, x, divided_wrongly(r))
    assert apart(d, r) < 0.9
    noise = econ.model.pixel_noise
    with econ.guide.pose_search():
        found = divide_again(econ.model, econ.guide, d, 1.0)
        means = Draws(torch.zeros_like(d.z), torch.zeros_like(d.competition_losses))
        oracle = OracleCompetition(3, temperature=0.0)
        refined = refine(econ.model, econ.guide, found, means, oracle)
    likelier = log_evidence(found, found.area > 0, noise) - log_evidence(d, d.area > 0, noise)
    assert likelier > 10
    assert apart(refined, r) > 0.94
    assert sorted(refined.k[0].tolist()) == [0, 1, 2]


def test_objects_of_two_colours_stay(econ):
    x, r = scene((RED, GREEN))
    d = explained(econ, x, divided_wrongly(r))
    with econ.guide.pose_search():
        found = divide_again(econ.model, econ.guide, d, 1.0)
    assert torch.equal(found.shape, d.shape) and torch.equal(found.region, d.region)


def test_what_is_right_is_never_made_less_likely(econ):
    x, r = scene((RED, RED))
    d, noise = explained(econ, x, r), econ.model.pixel_noise
    with econ.guide.pose_search():
        found = divide_again(econ.model, econ.guide, d, 1.0)
    assert log_evidence(found, found.area > 0, noise) >= log_evidence(d, d.area > 0, noise)
    assert apart(e_step(found, noise)[0], r) > 0.94


def test_all_images_at_once_are_as_one_at_a_time(econ, monkeypatch):
    (x, r), (y, s), (w, v) = scene((RED, RED)), scene((RED, GREEN)), scene((GREEN, GREEN))
    r = torch.cat([divided_wrongly(a) for a in (r, s, v)])
    d = explained(econ, torch.cat([x, y, w]), r)
    with econ.guide.pose_search():
        together = divide_again(econ.model, econ.guide, d, 1.0)
        for i in range(3):
            alone = divide_again(econ.model, econ.guide, d[i], 1.0)
            assert torch.equal(alone.k, together[i].k)
            torch.testing.assert_close(alone.shape, together[i].shape, atol=1e-5, rtol=0)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as of an export
        exported = divide_again(econ.model, econ.guide, d, 1.0)
    torch.testing.assert_close(exported.shape, together.shape, atol=1e-5, rtol=0)
    assert torch.equal(together.shape[1], d.shape[1])  # the one of two colours


def layers(boxes, colours):
    """Layers of flat boxes, the background last; nothing but regions and image count."""
    x, t = torch.full((1, 3, 32, 32), 0.5), len(boxes)
    r = torch.zeros(1, t + 1, 1, 32, 32)
    for i, ((top, left), colour) in enumerate(zip(boxes, colours, strict=True)):
        x[0, :, top : top + 6, left : left + 6] = torch.tensor(colour)[:, None, None]
        r[0, i, 0, top : top + 6, left : left + 6] = 1
    r[:, t] = 1 - r.sum(1)
    z, k = torch.zeros(1, t + 1, 2), torch.zeros(1, t + 1, dtype=torch.long)
    zero, none = torch.zeros(1, t + 1), torch.full_like(k, -1)
    mean = x[:, None].expand(-1, t + 1, -1, -1, -1)
    terms = Terms(zero, zero, zero)
    return Decomposition(x, k, r, r, mean, r, z, terms, z, none)


@pytest.mark.parametrize(
    ("boxes", "colours", "expected"),
    [
        (((2, 2), (2, 8), (20, 20)), (RED, RED, RED), (0, 1)),
        (((2, 2), (20, 20), (20, 14)), (RED, RED, RED), (1, 2)),
        (((2, 2), (2, 8), (8, 2)), (RED, (0.7, 0.15, 0.1), (0.8, 0.1, 0.15)), (0, 2)),
        (((2, 2), (2, 9), (20, 20)), (RED, RED, RED), None),  # a pixel lies between
        (((2, 2), (2, 8), (20, 20)), (RED, GREEN, RED), None),
    ],
)
def test_the_pair_touches_and_is_most_alike(boxes, colours, expected):
    pair, alike = most_alike(layers(boxes, colours))
    assert alike.item() == (expected is not None)
    if expected:
        assert tuple(pair[0].tolist()) == expected


def test_halves_are_through_the_middle_and_turn():
    r = torch.zeros(1, 1, 16, 16)
    r[..., 4:8, 6:10] = 1
    tries = division.DIRECTIONS + 1
    halves = division._halves(r.expand(tries, -1, -1, -1), tries)
    shares = (halves * r).sum((1, 2, 3)) / r.sum()
    assert (shares - 0.5).abs().max() < 0.2
    opposite = halves[: division.DIRECTIONS].roll(division.DIRECTIONS // 2, 0)
    assert (halves[: division.DIRECTIONS] * opposite).sum() < 16 * 16
    assert len({tuple((h * r).flatten().tolist()) for h in halves[: division.DIRECTIONS]}) >= 8


def test_dividing_is_the_configurations_choice(econ):
    chosen = decomposition_of(econ.config, 3, evidence=False, refine=True)
    assert isinstance(chosen, Refined) and chosen.divide
    plain = changed(econ.config, model__competition__refine_division=False)
    other = decomposition_of(plain, 3, evidence=False, refine=True)
    assert isinstance(other, Refined) and not other.divide
    two = changed(econ.config, model__num_slots=2)  # nothing to divide
    assert Econ(two).decompose(torch.rand(1, 3, 32, 32)).k.shape == (1, 2)
