"""The E-step is the best posterior of regions; teaching is the divergence from it."""

import dataclasses

import pytest
import torch

from econ_pyro.core.compositing import regions_of_shapes, scopes
from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.mixture import mean_colour_corrected
from econ_pyro.infer.refinement import e_step
from econ_pyro.infer.teaching import (
    RECOLOURED,
    Lesson,
    Scenes,
    divergence,
    leftover,
    lesson,
    recomposed,
    scenes_of,
)


def layers_of(n=2, slots=4, size=8, experts=3):
    """Random drawings of layers, float64."""
    r = torch.rand(n, slots, 1, size, size).double().softmax(1)
    mean, shape = torch.rand(n, slots, 3, size, size).double(), torch.rand_like(r)
    k = torch.randint(experts, (n, slots))
    zero = torch.zeros(n, slots).double()
    x, z = torch.rand(n, 3, size, size).double(), torch.zeros(n, slots, 1).double()
    losses = torch.zeros(n, slots, experts).double()
    return Decomposition(
        x, k, scopes(r), r, mean, shape, z, Terms(zero, zero, zero), losses, torch.full_like(k, -1)
    )


def bound(d, r):
    """L_x + KL of each pixel's layer from the shapes' prior, of any regions that sum to 1."""
    errors = pixel_errors(d.image, mean_colour_corrected(d), PixelNoise(0.1))
    everywhere = torch.cat([d.shape[:, :-1], torch.ones_like(d.shape[:, :1])], 1)
    prior = regions_of_shapes(everywhere)
    return (r * errors + torch.xlogy(r, r / prior)).sum((1, 2, 3, 4))


def test_no_regions_are_better_than_those_of_the_e_step():
    d = layers_of()
    best, kept = e_step(d, PixelNoise(0.1))
    assert kept.all()
    # the drawings in the order found, with the colours as corrected by the regions they came with
    drawn = dataclasses.replace(best, region=d.in_order(order_of(d, best)).region)
    least = bound(drawn, best.region)
    for _ in range(50):
        other = (best.region + 1e-3 * torch.rand_like(best.region)).clamp_min(0)
        other = other / other.sum(1, keepdim=True)
        assert (bound(drawn, other) > least).all()
    assert (bound(drawn, drawn.region) > least).all()


def with_regions(d, r):
    """L_x + L_r of Eqs. 10 and 12, the last layer everywhere, summed over layers."""
    everywhere = torch.cat([d.shape[:, :-1], torch.ones_like(d.shape[:, :1])], 1)
    prior = scopes(r) * everywhere
    of_r = torch.xlogy(r, r / prior) + torch.xlogy(1 - r, (1 - r) / (1 - prior))
    errors = pixel_errors(d.image, mean_colour_corrected(d), PixelNoise(0.1))
    return (r * errors + of_r.nan_to_num(0.0)).sum((1, 2, 3, 4))


def test_what_the_e_step_minimises_bounds_the_objective_and_is_it_for_binary_regions():
    d = layers_of()
    assert (bound(d, d.region) > with_regions(d, d.region) + 1).all()
    binary = torch.nn.functional.one_hot(d.region.argmax(1), 4).movedim(-1, 1).double()
    torch.testing.assert_close(bound(d, binary), with_regions(d, binary))


def order_of(d, best):
    """Indices of d's layers in the order of another decomposition of them."""
    same = (d.mean[:, None] == best.mean[:, :, None]).flatten(3).all(3)  # (B, new, old)
    return same.int().argmax(2)


class Attends:
    """A guide of given attention logits."""

    def __init__(self, logits):
        self.logits = logits

    def attention_logits(self, x, s_t):
        return self.logits


def kl(p, q):
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))


