"""Baselines: exact segmentations of images made by hand, and a model at its initial weights."""

import dataclasses

import pytest
import torch
from scipy.ndimage import label
from sklearn.cluster import KMeans

from econ_pyro.data.ground_truth import PartialTruth
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.evaluation.baselines import (
    SEGMENTATIONS,
    colour_clusters,
    felzenszwalb,
    one_colour_components,
    position_only,
    untrained,
)
from econ_pyro.evaluation.metrics import evaluate_regions
from helpers.decompositions import BOXES, SIZE, TRUE, box

RED, GREEN, BLUE, GREY = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.25, 0.25, 0.25)


def paint(*objects):
    """One image of boxes and their colours on grey, the last box in front."""
    image = torch.tensor(GREY).view(3, 1, 1).repeat(1, SIZE, SIZE)
    for where, colour in objects:
        image[:, box(*where)] = torch.tensor(colour)[:, None]
    return image[None]


def masks(regions):
    """Regions of one image as masks."""
    return [r.bool() for r in regions[0, :, 0]]


@pytest.mark.parametrize("segment", [one_colour_components, colour_clusters])
def test_touching_squares_of_two_colours_are_two_segments(segment):
    large, small = box(2, 2, 8, 8), box(2, 8, 6, 12)
    x = paint(((2, 8, 6, 12), GREEN), ((2, 2, 8, 8), RED))
    found = masks(segment(x, 3))
    for r, expected in zip(found, (large, small, ~large & ~small), strict=True):
        assert torch.equal(r, expected)
    empty = masks(segment(x, 5))  # layers without a segment stand before the background
    assert [int(r.sum()) for r in empty] == [36, 16, 0, 0, 256 - 52]


def test_one_colour_apart_is_two_components_and_one_cluster():
    first, second = box(1, 1, 5, 6), box(9, 9, 13, 13)
    x = paint(((1, 1, 5, 6), RED), ((9, 9, 13, 13), RED))
    found = masks(one_colour_components(x, 3))
    assert torch.equal(found[0], first) and torch.equal(found[1], second)
    both, background = masks(colour_clusters(x, 2))
    assert torch.equal(both, first | second) and torch.equal(background, ~both)
    corner = paint(((1, 1, 5, 5), RED), ((5, 5, 8, 8), RED))  # a corner joins no pixels
    assert [int(r.sum()) for r in masks(one_colour_components(corner, 3))][:2] == [16, 9]


def test_components_beyond_the_layers_join_the_background():
    boxes = [(1, 1, 7, 7), (9, 1, 14, 5), (1, 9, 4, 12), (9, 9, 11, 11)]
    x = paint(*zip(boxes, (RED, GREEN, BLUE, RED), strict=True))
    found = masks(one_colour_components(x, 3))
    assert torch.equal(found[0], box(*boxes[0])) and torch.equal(found[1], box(*boxes[1]))
    assert torch.equal(found[2], ~found[0] & ~found[1])


def test_the_background_touches_the_border_most():
    frame = paint(((1, 1, 15, 15), RED))  # larger than the background
    found = masks(one_colour_components(frame, 2))
    assert torch.equal(found[0], box(1, 1, 15, 15)) and int(found[1].sum()) == 60
    tie = torch.zeros(1, 3, 4, 4)
    tie[0, :, 0] = tie[0, :, 1, 0] = tie[0, :, 1, 3] = 1  # 6 of 12 pixels of the border
    assert [int(r.sum()) for r in masks(one_colour_components(tie, 2))] == [6, 10]
    assert [int(r.sum()) for r in masks(one_colour_components(1 - tie, 2))] == [6, 10]


def test_colours_are_compared_at_eight_bits():
    x = paint(((2, 2, 8, 8), RED))
    x[:, 0, 2:4, 2:8] -= 0.001
    assert [int(r.sum()) for r in masks(one_colour_components(x, 3))] == [36, 0, 220]
    x[:, 0, 2:4, 2:8] -= 1 / 255
    assert [int(r.sum()) for r in masks(one_colour_components(x, 3))] == [24, 12, 220]


