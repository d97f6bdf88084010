"""Decoders that draw about a place, at a size, and encoders that find them."""

import math

import pytest
import torch
from torch.distributions import Normal

from econ_pyro.core.pose import (
    UNIT,
    centre,
    coordinates,
    crop,
    latents_of_position,
    log_size_of,
    pass_through,
    position_of,
    window,
)
from econ_pyro.errors import EconError
from econ_pyro.guides.object_centred_encoder import OFFSET, Glimpse, ObjectCentredEncoder
from econ_pyro.model_config import PoseLatents
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder, draw_shapes
from helpers.trainers import small_expert


def pose_expert(dim=3, **fields):
    return small_expert(dim, features=8, pose=True, **fields)


SMALL = pose_expert()
SIZED = pose_expert(4, size=True)
PIXEL = 2 / 31  # of the coordinates of 32 pixels


def encode(config, encoder, x, r):
    return encoder(*Glimpse(config, 32).to(x)(x, r))


def test_centre_is_the_mean_pixel():
    r = torch.full((1, 1, 32, 32), 1e-9)
    r[0, 0, 4:8, 10:20] = 0.7
    y, x = centre(r, coordinates(32))[0].tolist()
    assert y == pytest.approx(-1 + PIXEL * 5.5, abs=1e-4)  # rows 4 to 7
    assert x == pytest.approx(-1 + PIXEL * 14.5, abs=1e-4)


@pytest.mark.parametrize("reach", [0.7, 1.0])
def test_places_are_even_within_the_reach_and_nowhere_else(reach):
    z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    place = position_of(z, reach)
    assert place.abs().max() < reach
    even = (2 * Normal(0, 1).cdf(z) - 1) * reach
    assert (place - even).abs().max() < 0.02 * reach
    inside = place[(place.abs() < 0.98 * reach).all(1)]
    torch.testing.assert_close(position_of(latents_of_position(inside, reach), reach), inside)


def test_beyond_the_reach_latents_stay_finite():
    z = latents_of_position(torch.tensor([[-1.0, 1.0], [0.7, -0.69]]), 0.7)
    assert z.isfinite().all() and z.abs().max() < 3.2
    assert z[0, 0] < z[1, 1] < 0 < z[0, 1] == z[1, 0]


def test_what_is_drawn_moves_with_its_place():
    torch.manual_seed(0)
    decoder = ObjectCentredDecoder(SMALL, 32).double()
    place = torch.tensor([[0.1, -0.07]], dtype=torch.double)
    other = torch.tensor([[0.5]], dtype=torch.double)
    here = torch.cat([latents_of_position(place, 1.0), other], 1)
    there = torch.cat(
        [latents_of_position(place + torch.tensor([3.0, -2.0]) * PIXEL, 1.0), other], 1
    )
    a, b = decoder(here), decoder(there)
    inner = slice(6, 26)  # away from the border, which convolutions pad
    moved = a.roll((3, -2), (2, 3))
    torch.testing.assert_close(b[..., inner, inner], moved[..., inner, inner], atol=1e-5, rtol=0)
    assert (a - b).abs().max() > 1e-3


def test_a_new_encoder_is_about_the_centre():
    torch.manual_seed(0)
    encoder, r = ObjectCentredEncoder(SMALL, 32), torch.full((2, 1, 32, 32), 1e-5)
    r[0, 0, :8, :8] = 1
    r[1, 0, 20:, 10:30] = 1
    out = encode(SMALL, encoder, torch.rand(2, 3, 32, 32), r)
    assert out.shape == (2, 6)
    assert (position_of(out[:, :2], 1.0) - centre(r, coordinates(32))).abs().max() < OFFSET


def test_a_place_takes_two_latents_and_something_is_left():
    with pytest.raises(EconError, match="at least 3 latents"):
        PoseLatents(dim=2)


OUTSIDE = torch.tensor([-1.0])[:, None, None]


def region_of(rows, columns):
    r = torch.full((1, 1, 32, 32), 1e-5)
    r[:, :, rows, columns] = 1
    return r


def look(picture, r):
    grid = coordinates(32)
    return crop(picture - OUTSIDE, window(r, centre(r, grid), grid), OUTSIDE)