def test_the_divergence_pixel_by_pixel():
    scope, share = torch.rand(3, 1, 4, 4).double(), torch.rand(3, 2, 1, 4, 4).double()
    logits = torch.randn(3, 2, 1, 4, 4).double()
    taught = Lesson(torch.rand(3, 3, 4, 4).double(), scope, scope[:, None] * share)
    found = divergence(Attends(logits), taught)
    expected = [
        sum(
            (scope[b, 0, i, j] * kl(share[b, k, 0, i, j], logits[b, k, 0, i, j].sigmoid())).item()
            for k in range(2) for i in range(4) for j in range(4)
        )
        for b in range(3)
    ]  # fmt: skip
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_attention_that_has_learnt_has_nothing_left_to_learn():
    scope, share = torch.rand(3, 1, 4, 4).double(), torch.rand(3, 2, 1, 4, 4).double()
    taught = Lesson(torch.rand(3, 3, 4, 4).double(), scope, scope[:, None] * share)
    logits = share.logit().requires_grad_()
    left = divergence(Attends(logits), taught)
    assert left.abs().max() < 1e-9
    (gradient,) = torch.autograd.grad(left.sum(), logits)
    assert gradient.abs().max() < 1e-9


def test_summed_in_the_scenes_order_it_is_the_divergence_of_each_pixels_layer():
    d, slots = layers_of(), 4
    a = torch.rand(2, slots, 1, 8, 8).double()
    a[:, -1] = 1
    total = torch.zeros(2).double()
    for t in range(slots - 1):
        taught = Lesson(d.image, d.scope[:, t], d.region[:, t : t + 1])
        total += divergence(Attends(a[:, t : t + 1].logit()), taught)
    proposed = regions_of_shapes(a)
    expected = torch.xlogy(d.region, d.region / proposed).sum((1, 2, 3, 4))
    torch.testing.assert_close(total, expected)


def uniform_for(taken=None, subset=None, slots=4):
    """Random numbers that take so many layers from the front, or leave a subset."""
    if subset is None:
        return torch.tensor([[(taken + 0.5) / (slots - 1), *[0.5] * (slots - 1), 0.0]])
    return torch.tensor([[*[0.0 if left else 0.99 for left in subset], 0.99]])


def test_each_expert_is_asked_for_its_nearest_object_in_the_scope():
    d = dataclasses.replace(layers_of(n=1), k=torch.tensor([[0, 1, 0, 1]]))
    r = d.region[0]
    whole = lesson(d.image, scenes_of(d), 3, uniform_for(taken=0))
    torch.testing.assert_close(whole.scope[0], torch.ones(1, 8, 8).double())
    assert torch.equal(whole.region[0], torch.stack([r[0], r[1], torch.zeros_like(r[0])]))
    second = lesson(d.image, scenes_of(d), 3, uniform_for(taken=2))
    torch.testing.assert_close(second.scope[0], r[2] + r[3])
    # of expert 1 only the last layer is left, which nobody is asked for
    assert torch.equal(second.region[0], torch.stack([r[2], 0 * r[0], 0 * r[0]]))
    subset = lesson(d.image, scenes_of(d), 3, uniform_for(subset=(False, True, True, False)))
    torch.testing.assert_close(subset.scope[0], r[1] + r[2] + r[3])
    assert torch.equal(subset.region[0], torch.stack([r[2], r[1], 0 * r[0]]))
    empty = dataclasses.replace(
        d, region=d.region * torch.tensor([0, 1, 1, 1])[:, None, None, None]
    )
    without = lesson(d.image, scenes_of(empty), 3, uniform_for(taken=0))
    assert torch.equal(without.region[0, 0], r[2])


def test_scopes_are_of_the_own_order_and_of_subsets():
    d = layers_of(n=400)
    taught = lesson(d.image, scenes_of(d), 3, torch.rand(400, 5))
    assert (taught.region <= taught.scope[:, None] + 1e-9).all()
    own = torch.stack([d.scope[:, t] for t in range(3)], 1)
    matches = ((taught.scope[:, None] - own).abs().amax((2, 3, 4)) < 1e-9).float()
    # three in five by design, and of the subsets those that happen to be
    assert 0.6 < matches.any(1).float().mean() < 0.95
    assert (matches[:, :3].mean(0) > 0.15).all()


def test_a_random_subset_leaves_three_of_five_layers_and_always_the_last():
    d = layers_of(n=2000, slots=4, size=1)
    even = dataclasses.replace(d, region=torch.full_like(d.region, 0.25))
    uniform = torch.rand(2000, 5)
    uniform[:, -1] = 0.99  # none of the scene's own order
    left = lesson(d.image, scenes_of(even), 3, uniform).scope.flatten() * 4
    assert left.min() == 1 and left.max() == 4
    assert left.mean().item() == pytest.approx(1 + 3 * 0.6, abs=0.1)


