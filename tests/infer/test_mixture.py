"""The likelihood of pixels: outliers, and a background with a noise of its own."""

import math
from dataclasses import replace

import pytest
import torch

from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.core.pixel_features import logits_of_layers
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.mixture import (
    BEFOREHAND,
    FACTORS,
    PRIOR,
    Mixture,
    corrected_errors,
    with_outliers,
)
from econ_pyro.infer.refined_competition import Refined
from econ_pyro.infer.refinement import e_step, fill_spare
from helpers.decompositions import explained

SIGMA = 0.1
PIXEL_NOISE = PixelNoise(SIGMA)
OWN = Mixture(background_noise=True)


def test_outliers_have_a_uniform_density():
    errors = torch.tensor([0.0, 1.0, 5.0, 50.0]).double()
    normal = (-errors).exp() / (2 * math.pi * SIGMA**2) ** 1.5  # of three channels
    density = 0.98 * normal + 0.02
    expected = -density.log() - 1.5 * math.log(2 * math.pi * SIGMA**2)
    torch.testing.assert_close(with_outliers(errors, PIXEL_NOISE, 0.02), expected)
    assert with_outliers(errors, PIXEL_NOISE, 0.0) is errors


def on_noise(sigma, edge=0.0):
    """A box on a noisy ground, whose upper edge is so much of the ground's colour."""
    d = explained([(4, 4, 12, 12), None], [1, 0])
    colours = torch.tensor([0.7, 0.2]).double()[None, :, None, None, None]
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    image = (d.region * colours).sum(1) + d.region[:, 1] * sigma * noise
    image[..., 4, 4:12] = edge * 0.2 + (1 - edge) * 0.7
    shape = d.shape.clamp(0.2, 0.8)
    return replace(d, mean=colours.expand_as(d.mean), shape=shape, image=image)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.16])
def test_the_backgrounds_variance_is_that_of_its_pixels(sigma):
    d = on_noise(sigma)
    ground = d.region[0, 1, 0] > 0.5
    off = (d.image[0] - d.mean[0, 1])[:, ground]
    common = BEFOREHAND * SIGMA**2
    variance = (off.square().sum() / 3 + common) / (ground.sum() + BEFOREHAND)
    errors = OWN.errors(d, d.mean, PIXEL_NOISE)
    normal = torch.distributions.Normal(d.mean[0, 1], variance.sqrt())
    density = -normal.log_prob(d.image[0]).sum(0) - 1.5 * math.log(2 * math.pi * SIGMA**2)
    torch.testing.assert_close(errors[0, 1, 0], density)
    plain = pixel_errors(d.image, d.mean, PIXEL_NOISE)
    assert torch.equal(errors[:, :1], plain[:, :1])  # objects have the common noise
    assert torch.equal(Mixture().errors(d, d.mean, PIXEL_NOISE), plain)


def test_a_ground_without_any_noise_still_has_some():
    d = on_noise(0.0)
    d.region[:] = torch.tensor([0.0, 1.0])[None, :, None, None, None]
    d.image[:] = d.mean[:, 1]
    least = OWN.errors(d, d.mean, PIXEL_NOISE)[0, 1].unique()
    factor = max(FACTORS[0], BEFOREHAND / (BEFOREHAND + 256))
    torch.testing.assert_close(least, torch.tensor([1.5 * math.log(factor)]).double())


def test_a_ground_that_is_drawn_quite_wrong_has_twice_the_common_noise_at_most():
    d = on_noise(0.4)
    errors = OWN.errors(d, d.mean, PIXEL_NOISE)[:, 1]
    plain = pixel_errors(d.image, d.mean, PIXEL_NOISE)[:, 1]
    most = FACTORS[1]
    torch.testing.assert_close(errors, plain / most + 1.5 * math.log(most))