@pytest.mark.parametrize("sized", [False, True])
def test_a_new_expert_is_surer_of_a_pose_than_of_looks(sized):
    config = pose_expert(6, size=sized)
    encoder = ObjectCentredEncoder(config, 32)
    torch.nn.init.zeros_(encoder.head[-1].weight)
    r = region_of(slice(8, 14), slice(9, 16))
    log_variance = encode(config, encoder, torch.rand(1, 3, 32, 32), r)[0, 6:]
    pose, looks = log_variance.split([3, 3] if sized else [2, 4])
    torch.testing.assert_close(
        (0.5 * looks).exp(), torch.full_like(looks, 0.22), atol=0.01, rtol=0
    )
    # in the image of a side of 2, a twelfth of it at the most
    off = position_of((0.5 * pose).exp(), 1.0)
    assert (off < 2 / 12).all() and (off > 2 / 24).all()


def test_what_an_encoder_says_is_added_to_what_is_seen_of_the_region():
    config = pose_expert(6, size=True)
    encoder, r = ObjectCentredEncoder(config, 32), region_of(slice(8, 14), slice(9, 16))
    head, given = encoder.head[-1], torch.tensor([1.0, -3.0, 1.0, 0.5, 0.25, -0.5])
    torch.nn.init.zeros_(head.weight)
    x = torch.full((1, 3, 32, 32), 0.5)  # of grey, nothing is passed on
    with torch.no_grad():
        head.bias[:6] = given
    out = encode(config, encoder, x, r)[0]
    grid = coordinates(32)
    seen = centre(r, grid)
    # a share 1 / 2 and -3 / 4 of the farthest, 0.35
    expected = seen[0] + 0.35 * torch.tensor([0.5, -0.75])
    torch.testing.assert_close(position_of(out[None, :2], 1.0)[0], expected)
    torch.testing.assert_close(out[2:3], log_size_of(r, seen, grid)[0] + 0.5)
    torch.testing.assert_close(out[3:6].sinh(), given[3:])


def test_what_comes_last_is_passed_on_last():
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert pass_through(5, 3)(given).tolist() == [[3, 4, 5]]
    assert pass_through(3, 5)(given[:, :3]).tolist() == [[0, 0, 1, 2, 3]]


@pytest.mark.parametrize("grade", [0, 1])
def test_black_and_white_have_latents_too(grade):
    config = pose_expert(5)
    encoder, r = ObjectCentredEncoder(config, 32), region_of(slice(8, 20), slice(4, 12))
    loc = encode(config, encoder, torch.full((1, 3, 32, 32), float(grade)), r)[0, 2:5]
    assert loc.sinh().sigmoid().tolist() == pytest.approx(
        [0.01, 0.01, 0.01] if not grade else [0.99, 0.99, 0.99]
    )


def test_where_to_look_is_not_learnt_from():
    grid, picture = coordinates(32).double(), torch.rand(1, 1, 32, 32).double()
    r = (0.5 * torch.rand(1, 1, 32, 32).double() + 0.1).requires_grad_()
    where = window(r, centre(r, grid), grid)
    assert not where.requires_grad
    glimpse = Glimpse(SMALL, 32).double()
    weights = torch.rand(1, 4, 16, 16).double()

    def seen(r):
        return (glimpse(picture.expand(-1, 3, -1, -1), r)[0] * weights).sum()

    (gradient,) = torch.autograd.grad(seen(r), r)
    # with the window held, the only gradients are of log r and of the mean colour
    colour = (r * picture).sum() / r.sum()
    inputs = torch.cat([(picture - colour).expand(-1, 3, -1, -1), r.log()], 1)
    outside = glimpse.outside.double()
    held = (crop(inputs - outside, where, outside) * weights).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(held, r)[0])


def test_a_small_region_is_seen_at_the_images_resolution():
    picture = torch.rand(1, 1, 32, 32)
    seen = look(picture, region_of(slice(11, 18), slice(20, 25)))
    assert seen.shape == (1, 1, 16, 16)
    # sampling points half a pixel (by the smaller window's step) about row 14, column 22
    rows = 14 + 15.5 * torch.linspace(-0.5, 0.5, 16)
    columns = 22 + 15.5 * torch.linspace(-0.5, 0.5, 16)
    for i, j in ((0, 0), (3, 12), (15, 8)):
        top, left = int(rows[i].floor()), int(columns[j].floor())
        a, b = rows[i] - top, columns[j] - left
        square = picture[0, 0, top : top + 2, left : left + 2]
        weights = torch.outer(torch.stack([1 - a, a]), torch.stack([1 - b, b]))
        assert seen[0, 0, i, j] == pytest.approx(float((square * weights).sum()), abs=1e-2)


