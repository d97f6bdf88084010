"""Regions that grow from seeds, before anything is learnt, and the choice of the next object."""

import dataclasses

import pytest
import torch
from scipy import ndimage

from econ_pyro.core.compositing import SCOPE_EPS
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.selection import Selection
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.guides import region_growing
from econ_pyro.guides.region_growing import (
    SALIENT,
    candidates,
    find_seed_pixel,
    grow,
    reachable,
    salience,
)
from econ_pyro.guides.seeded import SeededGuide, SeededUNet, SeedsAlone
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.model_config import EconConfig, SeededAttention
from econ_pyro.scene_config import SceneConfig
from helpers.trainers import small_expert

SMALL = small_expert(seeded=True)
IN_PATCHES = small_expert(layers=1, seeded=True, patch=4)


@pytest.fixture(scope="module")
def scenes():
    """Forty scenes of randomly coloured objects on dark backgrounds."""
    return GeneratedScenes(SceneConfig(kind="random-colours"), 3, 40).scenes(torch.arange(40))


def features(image, seed, config=SMALL):
    torch.manual_seed(seed)
    attentions = Ensemble(lambda: SeededUNet(config, image.shape[-1]), 2)
    inputs = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
    return attentions.forward_all(inputs[:, None].expand(-1, 2, -1, -1, -1))


def overlap(scenes, seed, taken):
    """Soft IoU of what was taken, (B, H, W), with the object that the seed lies on."""
    rows = torch.arange(len(seed))
    owner = scenes.region.flatten(2)[rows, :, seed].float().argmax(1)
    true = scenes.region[rows, owner].float()
    return torch.minimum(taken, true).sum((1, 2)) / torch.maximum(taken, true).sum((1, 2))


def test_seeds_are_in_the_middle_of_different_objects(scenes):
    x, s = scenes.image, torch.ones_like(scenes.image[:, :1])
    seeds, _ = candidates(features(x, 0), x, s, 3)
    at = scenes.region.flatten(2).gather(2, seeds[:, None].expand(-1, 3, -1)).bool()  # (B, N, n)
    assert at.any(1).float().mean() > 0.95  # on an object, of whatever colour
    assert at.any(2).sum(1).float().mean() > 2.7  # of three


@pytest.mark.parametrize("seed", range(3))
def test_new_attention_cuts_out_whole_objects(scenes, seed):
    x, s = scenes.image, torch.ones_like(scenes.image[:, :1])
    seeds, r = candidates(features(x, seed), x, s, 1)
    for k in range(2):
        assert overlap(scenes, seeds[:, 0], r[:, 0, k, 0]).median() > 0.8


def test_a_small_weight_of_colours_keeps_objects_of_several_whole(scenes):
    stripes = torch.zeros(32, 32)
    stripes[::2] = -0.15
    objects = scenes.region.any(1)[:, None]
    x = (scenes.image + objects * stripes).clamp(0, 1)
    s = torch.ones_like(x[:, :1])
    several = small_expert(seeded=True, colour_weight=0.2, place_weight=0.2)
    median = []
    for config in (SMALL, several):
        seeds, r = candidates(features(x, 0, config), x, s, 1)
        median.append(overlap(scenes, seeds[:, 0], r[:, 0, 0, 0]).median())
    assert median[0] < 0.55 and median[1] > 0.65


def test_what_has_been_taken_is_no_seed(scenes):
    x, s = scenes.image, torch.ones_like(scenes.image[:, :1])
    first = find_seed_pixel(x, s)
    s = s * ~scenes.region[torch.arange(40), scenes.region.flatten(2)[
        torch.arange(40), :, first].float().argmax(1)][:, None]  # fmt: skip
    second = find_seed_pixel(x, s.clamp_min(1e-5))
    assert (s.flatten(1).gather(1, second[:, None]) > 0.5).float().mean() > 0.95


def test_likeness_falls_with_colour_and_place():
    phi = torch.zeros(1, 6, 4, 4)
    phi[:, 0] = 2.0  # sharpness
    phi[:, 1, :, 2:] = 0.3  # another colour on the right
    phi[:, 4] = torch.linspace(0, 0.35, 4)[:, None]
    logits = grow(phi, torch.tensor([0]))[0, 0]
    assert logits[0, 0] == 8 and logits[0, 1] > logits[0, 2] + 10
    assert (logits[:, 1] > logits[:, 2]).all()
    assert (logits[:-1, 0] > logits[1:, 0]).all()