def test_noise_separates_all_pixels_but_not_the_clusters():
    x = paint(((2, 2, 8, 8), RED), ((9, 9, 14, 13), GREEN))
    noisy = (x + 0.05 * torch.randn(x.shape)).clamp(0, 1)
    areas = [int(r.sum()) for r in masks(one_colour_components(noisy, 3))]
    assert areas[0] < 5 and areas[2] > 245
    assert torch.equal(colour_clusters(noisy, 3), colour_clusters(x, 3))


def test_components_agree_with_scipy_for_each_colour():
    x = (torch.rand(4, 3, 12, 9) > 0.6).float()  # 108 pixels: every component has a layer
    for image, regions in zip(x, one_colour_components(x, 108), strict=True):
        areas = []
        for colour in image.flatten(1).T.unique(dim=0):
            components, n = label((image == colour[:, None, None]).all(0).numpy())
            areas += [int((components == i).sum()) for i in range(1, n + 1)]
        found = regions[:-1].sum((1, 2, 3)).int().tolist()
        background = int(regions[-1].sum())
        assert found == sorted(found, reverse=True)
        assert sorted([*(a for a in found if a), background]) == sorted(areas)


def test_clusters_are_as_tight_as_those_of_scikit_learn():
    x = torch.rand(3, 3, 12, 12) ** 3
    for image, regions in zip(x, colour_clusters(x, 4), strict=True):
        points = image.flatten(1).T.double()
        inertia = 0.0
        for member in regions.flatten(1).bool():
            inertia += float((points[member] - points[member].mean(0)).square().sum())
        best = KMeans(4, n_init=20, random_state=0).fit(points.numpy()).inertia_
        assert best * 0.999 < inertia < best * 1.03


def test_rare_colours_have_clusters_of_their_own():
    """Starts of k-means++ find them; of 256 pixels, those drawn evenly would be grey."""
    colours = [RED, GREEN, BLUE, (1.0, 1, 0), (0, 1.0, 1), (1.0, 0, 1)]
    boxes = [(2 * i + 2, 2, 2 * i + 3, 4 + i) for i in range(6)]  # 2 to 7 pixels
    found = masks(colour_clusters(paint(*zip(boxes, colours, strict=True)), 7))
    for r, expected in zip(found, reversed(boxes), strict=False):  # by area
        assert torch.equal(r, box(*expected))
    assert int(found[6].sum()) == 256 - 27


def test_positions_are_a_fixed_partition_into_quadrants():
    found = position_only(torch.rand(3, 3, 8, 8), 4)
    assert torch.equal(found, found[:1].expand(3, -1, -1, -1, -1))
    quadrants = {tuple(r.flatten().tolist()) for r in found[0]}
    half = torch.arange(8) < 4
    for rows in (half, ~half):
        for columns in (half, ~half):
            assert tuple((rows[:, None] & columns).flatten().float().tolist()) in quadrants
    areas = position_only(torch.rand(1, 3, 32, 32), 5)[0].sum((1, 2, 3))
    assert areas.min() > 100 and areas.sum() == 32 * 32


@pytest.mark.needs("skimage")
def test_shading_is_within_the_segments_of_a_graph():
    """Where a colour changes slowly and where it jumps; small scales part what large ones join."""
    x = torch.full((1, 3, 32, 32), 0.2)
    x[0, 0, 8:24, 8:24] = torch.linspace(0.6, 1, 16)  # a gradient: of no two columns one colour
    there = torch.zeros(32, 32, dtype=torch.bool)
    there[8:24, 8:24] = True
    (object_, ground) = masks(felzenszwalb(x, 2))
    assert torch.equal(object_, ~ground)
    assert (object_ & there).sum() > 0.9 * there.sum() and (object_ & ~there).sum() < 32
    (object_, _) = masks(one_colour_components(x, 2))
    assert (object_ & there).sum() < 0.1 * there.sum()
    areas = [felzenszwalb(x, 9, scale)[0, 0].sum() for scale in (1.0, 1000.0)]
    assert areas[0] < areas[1]