def test_a_large_region_is_seen_whole_and_the_outside_is_filled():
    picture = torch.ones(1, 1, 32, 32)
    whole = look(picture, torch.ones(1, 1, 32, 32))
    torch.testing.assert_close(whole, torch.ones(1, 1, 16, 16))
    corner = look(picture, region_of(slice(0, 6), slice(0, 6)))
    assert corner[0, 0, 0, 0] == pytest.approx(-1)
    assert corner[0, 0, -1, -1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("high", "wide"), [(0.6, 0.6), (0.3, 0.75), (0.75, 0.1), (0.1, 0.2), (1.0, 0.2)]
)
def test_all_of_a_region_is_in_the_window_and_little_else(high, wide):
    """Of discs and boxes by their half sides: the window is a square as wide as the longer."""
    grid = coordinates(128)
    y, x = grid[0]
    for there in (
        (y.abs() <= high) & (x.abs() <= wide),
        (y / high).square() + (x / wide).square() <= 1,
    ):
        r = there[None, None].float() + 1e-9
        down, right = window(r, centre(r, grid), grid)[0].amax((1, 2)).tolist()
        assert down == pytest.approx(right, abs=1e-3)
        longer = max(high, wide)
        assert min(1.0, max(0.5, 0.98 * longer)) <= down <= min(1.0, max(0.5, 1.2 * longer)) + 1e-3


def test_what_an_encoder_adds_to_the_centre_does_not_depend_on_the_place():
    torch.manual_seed(0)
    encoder = ObjectCentredEncoder(SMALL, 32).double()
    x, r = torch.zeros(1, 3, 32, 32).double(), region_of(slice(8, 14), slice(9, 16)).double()
    x[:, 0, 6:12, 12:18] = 1.0
    before = encode(SMALL, encoder, x, r)
    after = encode(SMALL, encoder, *(a.roll((5, 7), (2, 3)) for a in (x, r)))
    shift = torch.tensor([[5 * PIXEL, 7 * PIXEL]]).double()
    places = [position_of(out[:, :2], 1.0) for out in (before, after)]
    torch.testing.assert_close(places[1], places[0] + shift, atol=0.01, rtol=0)
    torch.testing.assert_close(after[:, 2:], before[:, 2:], atol=0.02, rtol=0)


@pytest.mark.parametrize(("dim", "shape_dim"), [(5, 2), (7, 4), (5, None)])
def test_a_new_expert_draws_a_region_in_its_mean_colour_and_is_sure(dim, shape_dim):
    torch.manual_seed(0)
    config = pose_expert(dim, shape_dim=shape_dim)
    encoder, decoder = ObjectCentredEncoder(config, 32), ObjectCentredDecoder(config, 32)
    r = region_of(slice(8, 20), slice(4, 12))
    colour = torch.tensor([0.2, 0.9, 0.5])[:, None, None]
    x = colour * (r[0] > 0.5) + torch.rand(1, 3, 32, 32) * (r < 0.5)
    loc, log_variance = encode(config, encoder, x, r).chunk(2, 1)
    assert (log_variance < -2).all()
    mean = decoder(loc)[0, :3]
    torch.testing.assert_close(mean, colour.expand_as(mean), atol=0.01, rtol=0)


def test_encoders_see_colours_as_they_differ_from_the_regions_own():
    torch.manual_seed(0)
    config = pose_expert(5)
    encoder = ObjectCentredEncoder(config, 32).double()
    r = region_of(slice(8, 20), slice(4, 12)).double()
    x = 0.5 * torch.rand(1, 3, 32, 32).double()
    with torch.no_grad():  # of learnt weights, all outputs depend on the window
        encoder.head[-1].weight.normal_()
    dark, bright = (encode(config, encoder, a, r) for a in (x, x + 0.3))
    assert not torch.allclose(dark[:, 2:5], bright[:, 2:5])
    torch.testing.assert_close(dark[:, :2], bright[:, :2])
    torch.testing.assert_close(dark[:, 5:], bright[:, 5:])