def test_reachable_pixels_are_the_seeds_connected_component():
    there = torch.rand(30, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.9
    seed = torch.arange(30) * 4 + 7
    found = reachable(there, seed)
    for mask, pixel, own in zip(there[:, 0], seed.tolist(), found[:, 0], strict=True):
        components, _ = ndimage.label(mask.numpy())
        component = components.flat[pixel]
        expected = (components == component) & (component > 0)
        assert (own.numpy() == expected).all()
    assert not found.flatten(1).any(1).all() and (found != there).any()


def test_connected_regions_leave_out_what_is_alike_elsewhere():
    phi = torch.zeros(1, 6, 4, 4)
    phi[:, 0], phi[:, 1, :, 1:2] = 2.0, 0.5  # a line of another colour parts the image
    plain, parted = (grow(phi, torch.tensor([0]), connected)[0, 0] for connected in (False, True))
    assert torch.equal(parted[:, :1], plain[:, :1])
    assert (plain[:, 2:] == 8).all() and (parted[:, 1:] == 2 * (4 - 20)).all()


@pytest.mark.parametrize("connected", [False, True])
def test_with_shifts_regions_grow_from_means(connected):
    generator = torch.Generator().manual_seed(0)
    phi = torch.zeros(40, 6, 8, 8)
    phi[:, 1:4, :, 4:] = 0.2  # the right half
    phi[:, 1:4] += 0.035 * torch.randn(40, 3, 8, 8, generator=generator)
    phi[:, 0] = 2.0
    seed = torch.full((40,), 8 * 3 + 2)
    half = torch.arange(8) < 4
    errors = [
        ((grow(phi, seed, connected, shifts)[:, 0] > 0) != half).float().mean().item()
        for shifts in (0, 1, 3)
    ]
    assert errors[0] > 0.1 and errors[2] < 0.5 * errors[0] and errors[2] <= errors[1] < errors[0]


def test_a_shift_is_to_the_mean_of_the_region_and_has_its_gradient():
    phi = torch.zeros(1, 6, 1, 4, dtype=torch.double)
    phi[:, 0] = 2.0
    phi[0, 1, 0] = torch.tensor([0.0, 0.1, 0.18, 0.6])  # a region ends at 0.107
    phi.requires_grad_()
    plain, shifted = (grow(phi, torch.tensor([0]), shifts=n)[0, 0, 0] for n in (0, 1))
    assert ((plain > 0) == torch.tensor([True, True, False, False])).all()
    distance = (phi[0, 1, 0] - phi[0, 1, 0, :2].mean()).square()
    expected = 2 * (4 - 20 * distance / (distance + 1 / 22))
    torch.testing.assert_close(shifted, expected)
    given, wanted = (torch.autograd.grad(a.sum(), phi, retain_graph=True)[0][:, 1:]
                     for a in (shifted, expected))  # fmt: skip
    torch.testing.assert_close(given, wanted)


def test_no_shift_leaves_out_the_seed():
    phi = torch.zeros(1, 6, 8, 8)
    phi[:, 0] = 2.0
    phi[0, 1] = 0.19  # within the reach of 0.1, which is within that of 0: means move along
    phi[0, 1, :3] = 0.1
    phi[0, 1, 0, 0] = 0.0
    for connected in (False, True):
        for shifts in range(6):
            assert grow(phi, torch.tensor([0]), connected, shifts)[0, 0, 0, 0] > 0


def test_a_region_that_rounding_has_emptied_has_a_mean(monkeypatch):
    """As if the seed were near enough to a mean whose region it is not in."""
    monkeypatch.setattr(region_growing, "NEAR", 1.0)
    phi = torch.zeros(1, 6, 8, 8)
    phi[:, 0] = 2.0
    phi[0, 1] = 0.19
    phi[0, 1, :3] = 0.1
    phi[0, 1, 0, 0] = 0.0
    phi.requires_grad_()
    logits = grow(phi, torch.tensor([0]), True, 4)
    logits.sum().backward()
    assert logits.isfinite().all() and phi.grad.isfinite().all()


def test_a_guide_shifts_if_asked(scenes):
    attention = dataclasses.replace(SMALL.attention, shifts=2)
    guides = []
    for each in (SMALL.attention, attention):
        torch.manual_seed(0)
        expert = dataclasses.replace(SMALL, attention=each)
        guides.append(SeededGuide(EconConfig(size=32, num_slots=3, expert=expert)))
    x = (scenes.image + 0.1 * torch.randn(scenes.image.shape)).clamp(0, 1)
    full = torch.ones_like(x[:, :1])
    found = []
    for guide in guides:
        seeds, r = guide.candidates(x, full, 2)
        again = guide.attend(x, full, torch.zeros(len(x), dtype=torch.long), seeds[:, 0])
        torch.testing.assert_close(again, r[:, 0, 0])
        alone = SeedsAlone(guide, guide.config.expert.attention).candidates(x, full, 2)[1]
        found.append((r, alone))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() > 0.5


def test_seeds_are_salient_in_features_if_asked():
    torch.manual_seed(0)
    x = torch.full((1, 3, 32, 32), 0.5)
    x[:, :, 4:12, 4:12] = 1.0  # what no feature sees
    x[:, 0, 20:28, 20:28] = 0.8
    seeds = []
    for kind in ("colour", "features"):
        attention = dataclasses.replace(SMALL.attention, place_weight=0.0, salience=kind)
        expert = dataclasses.replace(SMALL, attention=attention)
        guide = SeededGuide(EconConfig(size=32, num_slots=3, expert=expert))
        for network in guide.attentions:  # of chromaticity alone
            network.head.weight.data.zero_()
            network.chromaticity = True
        full = torch.ones_like(x[:, :1])
        pixel = guide.candidates(x, full, 1)[0].item()
        seeds.append((pixel // 32, pixel % 32))
        region = guide.attend(x, full, torch.zeros(1, dtype=torch.long))[0, 0]
        assert region[seeds[-1]] > 0.5 and region.mean() < 1
    assert 4 <= min(seeds[0]) <= max(seeds[0]) < 12 and 20 <= min(seeds[1]) <= max(seeds[1]) < 28


def test_a_guide_grows_connected_regions_if_asked(scenes):
    attention = dataclasses.replace(SMALL.attention, place_weight=0.0, connected=True)
    config = EconConfig(
        size=32, num_slots=3, expert=dataclasses.replace(SMALL, attention=attention)
    )
    torch.manual_seed(0)
    guide = SeededGuide(config)
    x = torch.zeros(1, 3, 32, 32)
    x[..., 4:12, 4:12] = x[..., 20:28, 20:28] = 1.0  # two objects of one colour
    seeds, r = guide.candidates(x, torch.ones(1, 1, 32, 32), 2)
    assert (r[0, :, :, 0, 4:12, 4:12].mean((2, 3)).round().sum(0) == 1).all()
    k = torch.zeros(1, 3, dtype=torch.long)
    pixels = torch.cat([seeds, torch.full_like(seeds[:, :1], -1)], 1)
    none = torch.zeros(1, 3, 1, 32, 32)
    given = Selection(k, torch.zeros(1, 3, 4), pixels, torch.zeros(1, 3, 3), none)
    _, layers = guide.regions(x, k, given)
    torch.testing.assert_close(layers[0, 0], r[0, 0, 0])
    alone = guide.attend(x, torch.ones(1, 1, 32, 32), k[:, 0], seeds[:, 0])
    torch.testing.assert_close(alone[0], r[0, 0, 0])


@pytest.mark.parametrize("config", [SMALL, IN_PATCHES])
def test_no_expert_can_refuse_a_seed(scenes, config):
    x = scenes.image[:8] / 4  # darker than anything
    torch.manual_seed(0)
    attention = SeededUNet(config, 32)
    for p in attention.parameters():  # whatever has been learnt
        p.data += 0.3 * torch.randn_like(p)
    phi = attention(torch.cat([x, torch.zeros_like(x[:, :1])], 1))
    seed = find_seed_pixel(x, torch.ones_like(x[:, :1]))
    r = grow(phi, seed).sigmoid().flatten(1)
    at_seed = r.gather(1, seed[:, None])
    assert (at_seed > 0.99).all() and (r <= at_seed).all()
    assert r.min() < 0.01


def test_what_is_learnt_of_a_patch_is_of_its_pixels():
    attention, x = SeededUNet(IN_PATCHES, 32), torch.rand(2, 4, 32, 32)
    weight = attention.head.weight
    weight.data.zero_()
    flat = attention(x)
    torch.testing.assert_close(flat[:, 1:4], x[:, :3])  # colours, at the image's own resolution
    assert not flat[:, 6:].any()
    first_learnt = 3 * 16
    weight.data[first_learnt + 4 * 1 + 2] = 1.0  # row 1, column 2 of a patch
    there = attention(x)[:, 6] != 0
    assert there[:, 1::4, 2::4].any() and there.sum() == there[:, 1::4, 2::4].sum()
    # a 3x3 convolution about patch (3, 5) sees the pixels of nine patches
    inputs = torch.rand(1, 4, 32, 32, requires_grad=True)
    seen = attention.down[0][0](torch.nn.functional.pixel_unshuffle(inputs, 4))
    seen[0, :, 3, 5].sum().backward()
    assert inputs.grad.any(1)[0].nonzero().amin(0).tolist() == [8, 16]
    assert inputs.grad.any(1)[0].nonzero().amax(0).tolist() == [19, 27]


def test_an_image_has_to_be_of_whole_patches():
    for size in (16, 48):
        EconConfig(size=size, expert=IN_PATCHES)
    with pytest.raises(EconError, match=r"a multiple of 8, got 20: .* or a smaller patch"):
        EconConfig(size=20, expert=IN_PATCHES)
    with pytest.raises(EconError, match=r"model\.expert\.attention\.patch"):
        SeededAttention(patch=0)


def test_gradients_reach_both_ends(scenes):
    phi = torch.rand(1, 10, 8, 8, requires_grad=True)
    grow(phi, torch.tensor([9]))[0, 0, 5, 5].backward()
    changed = phi.grad.abs().sum((0, 1)).nonzero()
    assert changed.tolist() == [[1, 1], [5, 5]]


def test_candidates_are_what_the_experts_attend_to(make_pq, images):
    _, guide = make_pq(seeded=True)
    s = torch.ones_like(images[:, :1])
    seeds, r = guide.candidates(images, s, 2)
    assert seeds.shape == (5, 2) and r.shape == (5, 2, 3, 1, 16, 16)
    for i in range(2):
        for k in range(3):
            own = guide.attend(images, s, torch.full((5,), k), seeds[:, i])
            torch.testing.assert_close(own, r[:, i, k])


@pytest.mark.parametrize(
    "options",
    [
        {"colour_weight": 1.0, "place_weight": 0.35},
        {"colour_weight": 0.2, "place_weight": 0.8},
        {"colour_weight": 0.5, "place_weight": 0.05, "chromaticity": True, "connected": True},
    ],
)
def test_seeds_without_a_network_are_those_of_one_that_has_learnt_nothing(make_pq, options):
    images = GeneratedScenes(SceneConfig(size=16), 3, 5).scenes(torch.arange(5)).image.double()
    _, guide = make_pq(seeded=True, **options)
    with torch.no_grad():
        for network in guide.attentions:
            network.head.weight.zero_()
    scope = torch.rand(5, 1, 16, 16).double()
    seeds, r = SeedsAlone(guide, SeededAttention(**options)).candidates(images, scope, 2)
    expected_seeds, expected = guide.candidates(images, scope, 2)
    assert torch.equal(seeds, expected_seeds)
    torch.testing.assert_close(r, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("taken", ["nothing", "everything"])
def test_the_next_seed_is_in_what_most_experts_leave(odd, taken):
    x, s = scene()
    one = torch.cat([torch.full_like(s, 4.0), x], 1)  # how sharp, and colours
    features = torch.stack([one, one, one], 1)
    features[:, odd, 1:] = 0.0  # all alike: everything
    if taken == "nothing":
        features[:, odd, 0] = -4.0
    seeds, r = candidates(features, x, s, 2)
    squares = torch.zeros(2, 16, 16)
    squares[0, 2:6, 2:6], squares[1, 8:12, 8:12] = 1, 1
    assert squares.flatten(1)[:, seeds[0]].argmax(0).tolist() == [0, 1]
    for k in {0, 1, 2} - {odd}:
        torch.testing.assert_close(r[0, :, k, 0], squares, atol=0.01, rtol=0)
    assert r[0, :, odd].gt(0.5).all() or taken == "nothing" and r[0, :, odd].lt(0.5).all()


def test_without_a_seed_the_most_salient_of_the_scope_is_taken(make_pq):
    _, guide = make_pq(seeded=True)
    x, s = (a.double() for a in scene())
    s[:, :, 2:6, 2:6] = 0  # the redder square is taken
    k = torch.zeros(1, dtype=torch.long)
    r = guide.attend(x, s, k)[0, 0]
    row, column = divmod(int(r.argmax()), 16)
    assert 8 <= row < 12 and 8 <= column < 12 and r.max() > 0.99
    assert torch.equal(guide.attend_all(x, s)[0, 0, 0], r)
    elsewhere = guide.attend(x, s, k, torch.tensor([15 * 16 + 1]))[0, 0]  # in the corner
    assert elsewhere[15, 1] > 0.99 and elsewhere[9, 9] < r[9, 9]


def test_no_expert_looks_at_an_image_twice(make_pq, images):
    _, guide = make_pq(seeded=True)
    seeds, full = torch.randint(256, (5, 3)), torch.ones_like(images[:, :1])
    looks = []
    for attention in guide.attentions:
        attention.register_forward_pre_hook(lambda _, given: looks.append(len(given[0])))
    several = torch.tensor([[0, 0], [0, 1], [2, 2], [1, 1], [1, 0]])
    for k, expected in ((torch.full((5, 2), 1), [5]), (several, [4, 4, 4])):  # groups of four
        looks.clear()
        background = torch.zeros(5, 1, dtype=torch.long)  # it does not look
        k = torch.cat([k, background], 1)
        won = Selection(k, torch.zeros(5, 3, 2), seeds, torch.zeros(5, 3, 3), full)
        scope, r = guide.given(won).regions(images, k)
        assert looks == expected
        for i in range(2):
            own = guide.attend(images, full, k[:, i], seeds[:, i])
            torch.testing.assert_close(r[:, i], scope[:, i] * own)
            torch.testing.assert_close(scope[:, i + 1], scope[:, i] * (1 - own))
        assert torch.equal(r[:, 2], scope[:, 2])  # what is left


def test_only_chosen_regions_have_seeds(make_pq, images):
    with_seeds = JointCompetition(3).decompose(*make_pq(seeded=True), images).seed_pixel
    assert (with_seeds[:, :2] >= 0).all() and (with_seeds[:, 2] == -1).all()
    assert (GreedyCompetition(3).decompose(*make_pq(), images).seed_pixel == -1).all()


def scene():
    """A dark scene with two bright squares, and all of it as scope."""
    x = torch.full((1, 3, 16, 16), 0.2)
    x[:, 0, 2:6, 2:6] = 0.9
    x[:, 1, 8:12, 8:12] = 0.8
    return x, torch.ones(1, 1, 16, 16)


def test_objects_are_salient_and_the_background_is_not():
    x, s = scene()
    value = salience(x, s.clamp_min(SCOPE_EPS))[0, 0]
    assert value[2:6, 2:6].min() > 3 and value[8:12, 8:12].min() > 2
    assert value[12:, :].max() < 0.2
    assert value.max() <= SALIENT


def test_what_has_been_taken_does_not_count():
    x, s = scene()
    s[:, :, 2:6, 2:6] = 0
    value = salience(x, s.clamp_min(SCOPE_EPS))[0, 0]
    assert value[8:12, 8:12].min() > 3.9
    changed = x.clone()
    changed[:, :, 2:6, 2:6] = 0.5
    others = torch.ones(16, 16, dtype=torch.bool)
    others[2:6, 2:6] = False
    there = salience(changed, s.clamp_min(SCOPE_EPS))[0, 0]
    torch.testing.assert_close(there[others], value[others], atol=1e-3, rtol=0)


def test_a_scope_of_one_colour_has_nothing_salient():
    noisy = 0.3 + 0.01 * torch.randn(1, 3, 16, 16)
    assert salience(noisy, torch.ones(1, 1, 16, 16)).max() < 0.3