@pytest.mark.parametrize("segment", SEGMENTATIONS.values(), ids=list(SEGMENTATIONS))
def test_regions_are_a_partition_for_any_number_of_layers_and_images(segment):
    x = torch.rand(3, 3, 6, 5).round(decimals=1)
    for slots in (1, 2, 7, 40):  # 40: more than pixels
        regions = segment(x, slots)
        assert regions.shape == (3, slots, 1, 6, 5) and regions.dtype == torch.float32
        assert (regions.sum(1) == 1).all() and set(regions.unique().tolist()) <= {0, 1}
        assert torch.equal(segment(x, slots), regions)
        for i in range(3):  # whichever images are segmented with it
            assert torch.equal(segment(x[i : i + 1], slots), regions[i : i + 1])
    assert (segment(x, 1) == 1).all()
    assert segment(x[:0], 3).shape == (0, 3, 1, 6, 5)
    assert segment(torch.rand(1, 3, 1, 1), 2).flatten().tolist() == [0, 1]
    assert segment(x.double(), 3).dtype == torch.float32


@pytest.mark.parametrize("segment", SEGMENTATIONS.values(), ids=list(SEGMENTATIONS))
def test_other_arguments_are_errors(segment):
    for wrong in (torch.rand(3, 6, 5), torch.rand(1, 4, 6, 5), torch.zeros(1, 3, 6, 5).byte()):
        with pytest.raises(EconError, match=r"images \(B, 3, H, W\), float in \[0, 1\], got"):
            segment(wrong, 3)
    for slots in (0, 1.5, 10**6):
        with pytest.raises(EconError, match="slots"):
            segment(torch.rand(1, 3, 6, 5), slots)


def test_regions_are_scored_without_a_model():
    x = paint(*zip(reversed(BOXES), (RED, GREEN, BLUE), strict=True))
    true = PartialTruth(x, TRUE.region, TRUE.mask, TRUE.label)
    metrics = evaluate_regions(x, one_colour_components(x, 4), true)
    perfect = ("ari", "ari_fg", "msc", "sc", "visible_iou", "found", "oca")
    assert all(metrics.scores[name].item() == 1 for name in perfect)
    # 36 - 9 pixels of the second box are visible
    assert metrics.scores["amodal_iou"].item() == pytest.approx((1 + 27 / 36 + 1) / 3)
    assert metrics.scores["mse"].item() < 1e-12 and metrics.scores["layers"].item() == 4
    assert set(metrics.scores) == {*perfect, "amodal_iou", "mse", "layers", "spare"}
    assert not len(metrics.usage) and metrics.confusion is None and not metrics.expert_names
    one = evaluate_regions(x, position_only(x, 1), true).scores
    assert one["mse"].item() == pytest.approx(x.var((2, 3), correction=0).mean().item())
    assert one["ari_fg"].item() == 0 == one["oca"].item()
    assert set(evaluate_regions(x, position_only(x, 2)).scores) == {"mse", "layers"}
    with pytest.raises(EconError, match="true regions"):
        evaluate_regions(x.repeat(2, 1, 1, 1), position_only(x.repeat(2, 1, 1, 1), 2), true)


def test_a_soft_region_has_the_mean_colour_of_its_pixels():
    x = torch.rand(2, 3, 4, 4)
    half = torch.full((2, 2, 1, 4, 4), 0.5)
    expected = x.var((2, 3), correction=0).double().mean(1)
    torch.testing.assert_close(
        evaluate_regions(x, half).scores["mse"], expected, rtol=1e-5, atol=0
    )


def test_the_untrained_model_has_the_initial_weights(tiny):
    econ = Econ(dataclasses.replace(tiny, seed=7))
    initial = {name: tensor.clone() for name, tensor in econ.state_dict().items()}
    with torch.no_grad():
        for parameter in econ.parameters():
            parameter.add_(1)
    again = untrained(econ)
    assert again is not econ and again.config == econ.config
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, initial[name]), name
    assert not torch.equal(next(econ.parameters()), next(again.parameters()))