def test_appearance_latents_leave_the_shape_alone():
    torch.manual_seed(0)
    config = pose_expert(5, shape_dim=3)
    decoder = ObjectCentredDecoder(config, 32)
    torch.nn.init.normal_(decoder.appearance.head.weight)  # starts at zero
    z = torch.randn(1, 5)
    for latent in range(5):
        other = z.clone()
        other[0, latent] += 1
        change = (decoder(other) - decoder(z)).abs().amax((0, 2, 3))
        assert change[:3].max() > 0
        assert (change[3] > 0) == (latent < 3)
    assert decoder(z)[0, 3].logit().mean() < -1  # shape_bias


@pytest.mark.parametrize("pixels", [0.0, 3.0, 2.4])
def test_one_shape_is_drawn_once_and_moved(pixels):
    """As it is drawn at each place: exactly if whole pixels away, far from the image's edge."""
    torch.manual_seed(0)
    decoder = ObjectCentredDecoder(pose_expert(5, shape_dim=2), 32)
    decoder.double()
    torch.nn.init.normal_(decoder.appearance.head.weight)  # starts at zero
    place = PIXEL * torch.tensor([[0.5 + pixels, -0.5], [4.5, -3.5]]).double()
    z = torch.cat(
        [latents_of_position(place, 1.0), torch.randn(2, 3).double()], 1
    ).requires_grad_()
    inside = (..., slice(4, -4), slice(4, -4))
    weights = torch.randn(2, 4, 32, 32).double()[inside]

    def flat(tensors):
        return torch.cat([t.flatten() for t in tensors])

    def run(once):
        decoder.one_shape = once
        out = decoder(z)[inside]
        given = [*decoder.parameters(), z]
        return [out, *torch.autograd.grad((out * weights).sum(), given)]

    assert decoder.one_shape
    *moved, moved_z = run(True)
    *drawn, drawn_z = run(False)
    if pixels == 2.4:
        assert torch.cosine_similarity(flat(moved), flat(drawn), 0) > 0.99
    else:
        torch.testing.assert_close(moved, drawn, rtol=1e-5, atol=1e-4)
    # the slope between two pixels, or on one side of one
    assert torch.cosine_similarity(flat([moved_z[:, :2]]), flat([drawn_z[:, :2]]), 0) > 0.9
    torch.testing.assert_close(moved_z[:, 2:], drawn_z[:, 2:])


