"""Clusters of shapes are classes, whatever place, size and angle; experts start from them."""

import dataclasses
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from econ_pyro.accel.bilinear import sample
from econ_pyro.config import RecipeConfig
from econ_pyro.core.pose import UNIT, coordinates
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.model_config import ExpertConfig, PoseLatents
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder
from econ_pyro.scene_config import SCENE_SETS, SceneConfig
from econ_pyro.training import shape_clusters as module
from econ_pyro.training.shape_clusters import (
    Aligned,
    cluster,
    fit_shading,
    fit_shapes,
    shading,
    sharpen,
    whole_regions,
)
from helpers.trainers import changed, make_trainer, seeded_tiny


def rectangle(top, left, bottom, right, size=16):
    mask = torch.zeros(size, size)
    mask[top:bottom, left:right] = 1.0
    return mask


def regions(*objects):
    """One scene's regions, ``(1, T, 1, H, W)``: the last one is what the others leave."""
    rest = 1 - sum(objects)
    return torch.stack([*objects, rest])[None, :, None]


def test_regions_that_touch_nothing_are_whole():
    alone = rectangle(9, 9, 14, 14)
    left, right = rectangle(2, 2, 7, 6), rectangle(2, 6, 7, 11)
    corner = rectangle(7, 6, 8, 7)  # touches both by a corner, or its side
    apart = rectangle(2, 2, 7, 6) + rectangle(9, 9, 14, 14)
    scenes = [regions(left, right, corner, 0 * alone), regions(left, right, corner, alone)]
    images = torch.rand(2, 3, 16, 16)
    objects = whole_regions(torch.cat(scenes), images)
    assert objects.region.shape == (1, 1, 16, 16) and torch.equal(objects.region[0, 0], alone)
    assert torch.equal(objects.image, images[1:])
    edge, small = rectangle(0, 0, 6, 6), rectangle(8, 8, 12, 12)
    for none in (regions(apart), regions(edge, small), regions(rectangle(0, 0, 16, 16))):
        assert not len(whole_regions(none, images[:1]).region)


def sprites(n, **options):
    """Masks of whole objects and their classes, of scenes with one object each."""
    scenes = dataclasses.replace(SCENE_SETS["multi-dsprites"], objects=1, min_objects=1)
    source = GeneratedScenes(dataclasses.replace(scenes, **options), 3, n)
    found = source.scenes(torch.arange(n))
    inside = torch.ones(64, 64, dtype=torch.bool)
    inside[1:-1, 1:-1] = False
    whole = ~(found.mask[:, 0] & inside).any(2).any(1)
    return found.mask[whole, 0][:, None].float(), found.label[whole, 0]


def test_a_region_looks_alike_wherever_it_is_and_whatever_its_size():
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")

    def ell(centre, scale, angle):
        """An L of two bars."""
        c, s = math.cos(angle), math.sin(angle)
        v, u = (y - centre[0]) / scale, (x - centre[1]) / scale
        a, b = c * v - s * u, s * v + c * u
        long = (a.abs() < 1.5) & (b.abs() < 0.5)
        foot = ((a - 1).abs() < 0.5) & ((b - 0.5).abs() < 1)
        return (long | foot).float()[None]

    here, there = (Aligned(ell(*pose)[None]).all_around(12) for pose in
                   [((40, 40), 10.0, 0.0), ((60, 30), 15.0, math.pi / 3)])  # fmt: skip
    distance = (here[0, 0] - there[0]).square().mean(1)
    assert distance.argmin() in (2, 10) and distance.min() < 0.02
    assert distance.max() > 0.15


def test_without_a_size_regions_keep_their_own():
    bar, square, small = (torch.zeros(1, 1, 41, 41) for _ in range(3))
    bar[..., 16:25, 2:39] = square[..., 11:30, 11:30] = small[..., 16:25, 16:25] = 1.0
    masks = torch.cat([bar, square, small])
    regions = Aligned(masks, sized=False)
    views, reach = regions.all_around(1), regions.reach
    # the bar's corners: 18 pixels of 20 to the side, 4 up
    assert reach == pytest.approx(math.hypot(18, 4) / 20 / UNIT, rel=0.1)
    cell = (2 * reach * UNIT / (module.SIDE - 1)) ** 2  # of the image's half side
    areas = views.sum((1, 2)) * cell * 20**2
    torch.testing.assert_close(areas, masks.sum((1, 2, 3)), rtol=0.15, atol=0)
    sized = Aligned(masks).all_around(1)
    assert sized[1].sum() == pytest.approx(sized[2].sum().item(), rel=0.15)