def drawn(*tops, k=(0, 0, 1), size=12):
    """A scene of 4 x 4 squares at these corners, front to back, on a ground of its own."""
    m = torch.zeros(1, len(tops) + 1, 1, size, size)
    for t, (top, left) in enumerate(tops):
        m[0, t, 0, top : top + 4, left : left + 4] = 1
    m[:, -1] = 1
    k = torch.tensor([[*k[: len(tops)], 2]])
    objects = torch.ones_like(k, dtype=torch.bool)
    objects[:, -1] = False
    return Scenes(torch.rand(1, 3, size, size), k, regions_of_shapes(m), m, objects)


def test_of_several_nearest_objects_an_expert_is_asked_for_the_leftmost():
    apart = drawn((0, 7), (5, 1))
    found = lesson(apart.image, apart, 3, uniform_for(taken=0, slots=3))
    assert torch.equal(found.region[0, 0], apart.region[0, 1])
    # where one hides a part of the other, the one in front
    overlap = drawn((0, 3), (2, 1))
    found = lesson(overlap.image, overlap, 3, uniform_for(taken=0, slots=3))
    assert torch.equal(found.region[0, 0], overlap.region[0, 0])
    # of another expert's object in front it does not matter
    other = drawn((0, 3), (2, 1), (6, 7), k=(1, 0, 0))
    found = lesson(other.image, other, 3, uniform_for(taken=0, slots=4))
    assert torch.equal(found.region[0, 0], other.region[0, 1])


def test_an_expert_is_not_asked_for_what_cannot_be_seen():
    hidden = drawn((3, 3), (3, 3), k=(1, 0))
    found = lesson(hidden.image, hidden, 3, uniform_for(taken=0, slots=3))
    assert found.region[0, 0].sum() == 0 and found.region[0, 1].sum() == 16
    further = drawn((3, 3), (3, 3), (7, 7), k=(1, 0, 0))
    found = lesson(further.image, further, 3, uniform_for(taken=0))
    assert torch.equal(found.region[0, 0], further.region[0, 2])


def test_recomposed_scenes_are_painted_from_the_layers_of_the_batch():
    scenes = [drawn((0, 1), (2, 3)), drawn((7, 7), (6, 5), k=(1, 1)), drawn((1, 1), (5, 6))]
    batch = Scenes(*(torch.cat(parts) for parts in zip(*scenes, strict=True)))
    mean = torch.rand(3, 3, 3, 1, 1).expand(-1, -1, -1, 12, 12)
    new = recomposed(batch, mean, most=4)
    assert new.k.shape == (3, 5) and new.region.shape == (3, 5, 1, 12, 12)
    torch.testing.assert_close(new.region.sum(1), torch.ones(3, 1, 12, 12))
    assert not new.objects[:, -1].any() and new.objects.any(1).all()
    visible = batch.region * batch.image[:, None] + (1 - batch.region) * mean
    for b in range(3):
        for t in range(4):
            if not new.objects[b, t]:
                assert new.region[b, t].sum() == 0
                continue
            # a whole object of the batch, with its expert, in its own colours
            same = (batch.shape == new.shape[b, t]).flatten(2).all(2) & batch.objects
            assert (batch.k[same] == new.k[b, t]).any()
            here = new.region[b, t].bool().expand(3, -1, -1)
            colours = [torch.equal(v[here], new.image[b][here]) for v in visible[same]]
            assert any(colours)
        ground = new.region[b, -1].bool().expand(3, -1, -1)
        assert torch.equal(visible[b, -1][ground], new.image[b][ground])


def test_recomposed_scenes_differ_in_number_and_may_hold_a_class_twice():
    batch = Scenes(*(torch.cat([part] * 40) for part in drawn((0, 1), (6, 7), k=(0, 1))))
    new = recomposed(batch, torch.rand(40, 3, 3, 12, 12), most=3)
    assert set(new.objects.sum(1).tolist()) == {1, 2, 3}
    twice = ((new.k == 0) & new.objects).sum(1)
    assert (twice >= 2).any()