@pytest.mark.parametrize("reach", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("size", [16, 33])
def test_one_shape_is_drawn_as_far_as_its_place_may_be(size, reach):
    """The farthest pixels from the farthest places are still on what was drawn."""
    config = pose_expert(5, shape_dim=2, reach=reach)
    decoder = ObjectCentredDecoder(config, size).double()
    farthest = torch.tensor([[reach, reach], [-reach, reach]]).double()
    away = (coordinates(size).double() - farthest[:, :, None, None]).abs().amax() / UNIT
    edge = decoder.wide[0, :2].amax()
    assert away <= edge + 1e-5 and edge < away + 2 * 2 / (size - 1) / UNIT  # two pixels
    step = decoder.wide[0, 0, 1, 0] - decoder.wide[0, 0, 0, 0]
    assert step.item() == pytest.approx(
        2 / (size - 1) / UNIT, rel=1e-4
    )  # the image's own resolution


def test_shapes_drawn_together_are_those_that_each_draws():
    torch.manual_seed(0)
    config = pose_expert(5, shape_dim=2)
    decoders = [ObjectCentredDecoder(config, 16).double() for _ in range(3)]
    together = draw_shapes(decoders)
    weights = torch.randn_like(together[0])
    for decoder, shape in zip(decoders, together, strict=True):
        (alone,) = draw_shapes([decoder])
        own = list(decoder.shape.parameters())
        torch.testing.assert_close(shape, alone)
        torch.testing.assert_close(
            torch.autograd.grad((shape * weights).sum(), own, retain_graph=True),
            torch.autograd.grad((alone * weights).sum(), own),
        )
        z = torch.randn(2, 5).double()
        torch.testing.assert_close(decoder(z, shape), decoder(z))


@pytest.mark.parametrize("shape_dim", [1, 6])
def test_shape_latents_are_some_of_the_latents(shape_dim):
    with pytest.raises(EconError, match=r"2 to 5 for model\.expert\.latents\.shape-dim"):
        PoseLatents(dim=5, shape_dim=shape_dim)


def test_a_new_shape_is_a_blob_about_its_place():
    torch.manual_seed(0)
    decoder = ObjectCentredDecoder(SMALL, 32)
    place = torch.tensor([[0.2, -0.35]])
    z = torch.cat([latents_of_position(place, 1.0), torch.zeros(1, 1)], 1)
    shape = decoder(z)[0, 3]
    found = centre((shape > 0.5).float()[None, None], coordinates(32))
    torch.testing.assert_close(found, place, atol=0.1, rtol=0)
    assert shape.max() > 0.7 and 30 < shape.sum() < 300


def test_the_size_of_a_disc_and_of_a_box_is_told_from_the_region():
    grid = coordinates(256)
    for radius in (0.2, 0.45):
        disc = (grid.square().sum(1, keepdim=True) < radius**2).double() + 1e-9
        size = log_size_of(disc, torch.zeros(1, 2), grid.double()).exp().item()
        assert size * UNIT == pytest.approx(radius, rel=0.02)
        box = (grid.abs().amax(1, keepdim=True) < radius).double() + 1e-9
        size = log_size_of(box, torch.zeros(1, 2), grid.double()).exp().item()
        assert size * UNIT == pytest.approx(radius * 2 / 3**0.5, rel=0.02)


def test_the_size_of_an_ellipse_is_that_of_the_disc_of_its_spread():
    grid = coordinates(256)[0].double()
    y, x = grid
    ellipse = ((y / 0.6).square() + (x / 0.2).square() < 1)[None, None].double() + 1e-9
    size = log_size_of(ellipse, torch.zeros(1, 2), grid[None]).exp().item()
    # mean squared distance from the middle: (a^2 + b^2) / 4, and r^2 / 2 of a disc
    assert size * UNIT == pytest.approx(((0.6**2 + 0.2**2) / 2) ** 0.5, rel=0.02)


def test_what_is_drawn_grows_with_its_size():
    """Without the reach of convolutions, whose 3x3 pixels are of one size."""
    torch.manual_seed(0)
    config = pose_expert(5, size=True, shape_dim=3)
    decoder = ObjectCentredDecoder(config, 33).double()
    for block in decoder.shape.blocks:
        if isinstance(block, torch.nn.Conv2d):  # the middle of each kernel alone
            kept = block.weight.data[..., 1:2, 1:2].clone()
            block.weight.data.zero_()[..., 1:2, 1:2] = kept
    other = torch.tensor([0.3, -0.2], dtype=torch.double)
    small, large = (
        torch.cat([torch.zeros(2), torch.tensor([log_size]), other])[None].double()
        for log_size in (-0.4, -0.4 + math.log(2))
    )
    a, b = decoder(small), decoder(large)
    torch.testing.assert_close(a[..., 8:25, 8:25], b[..., ::2, ::2])
    assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize("shape_dim", [None, 3])
def test_no_size_is_so_far_out_that_drawing_overflows(shape_dim):
    torch.manual_seed(0)
    decoder = ObjectCentredDecoder(pose_expert(5, size=True, shape_dim=shape_dim), 32)
    z = torch.zeros(4, 5)
    z[:, 2] = torch.tensor([-100.0, -5.0, 5.0, 100.0])
    z.requires_grad_()
    drawn = decoder(z)
    assert drawn.isfinite().all()
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    drawn.sum().backward()
    assert all(p.grad.isfinite().all() for p in [z, *decoder.parameters()])


def test_a_new_encoder_is_about_the_size():
    torch.manual_seed(0)
    encoder, grid = ObjectCentredEncoder(SIZED, 32), coordinates(32)
    r = torch.full((2, 1, 32, 32), 1e-5)
    r[0, 0, :8, :8] = 1
    r[1, 0, 10:28, 10:30] = 1
    out = encode(SIZED, encoder, torch.rand(2, 3, 32, 32), r)
    assert out.shape == (2, 8)
    torch.testing.assert_close(out[:, 2:3], log_size_of(r, centre(r, grid), grid))


def test_a_size_is_a_latent_of_its_own():
    with pytest.raises(EconError, match="at least 4 latents"):
        PoseLatents(dim=3, size=True)
    expected = "3 to 5 for model.expert.latents.shape-dim, got 2.*the size is one of them"
    with pytest.raises(EconError, match=expected):
        PoseLatents(dim=5, size=True, shape_dim=2)