def test_clusters_are_classes():
    masks, labels = sprites(150)
    regions = Aligned(masks)
    views = regions.all_around(module.ANGLES)
    found = cluster(views, 3, seed=0)
    counts = torch.zeros(3, 3, dtype=torch.long)
    counts.index_put_((found.k, labels), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(-counts.numpy())
    assert counts[rows, columns].sum() > 0.97 * len(labels)
    again = cluster(views, 3, seed=0)
    assert torch.equal(again.k, found.k) and torch.equal(again.means, found.means)
    # the sum of the squared distances of the nearest nine tenths, as a loop counts it
    means = found.means.flatten(1)
    each = [(v - means[k]).square().sum(1).min() for v, k in zip(views, found.k, strict=True)]
    loss = sum(sorted(each)[: round(module.KEPT * len(each))])
    assert found.loss == pytest.approx(loss.item(), rel=0.02)
    without = cluster(regions.all_around(1), 3, seed=0)  # angles are what parts the classes
    assert without.loss > 1.5 * found.loss
    # finer angles: regions are closer to their means
    fine = sharpen(regions, found)
    assert torch.equal(fine.k, found.k)
    spread = []
    for c in (found, fine):
        views = regions.views(c.angle[:, None], module.FINE_SIDE)[:, 0]
        own = [views[c.near & (c.k == k)] for k in range(3)]
        spread.append(sum((v - v.mean(0)).square().sum().item() for v in own))
    torch.testing.assert_close(fine.means.flatten(1), torch.stack([v.mean(0) for v in own]))
    assert spread[1] < 0.95 * spread[0]


def lit_discs(colours, angles, size=40):
    """Discs of some colours, bright on the side to which angles point, and their regions."""
    y, x = torch.meshgrid(*[torch.linspace(-1.3, 1.3, size)] * 2, indexing="ij")
    disc = ((y.square() + x.square()) < 1).float()[None, None]
    a = torch.tensor(angles)[:, None, None]
    light = 1 + 0.3 * (y * a.sin() + x * a.cos())
    colours = torch.tensor(colours)[:, :, None, None]
    return colours * light[:, None] * disc + 0.2 * (1 - disc), disc.expand(len(angles), -1, -1, -1)


def test_shading_is_brightness_relative_to_the_median():
    image, r = torch.full((1, 3, 4, 4), 0.9), torch.zeros(1, 1, 4, 4)
    r[..., 1, :3] = 1.0
    image[0, :, 1, :3] = torch.tensor([[0.2, 0.3, 0.06], [0.4, 0.6, 0.12], [0.0, 0.0, 0.0]])
    found = shading(image, r)
    assert not found[r == 0].any()
    expected = torch.tensor([0.0, math.log(1.5), -module.SHADES])  # the last is dark: a log of 0.3
    torch.testing.assert_close(found[0, 0, 1, :3], expected)


def test_discs_part_by_shading_alone():
    generator = torch.Generator().manual_seed(0)
    colours = (0.2 + 0.5 * torch.rand(60, 3, generator=generator)).tolist()
    sides = [0.0, math.pi / 2]
    images, r = lit_discs(colours, [sides[i % 2] for i in range(60)])
    plain = cluster(Aligned(r).all_around(1), 2, seed=0)
    lit = Aligned(r, maps=2.0 * shading(images, r))
    found = sharpen(lit, cluster(lit.all_around(1), 2, seed=0), angles=False)
    assert plain.loss < 1e-3 and len(found.k[::2].unique()) == 1
    assert torch.equal(found.k[1::2], 1 - found.k[::2])
    assert found.means.shape == (2, 2, module.FINE_SIDE, module.FINE_SIDE)
    horizontal, vertical = found.means[found.k[:2], 1]
    middle = module.FINE_SIDE // 2
    assert horizontal[middle, -10] > 0.3 > -0.3 > horizontal[middle, 10]
    assert vertical[-10, middle] > 0.3 > -0.3 > vertical[10, middle]
    # turned by a quarter, they are the same, and views turn all maps
    turning = lit.all_around(4)
    torch.testing.assert_close(turning[0, 0], turning[1, 3], atol=0.2, rtol=0)
    assert (turning[0, 0] - turning[1, 0]).abs().max() > 0.5


def test_experts_draw_what_is_shaded_in_any_colour():
    torch.manual_seed(0)
    latents = PoseLatents(dim=7, size=True, shape_dim=3)
    decoders = [ObjectCentredDecoder(ExpertConfig(latents=latents), 32) for _ in range(3)]
    y, x = coordinates(module.FINE_SIDE).unbind(1)
    disc = ((y.square() + x.square()) < 0.5).float()
    means = torch.stack([torch.cat([disc, 0.4 * side * disc]) for side in (x, y)])
    colours = 0.2 + 0.5 * torch.rand(50, 3)
    before = [p.clone() for p in decoders[2].parameters()]
    assert fit_shading(decoders, means, colours, seed=0) < 0.02
    assert all(torch.equal(a, b) for a, b in zip(before, decoders[2].parameters(), strict=True))
    z = torch.zeros(2, 7)
    colour = torch.tensor([[0.3, 0.6, 0.4], [0.6, 0.2, 0.5]])
    z[:, -3:] = colour.logit().asinh()
    z[:, 3] = torch.tensor([-1.0, 1.0])  # a latent that means nothing yet
    with torch.no_grad():
        rows, columns = (d(z)[:, :3] for d in decoders[1::-1])
    own = UNIT * module.REACH * 15.5  # pixels from the middle to the edge of the means
    near, far = round(15.5 - 0.5 * own), round(15.5 + 0.5 * own)
    for drawn in (rows, columns.mT):
        low, high = drawn[:, :, near, 16] / colour, drawn[:, :, far, 16] / colour
        assert (low < 0.9).all() and (high > 1.1).all()
        torch.testing.assert_close(low, torch.full_like(low, 0.8), atol=0.08, rtol=0)
        torch.testing.assert_close(drawn[:, :, 16, 16], colour, atol=0.05, rtol=0.05)


def test_what_is_no_object_gets_no_cluster():
    masks, labels = sprites(120)
    n = len(masks) // 12
    holes = masks.clone()[:n] * (torch.arange(64) % 4 < 1)  # combs
    found = cluster(Aligned(torch.cat([masks, holes])).all_around(module.ANGLES), 3, seed=0)
    counts = torch.zeros(3, 3, dtype=torch.long)
    counts.index_put_((found.k[:-n], labels), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(-counts.numpy())
    assert counts[rows, columns].sum() > 0.97 * len(labels)


@pytest.fixture
def turned_tiny():
    """The tiny configuration with turned objects, whose experts start from clusters."""
    config = seeded_tiny(dim=8, size=True, angle=True, shape_dim=5, features=8)
    scenes = SceneConfig(
        kind="random-colours", size=32, objects=2, object_size=(0.25, 0.4), rotate=True
    )
    model = dataclasses.replace(config.model, size=32)
    config = dataclasses.replace(
        config, scenes=scenes, model=model, recipe=RecipeConfig(shape_clusters=64)
    )
    return changed(config, train__train_scenes=64)


def test_experts_draw_the_clusters(turned_tiny):
    reach = 2.5  # not the usual one
    wider = {"layers": 3, "features": 16}
    expert = dataclasses.replace(turned_tiny.model.expert, **wider)
    econ = Econ(changed(turned_tiny, model__expert=expert))
    side = module.SIDE
    wanted = torch.zeros(2, 1, side, side)
    wanted[0, 0, 4:20, 8:16] = 1.0
    wanted[1, 0, 8:16, 8:16] = 1.0
    assert fit_shapes(list(econ.model.decoders), wanted, reach) < 0.02
    z = torch.zeros(1, econ.sizes.expert.latents.dim)
    z[0, 3] = 1.0  # not turned, in the middle, of size 1
    for decoder, mean in zip(econ.model.decoders, wanted, strict=False):
        assert all(p.grad is None for p in decoder.parameters())
        expected = sample(mean[None], decoder.grid / UNIT / reach)[0, 0] > 0.5
        drawn = decoder(z)[0, 3]
        assert (expected & (drawn > 0.5)).sum() > 0.75 * (expected | (drawn > 0.5)).sum() > 10
        assert drawn[:3].max() < 0.01  # far away, nobody is in doubt
    assert econ.model.decoders[2](z)[0, 3].min() > 0.97  # the background


def test_latents_of_shapes_change_nothing_until_they_are_trained(turned_tiny, monkeypatch):
    monkeypatch.setattr(module, "FIT_STEPS", 2)
    upright = PoseLatents(dim=8, size=True, shape_dim=5)
    econ = Econ(changed(turned_tiny, model__expert__latents=upright))
    fit_shapes(list(econ.model.decoders), torch.ones(2, 1, 24, 24))
    z = torch.zeros(9, 8)
    z[1:, 3:5] = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    for decoder in econ.model.decoders:
        drawn = decoder(z)[:, 3]
        torch.testing.assert_close(drawn, drawn[:1].expand_as(drawn))
        optim = torch.optim.Adam(decoder.parameters(), 0.03)
        (drawn[1:] * z[1:, 3, None, None]).sum().backward()
        optim.step()
        drawn = decoder(z)[:, 3]
        assert not torch.allclose(drawn, drawn[:1].expand_as(drawn), atol=1e-3)


def test_clusters_at_a_single_angle_are_sought_from_more_starts(monkeypatch):
    monkeypatch.setattr(module, "RESTARTS", 1)
    monkeypatch.setattr(module, "SIDE", 2)
    views = torch.rand(60, 1, 4, generator=torch.Generator().manual_seed(0))
    one, two = cluster(views, 10, 0), cluster(views.expand(-1, 2, -1), 10, 0)
    assert one.loss < 0.95 * two.loss


def test_experts_start_with_the_looks_of_their_clusters_objects(turned_tiny, monkeypatch):
    """Left halves are red, right ones green or blue."""
    monkeypatch.setattr(module, "FIT_STEPS", 1)
    monkeypatch.setattr(module, "LOOK_STEPS", 160)
    monkeypatch.setattr(module, "RESTARTS", 3)
    n, size = 40, 32
    red, green, blue = (torch.eye(3) * 0.8 + 0.1)[:, :, None, None]
    k = torch.arange(n) % 2
    region = torch.zeros(n, 1, size, size)
    region[k == 0, :, 10:22, 12:20] = 1.0
    region[k == 1, :, 12:20, 8:24] = 1.0
    left = torch.arange(size) < 16
    image = torch.where(left, red, torch.where(k[:, None, None, None] == 0, green, blue))
    objects = module.Whole(region, image.expand(n, 3, size, size).clone())
    upright = PoseLatents(dim=6, size=True, shape_dim=3)
    config = changed(turned_tiny, model__expert__latents=upright)
    econ = Econ(changed(config, model__expert__layers=3, model__expert__features=16))
    decoders = list(econ.model.decoders)
    last = [p.clone() for p in decoders[-1].appearance_parameters()]
    found = module.start_from_clusters(decoders, econ.guide.encoders, objects, 0, coloured=1.0)
    assert len(found.k[::2].unique()) == 1 == len(found.k[1::2].unique())
    for i in (0, 1):
        decoder, mine = decoders[found.k[i]], region[i, 0].bool()
        mean = objects.image[i][:, mine].mean(1)
        area = (mine.sum() / math.pi).sqrt().mul(2 / 31 / UNIT).log()
        z = torch.cat([torch.zeros(2), area[None], mean.logit().asinh()])[None]
        drawn = decoder(z)[0, :3]
        assert (drawn - objects.image[i]).abs()[:, mine].mean() < 0.06
    for before, after in zip(last, decoders[-1].appearance_parameters(), strict=True):
        assert torch.equal(before, after)
    views, colours = torch.rand(4, 4, 40, 40), torch.rand(4, 3)
    start = [p.clone() for p in decoders[0].appearance_parameters()]
    module.fit_looks(decoders, views, torch.ones(4).long(), colours, 0)  # none is of the first
    for before, after in zip(start, decoders[0].appearance_parameters(), strict=True):
        assert torch.equal(before, after)


def test_classes_of_several_slants_are_clustered_whatever_these_are(turned_tiny, monkeypatch):
    monkeypatch.setattr(module, "FIT_STEPS", 1)
    at = torch.arange(32) - 15.5
    y, x = at[:, None], at[None]
    kinds = [
        ((y - d * x).abs() < width) & ((y + d * x).abs() < length)
        for width, length in ((3, 18), (6, 15))
        for d in (1, -1)
    ]
    regions = torch.stack(kinds).float()[:, None].repeat(10, 1, 1, 1)
    objects = module.Whole(regions, torch.rand(40, 3, 32, 32))
    latents = PoseLatents(dim=8, size=True, shape_dim=5)
    econ = Econ(changed(turned_tiny, model__expert__latents=latents))
    found = module.start_from_clusters(econ.model.decoders, econ.guide.encoders, objects, 0)
    thin, wide = found.k.view(10, 2, 2).transpose(0, 1).flatten(1)
    assert len(thin.unique()) == len(wide.unique()) == 1 and thin[0] != wide[0]
    mean = found.means[thin[0], 0]  # a cross, as bars are seen, not a bar
    torch.testing.assert_close(mean, mean.flip(1), atol=0.02, rtol=0)
    assert mean[12, 12] > 0.2


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_new_run_starts_from_clusters(turned_tiny, tmp_path, monkeypatch, frozen):
    monkeypatch.setattr(module, "FIT_STEPS", 3)
    trainer = make_trainer(changed(turned_tiny, train__frozen=frozen), tmp_path / "run")
    before = [p.clone() for p in trainer.learner.model.model.decoders.parameters()]
    assert "from 2 clusters of the shapes of" in trainer.initialise()
    after = [*trainer.learner.model.model.decoders.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.seconds > 0 and trainer.step == 0
    for encoder in trainer.learner.model.guide.encoders:
        assert not encoder.head[-1].weight[:2].any()
    plain = make_trainer(changed(turned_tiny, recipe__shape_clusters=0), tmp_path / "plain")
    assert plain.initialise() == "" and plain.seconds == 0


def test_a_new_run_starts_from_shaded_clusters(turned_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIT_STEPS", 3)
    upright = PoseLatents(dim=6, size=True, shape_dim=3)
    config = changed(turned_tiny, model__expert__latents=upright, recipe__clusters_shaded=2.0)
    econ = make_trainer(config, tmp_path / "run").learner.model
    before = [p.clone() for p in econ.model.decoders[0].appearance.parameters()]
    images = GeneratedScenes(config.scenes, 0, 64).images(torch.arange(64))
    econ.initialise(lambda n: images[:n])
    after = [*econ.model.decoders[0].appearance.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_cannot_be_clustered_is_refused(turned_tiny, tmp_path, tiny):
    few = make_trainer(changed(turned_tiny, recipe__shape_clusters=2), tmp_path / "run")
    with pytest.raises(EconError, match="at least 20 objects that touch .*raise --recipe.shape"):
        few.initialise()
    one = {"model__num_experts": 1}
    for wrong, words in [
        ({"gt_masks": True}, "no true regions"),
        (one, "2 experts or more"),
        ({"model__expert__latents": PoseLatents(dim=8)}, "latents of their own"),
        ({"recipe__clusters_shaded": 1.0, "recipe__clusters_coloured": 1.0}, "got both"),
    ]:
        with pytest.raises(EconError, match=words):
            changed(turned_tiny, **wrong)
    with pytest.raises(EconError, match="latents of their own"):
        dataclasses.replace(tiny, recipe=RecipeConfig(shape_clusters=8))


def test_shapes_stay_until_encoders_have_learnt(turned_tiny, tmp_path):
    config = changed(
        turned_tiny, recipe__shape_clusters=0, recipe__shapes_fixed_until="50%", train__steps=6
    )
    learner = make_trainer(config, tmp_path / "run").learner
    decoders, encoders = learner.model.model.decoders, learner.model.guide.encoders
    images = torch.rand(4, 3, 32, 32)

    def values(networks):
        return [p.clone() for n in networks for p in n]

    def shapes():
        return values(decoder.shape_parameters() for decoder in decoders)

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    start, poses = shapes(), values(e.parameters() for e in encoders)
    looks = values(d.appearance.parameters() for d in decoders)
    for step in range(6):
        learner.step(images, None, step)
        assert same(shapes(), start) == (step < 3)
    assert not same(values(e.parameters() for e in encoders), poses)
    assert not same(values(d.appearance.parameters() for d in decoders), looks)


def test_shading_from_clusters_stays_as_long(turned_tiny, tmp_path):
    upright = PoseLatents(dim=6, size=True, shape_dim=3)
    config = changed(turned_tiny, model__expert__latents=upright, recipe__clusters_shaded=2.0,
                     recipe__shapes_fixed_until="50%", train__steps=4)  # fmt: skip
    learner = make_trainer(config, tmp_path / "run").learner
    images = torch.rand(4, 3, 32, 32)
    *objects, ground = learner.model.model.decoders

    def values(decoders):
        return [p.clone() for d in decoders for p in d.appearance.parameters()]

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    start, of_ground = values(objects), values([ground])
    for step in range(4):
        learner.step(images, None, step)
        assert same(values(objects), start) == (step < 2)
    assert not same(values([ground]), of_ground)


def test_experts_with_shapes_do_not_start_from_clusters_again(turned_tiny):
    econ = Econ(turned_tiny)
    one = econ.with_experts([1])
    assert one.config.recipe == dataclasses.replace(turned_tiny.recipe, shape_clusters=0)
    more = econ.add(one.experts[0])
    assert more.config.recipe.shape_clusters == 0 and more.sizes.num_experts == 4


def test_true_regions_can_be_given_to_experts_from_clusters(turned_tiny):
    x, regions = torch.rand(2, 3, 32, 32), torch.ones(2, 3, 1, 32, 32) / 3
    assert torch.equal(Econ(turned_tiny).decompose(x, evidence=regions).region, regions)