def test_edges_that_blend_into_an_even_ground_are_the_objects():
    d = on_noise(0.01, edge=0.6)  # nearer the ground than the box
    common, _ = e_step(d, PIXEL_NOISE)
    own, _ = e_step(d, PIXEL_NOISE, OWN)
    edge = (0, 0, 0, 4, slice(5, 11))
    assert own.region[edge].min() > 0.9 > 0.1 > common.region[edge].max()
    ground = corrected_errors(d, PIXEL_NOISE, OWN)[0, 1, 0, 4, 5:11]
    assert (ground > corrected_errors(d, PIXEL_NOISE)[0, 1, 0, 4, 5:11]).all()


def striped(angle):
    """A box and its ground, each with stripes of two colours about the colour that is drawn."""
    d = on_noise(0.0)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    stripe = (math.cos(angle) * y + math.sin(angle) * x) % 4 < 2
    ways = torch.tensor([[0.25, -0.25, 0.0], [0.0, 0.15, 0.15]]).double()  # of colours
    colour = torch.tensor([0.5, 0.4]).double()
    off = ways[:, :, None, None] * (2.0 * stripe.double() - 1)  # (2, 3, 16, 16)
    image = (d.region[0] * (colour[:, None, None, None] + off)).sum(0)
    image = image + 0.01 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean = colour[None, :, None, None, None].expand_as(d.mean)
    return replace(d, image=image[None], mean=mean, shape=torch.full_like(d.shape, 0.5))


def covariance_of(off, region, floor=0.02):
    """Of an image's pixels ``(3, N)`` by their weights, with the prior of a deviation of 0.05."""
    weight = region.flatten()
    scatter = (weight * off) @ off.mT + PRIOR * 0.05**2 * torch.eye(3).double()
    return scatter / (weight.sum() + PRIOR) + floor**2 * torch.eye(3).double()


@pytest.mark.parametrize("floor", [0.02, 0.1])
def test_each_layers_covariance_is_that_of_its_pixels(floor):
    d = striped(0.5)
    region = 0.8 * d.region + 0.1  # soft
    d = replace(d, region=region)
    found = Mixture(covariance=0.05, floor=floor).errors(d, d.mean, PIXEL_NOISE)
    for t in (0, 1):
        off = (d.image[0] - d.mean[0, t]).flatten(1)
        covariance = covariance_of(off, region[0, t], floor)
        normal = torch.distributions.MultivariateNormal(off.new_zeros(3), covariance)
        expected = -normal.log_prob(off.mT) - 1.5 * math.log(2 * math.pi * SIGMA**2)
        torch.testing.assert_close(found[0, t].flatten(), expected, rtol=1e-5, atol=1e-5)


def test_without_a_pattern_the_floor_is_the_noise():
    d = on_noise(0.0)
    image = (d.region * d.mean).sum(1)  # as it is drawn
    d = replace(d, image=image, region=d.region.round())
    found = Mixture(covariance=1e-4, floor=SIGMA).errors(d, d.mean, PIXEL_NOISE)
    inside = d.region > 0.5
    plain = pixel_errors(image, d.mean, PIXEL_NOISE)
    torch.testing.assert_close(found[inside], plain[inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 0.7, 1.5])
def test_covariances_tell_patterns_apart_that_have_one_mean(angle):
    d = striped(angle)
    truth = d.region[0, 0, 0] > 0.5
    blurred = torch.nn.functional.avg_pool2d(d.region[:, 0].float(), 5, 1, 2).double()[:, None]
    start = replace(d, region=torch.cat([blurred, 1 - blurred], 1))
    for mixture, least in ((Mixture(), 0.0), (Mixture(covariance=0.05), 0.9)):
        found = start
        for _ in range(3):
            found, _ = e_step(found, PIXEL_NOISE, mixture)
        # by their area, as e_step may change their order
        box = found.region[0, :, 0].flatten(1)[found.area[0].argmin()].view(16, 16) > 0.5
        overlap = (box & truth).sum() / (box | truth).sum()
        assert overlap > least if least else overlap < 0.8, overlap