def test_recoloured_objects_differ_from_their_background_by_a_multiple_of_what_they_did():
    batch = Scenes(*(torch.cat([part] * 40) for part in drawn((0, 1), (6, 7), k=(0, 1))))
    mean = torch.tensor([0.8, 0.6, 0.4, 0.5, 0.5, 0.5]).view(2, 3, 1, 1)[[0, 0, 1]]
    batch = batch._replace(image=torch.full_like(batch.image, 0.5))  # shapes alone give colours
    batch = batch._replace(region=torch.zeros_like(batch.region))
    new = recomposed(batch, mean.expand(40, -1, -1, 12, 12), most=3, recoloured=1.0)
    here = (new.region[:, :-1] * new.objects[:, :-1, None, None, None]).sum(1).bool()
    off = (new.image - 0.5).permute(1, 0, 2, 3)[:, here[:, 0]]
    c = off[0] / 0.3
    torch.testing.assert_close(off[1], c * 0.1)
    torch.testing.assert_close(off[2], c * -0.1)
    low, high = RECOLOURED
    assert low <= c.min() < 0 < c.max() <= high + 1e-5 and c.unique().numel() > 40
    ground = ~here.expand(-1, 3, -1, -1)
    assert torch.equal(new.image[ground], torch.full_like(new.image[ground], 0.5))


def test_a_share_of_the_objects_is_recoloured():
    batch = Scenes(*(torch.cat([part] * 60) for part in drawn((0, 1), (6, 7), k=(0, 1))))
    mean = torch.rand(60, 3, 3, 12, 12)
    kept = []
    for share in (0.0, 0.3):
        torch.manual_seed(0)
        kept.append(recomposed(batch, mean, most=1, recoloured=share))
    assert torch.equal(kept[0].region, kept[1].region)
    alike = (kept[0].image == kept[1].image).flatten(1).all(1).float().mean()
    assert 0.55 < alike < 0.85


def test_taken_objects_may_leave_a_part_of_themselves_that_nobody_is_asked_for():
    d = drawn((0, 1), (2, 3), (6, 7))
    part = torch.zeros_like(d.region)
    part[:, :-1, :, :4] = 0.5  # of the upper rows
    plain = lesson(d.image, d, 4, uniform_for(taken=1))
    found = lesson(d.image, d, 4, uniform_for(taken=1), part)
    torch.testing.assert_close(found.scope - plain.scope, (d.region * part)[:, 0])
    assert found.scope.sum() > plain.scope.sum()
    assert torch.equal(found.region, plain.region)  # what remains stays whole, too


@pytest.mark.parametrize("kind", ["contour", "side", "part"])
def test_leftovers_are_a_contour_or_a_side_or_a_part_of_each_pixel(kind):
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    disc = ((y - 11).square() + (x - 12).square() < 64).float()
    region = torch.stack([disc, 1 - disc])[None, :, None]
    u = torch.tensor([[0.1, {"contour": 0.1, "side": 0.5, "part": 0.9}[kind], 0.25, 0.6]])
    assert leftover(region, u, share=0.05).sum() == 0
    left = leftover(region, u, share=0.2)
    assert left.shape == region.shape and left[:, -1].sum() == 0
    own = (left * region)[0, 0, 0]
    if kind == "part":
        torch.testing.assert_close(own, 0.3 * disc)
    elif kind == "side":  # at an angle of 90 degrees: to the right of the centre
        assert x[own > 0].min() >= 15 and own.max() == 1
        assert 0.1 < own.sum() / disc.sum() < 0.25
    else:
        inner = ((y - 11).square() + (x - 12).square() < 36).float()
        assert (own * inner).sum() == 0 and own[11, 5] == own[11, 19] == own[4, 12] == 1


def test_a_share_of_the_images_has_leftovers():
    region = drawn((0, 1), (2, 3)).region.expand(400, -1, -1, -1, -1)
    some = leftover(region, torch.rand(400, 4), share=0.3).flatten(1).sum(1) > 0
    assert 0.2 < some.float().mean() < 0.4


def test_a_batch_without_objects_gives_empty_scenes():
    nothing = drawn((0, 1))
    nothing = nothing._replace(objects=torch.zeros_like(nothing.objects))
    new = recomposed(nothing, torch.rand(1, 2, 3, 12, 12), most=5)
    assert not new.objects.any()
    found = lesson(new.image, new, 3, uniform_for(taken=0, slots=3))
    assert found.region.sum() == 0