def test_gradients_take_the_covariance_as_it_is():
    d = striped(0.3)
    mean = (d.mean + 0.05).requires_grad_()
    errors = Mixture(covariance=0.05).errors(d, mean, PIXEL_NOISE)
    (gradient,) = torch.autograd.grad(errors.sum(), mean)
    for t in (0, 1):
        off = (d.image[0] - mean.detach()[0, t]).flatten(1)
        expected = -torch.linalg.solve(covariance_of(off, d.region[0, t]), off)
        torch.testing.assert_close(gradient[0, t].flatten(1), expected, rtol=1e-4, atol=1e-4)


def patterned(d, where):
    """Features 0 but in a box of an image of 16 x 16, of sharpness 2, ``(1, 2, 16, 16)``."""
    features = torch.zeros(1, 2, 16, 16).double()
    features[:, 0] = 2.0
    features[:, 1, where[0] : where[2], where[1] : where[3]] = 1.0
    return features


def test_features_count_beside_colours():
    d = on_noise(0.05)
    features = patterned(d, (4, 4, 12, 12))
    plain = OWN.errors(d, d.mean, PIXEL_NOISE)
    with_features = replace(OWN, feature_weight=0.25, features=features)
    saved = plain - with_features.errors(d, d.mean, PIXEL_NOISE)
    torch.testing.assert_close(saved, 0.25 * logits_of_layers(features, d.region))
    assert (saved[:, 0, :, 4:12, 4:12] == 2.0).all()  # a quarter of 4 g
    assert torch.equal(replace(OWN, feature_weight=0.25).errors(d, d.mean, PIXEL_NOISE), plain)


def test_pixels_of_a_pattern_go_to_their_object():
    """Stripes of the ground's colour, which colours alone give to the ground."""
    d = on_noise(0.0)
    stripe = torch.zeros(16, 16, dtype=torch.bool)
    stripe[5:11:2, 5:11] = True
    image = torch.where(stripe, torch.tensor(0.2).double(), d.image)
    d = replace(d, image=image)
    features = patterned(d, (4, 4, 12, 12))
    for weight, least, most in ((0.0, 0.0, 0.01), (0.1, 0.0, 0.1), (1.0, 0.9, 1.0)):
        found, kept = e_step(d, PIXEL_NOISE, Mixture(feature_weight=weight, features=features))
        share = found.region[0, 0, 0, stripe]
        assert kept.all() and least <= share.min() and share.max() <= most


def test_a_spare_layer_is_filled_by_colours_alone(make_pq):
    """Shadows are like no layer in their features, and no objects."""
    model, guide = make_pq(seeded=True)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    d = Refined.of(JointCompetition(num_slots=4, temperature=0.0)).decompose(model, guide, images)
    keep = torch.tensor([True, False, False, True])[None, :, None, None, None]
    left = d.region * keep
    d = replace(d, region=torch.cat([left[:, :-1], 1 - left[:, :-1].sum(1, keepdim=True)], 1))
    features = torch.rand(4, 5, 16, 16, generator=torch.Generator().manual_seed(2))
    mixture = Mixture(feature_weight=0.5, features=features)
    plain, found = (fill_spare(model, guide, d, 1.0, m) for m in (Mixture(), mixture))
    assert (plain.area[:, -2] > 0).any()
    assert torch.equal(found.region, plain.region) and torch.equal(found.k, plain.k)


def test_with_both_an_even_ground_has_its_own_noise_and_objects_their_covariance():
    d = striped(0.5)
    both = Mixture(background_noise=True, covariance=0.05).errors(d, d.mean, PIXEL_NOISE)
    objects, ground = (m.errors(d, d.mean, PIXEL_NOISE) for m in (Mixture(covariance=0.05), OWN))
    assert torch.equal(both[:, :-1], objects[:, :-1]) and torch.equal(both[:, -1:], ground[:, -1:])
    assert not torch.equal(objects[:, -1:], ground[:, -1:])
