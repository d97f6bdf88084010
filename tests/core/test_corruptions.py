"""Corruptions of images, against plain references and by what they are defined to keep."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from econ_pyro import limits
from econ_pyro.config import AugmentConfig
from econ_pyro.core import corruptions
from econ_pyro.core.corruptions import (
    KINDS,
    augment,
    blur,
    contrast,
    corrupt,
    jpeg,
    noise,
    outline,
    shading,
    speckle,
    take_colour,
    texture,
)
from econ_pyro.errors import EconError

STRONG = {
    "grey": 1.0, "texture": 0.3, "shading": 0.5, "outline": 0.8, "contrast": 0.4, "blur": 1.5,
    "speckle": 0.2, "noise": 0.1, "jpeg": 40.0,
}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(4, 3, 16, 24, generator=generator(7))


@pytest.fixture
def regions():
    """Two objects and the background of four images; a third layer is empty."""
    r = torch.zeros(4, 4, 1, 16, 24)
    r[:, 0, :, 3:9, 5:12] = 1
    r[:, 1, :, 7:14, 10:20] = 1
    r[:, 1] *= 1 - r[:, 0]
    r[:, 3] = 1 - r.sum(1)
    return r


def grey(n=1, size=16, value=0.5, dtype=torch.float64):
    return torch.full((n, 3, size, size), value, dtype=dtype)


def test_noise_has_its_standard_deviation_in_each_image():
    sd = torch.tensor([0.01, 0.02, 0.05])
    change = noise(grey(3, 128), sd, generator()) - 0.5
    torch.testing.assert_close(change.std((1, 2, 3)), sd.double(), rtol=0.02, atol=0)
    assert change.mean().abs() < 1e-3
    corner = change.flatten(1)
    assert np.abs(np.corrcoef(corner) - np.eye(3)).max() < 0.02  # other noise for each image


def test_speckle_is_noise_in_proportion_to_the_image():
    dark, bright = grey(1, 128, 0.1), grey(1, 128, 0.4)
    sd = [(speckle(x, 0.2, generator()) - x).std().item() for x in (dark, bright)]
    assert sd == pytest.approx([0.02, 0.08], rel=0.02)


@pytest.mark.parametrize("quality", [1, 50, 90, 100])
def test_jpeg_is_pillows(x, quality):
    out = jpeg(x, quality)
    for before, after in zip(x, out, strict=True):
        array = (before.permute(1, 2, 0) * 255).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer))
        assert np.array_equal((after.permute(1, 2, 0) * 255).round().numpy(), expected)


def test_each_image_has_its_own_jpeg_quality(x):
    out = jpeg(x, torch.tensor([5.0, 95.0, 50.4, 49.6]))
    for i, quality in enumerate((5, 95, 50, 50)):
        assert torch.equal(out[i], jpeg(x[i : i + 1], quality)[0])


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7, 30.0])
def test_blur_is_scipys(x, sigma):
    x = x.double()
    expected = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4)
    torch.testing.assert_close(blur(x, sigma), torch.from_numpy(expected))


def test_blur_keeps_the_mean_and_constant_images(x):
    x = x.double()
    sigma = torch.tensor([0.0, 0.3, 1.0, 8.0])
    out = blur(x, sigma)
    torch.testing.assert_close(out.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(out[0], x[0])
    torch.testing.assert_close(blur(grey(4), sigma), grey(4))
    variance = out.var((2, 3)) / x.var((2, 3))
    assert (variance.diff(dim=0) < 0).all()


def test_contrast_is_about_the_mean_colour():
    x = torch.tensor([0.2, 0.4, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 2)
    x[..., 1] += torch.tensor([0.4, 0.0, 1.0]).view(1, 3, 1)
    expected = torch.tensor([[0.3, 0.5], [0.4, 0.4], [0.25, 0.75]]).view(1, 3, 1, 2)
    torch.testing.assert_close(contrast(x, 0.5), expected)
    factors = torch.tensor([1.0, 0.0])
    both = contrast(torch.cat([x, x]), factors)
    torch.testing.assert_close(both[0], x[0])
    torch.testing.assert_close(both[1], x[0].mean(2, keepdim=True).expand_as(x[0]))


@pytest.mark.parametrize("opacity", [1.0, 0.25])
def test_the_outline_of_a_square_is_its_outermost_pixels(opacity):
    square = np.zeros((16, 16), dtype=bool)
    square[4:9, 6:13] = True
    inner = np.zeros_like(square)
    inner[5:8, 7:12] = True
    r = torch.from_numpy(np.stack([square, np.zeros_like(square), ~square])).double()
    x = torch.rand(20, 3, 16, 16, dtype=torch.float64, generator=generator())
    out = outline(x, r[None, :, None].expand(20, -1, -1, -1, -1), opacity, generator())
    contour = torch.from_numpy(square & ~inner)
    assert torch.equal(out[:, :, ~contour], x[:, :, ~contour])
    drawn, before = out[:, :, contour].flatten(1), x[:, :, contour].flatten(1)
    black = (drawn < before).all(1)
    assert 4 <= black.sum() <= 16
    colour = (~black).double()[:, None]
    torch.testing.assert_close(drawn, before + opacity * (colour - before))


def test_an_outline_lies_in_the_region_in_front(regions):
    soft = 0.2 + 0.5 * regions  # pixels belong to the most probable region
    out = outline(torch.full((4, 3, 16, 24), 0.5), soft, 1.0, generator())
    drawn = (out[0, 0] != 0.5).nonzero()
    front, behind = regions[0, 0, 0].bool(), regions[0, 1, 0].bool()
    expected = set()
    for i in range(16):
        for j in range(24):
            if front[i, j] and (i in (3, 8) or j in (5, 11)):
                expected.add((i, j))
            # the second object's pixels beside the first are no contour
            if behind[i, j] and (i in (7, 13) or j in (10, 19)):
                expected.add((i, j))
    assert {tuple(p) for p in drawn.tolist()} == expected


def test_a_texture_keeps_the_mean_of_every_region(regions):
    # away from 0 and 1, so that nothing is clamped
    x = 0.5 + torch.zeros(4, 3, 16, 24, dtype=torch.float64)
    out = texture(x, regions, 0.2, generator())
    change = out - x
    assert change.abs().max() <= 0.4
    for t in (0, 1, 3):
        own = regions[:, t].double()
        mean = (own * change).sum((2, 3)) / own.sum((2, 3))
        torch.testing.assert_close(mean, torch.zeros_like(mean))
        assert (own * change).abs().amax((2, 3)).min() > 0  # in each image and channel
    assert (change.abs().amax(0) > 0).float().mean() > 0.99


def test_textures_differ_between_regions_and_images():
    """Two regions that share every pixel equally: each has half of a texture of its own."""
    x = grey(40)
    both = torch.full((40, 2, 1, 16, 16), 0.5)
    only = both.clone()
    only[:, 1] = 0
    first = texture(x, only, 0.2, generator()) - x
    second = texture(x, both, 0.2, generator()) - x - first
    rows = torch.cat([first, second])[:, 0].flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True)
    similar = (rows @ rows.T - torch.eye(80)).abs()
    assert similar.mean() < 0.15


def test_textures_are_stripes_checkers_and_noise():
    levels = [
        len((texture(grey(), torch.ones(1, 1, 1, 16, 16), 0.2, generator(i))[0, 0]).unique())
        for i in range(60)
    ]
    two = sum(n <= 3 for n in levels)  # stripes and checkers have two values, and rarely 0
    assert 25 <= two <= 55 and 5 <= sum(n > 100 for n in levels) <= 35


def test_the_period_of_stripes_is_within_its_limits():
    found = 0
    for i in range(60):
        out = texture(grey(1, 64), torch.ones(1, 1, 1, 64, 64), 0.2, generator(i))[0, 0]
        spectrum = torch.fft.fft2(out - out.mean()).abs() ** 2
        if len(out.unique()) > 3 or spectrum.max() / spectrum.sum() < 0.2:
            continue  # noise, or checkers
        peak = divmod(int(spectrum.argmax()), 64)
        frequency = math.hypot(*(min(f, 64 - f) / 64 for f in peak))
        assert 1 / 6.5 - 0.02 <= frequency <= 1 / 2.5 + 0.02
        found += 1
    assert found >= 10


def test_shading_is_a_plane_within_each_region_and_keeps_its_mean(regions):
    x = grey(4, 24)[:, :, :16] * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    factor = shading(x, regions, 0.3, generator()) / x
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))  # of all channels alike
    found = []
    for b in range(4):
        for t in (0, 1, 3):
            i, j = regions[b, t, 0].nonzero().double().unbind(1)
            values = factor[b, 0][regions[b, t, 0].bool()]
            plane = torch.stack([torch.ones_like(i), i, j], 1)
            fit = torch.linalg.lstsq(plane, values[:, None]).solution
            torch.testing.assert_close((plane @ fit)[:, 0], values)
            assert values.mean().item() == pytest.approx(1)
            found.append((values - 1).abs().max().item())
    assert max(found) <= 0.3 and len({round(f, 6) for f in found}) == len(found)


def test_objects_lose_their_colour(regions):
    """A share of them, each wholly, with one brightness; the background keeps its own."""
    x = torch.rand(4, 3, 1, 1, generator=generator(3)).double() * 0.4 + 0.05
    x = x.expand(-1, -1, 16, 24)
    lost = 0
    for i in range(20):
        out = take_colour(x, regions, 0.3, generator(i))
        assert torch.equal(out * regions[:, 3], x * regions[:, 3])
        for b in range(4):
            for t in (0, 1):
                inside = regions[b, t, 0].bool()
                own = out[b][:, inside]
                if torch.equal(own, x[b][:, inside]):
                    continue
                lost += 1
                assert own.std() < 1e-9  # one grey
                before = (x[b, :, 0, 0].max() + x[b, :, 0, 0].mean()) / 2
                assert 0.3 < own.mean() / before < 3.0
    assert 30 < lost < 66  # of 160
    grey = take_colour(x, regions, 1.0, generator()) * (1 - regions[:, 3])
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))
    assert torch.equal(take_colour(x, regions, 0.0, generator()), x)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_makes_no_corruption_coarser(x, regions, kind):
    outside = corrupt(x, {kind: STRONG[kind]}, regions, generator())
    with torch.autocast("cpu", torch.bfloat16):
        within = corrupt(x, {kind: STRONG[kind]}, regions, generator())
    assert torch.equal(outside, within)


def test_an_empty_region_changes_nothing():
    r = torch.zeros(2, 3, 1, 16, 16)
    r[:, 2] = 1
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(outline(x, r, 1.0), x)
    for kind in (texture, shading):
        assert kind(x, r, 0.2).isfinite().all()
        assert torch.equal(kind(x, torch.zeros_like(r), 0.2), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_an_image_of_the_same_type(x, regions, kind, dtype):
    x = (1.4 * x - 0.2).clamp(0, 1).to(dtype)
    before = x.clone()
    out = corrupt(x, {kind: STRONG[kind]}, regions, generator())
    assert out.dtype == dtype and out.shape == x.shape
    assert 0 <= out.min() and out.max() <= 1
    assert torch.equal(x, before) and not torch.equal(out, x)
    exact = corrupt(before.double(), {kind: STRONG[kind]}, regions, generator())
    if kind not in ("texture", "jpeg"):  # whose signs and integers depend on the last bit
        close = {torch.bfloat16: 5e-3, torch.float16: 1e-3}.get(dtype, 1e-5)
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=close)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weakest_strength_changes_little_and_a_batch_may_be_empty(x, regions, kind):
    smooth = blur(x, 4.0)  # chroma has half the resolution in JPEG
    out = corrupt(smooth, {kind: KINDS[kind].mild}, regions)
    assert (out - smooth).abs().max() < (0.02 if kind == "jpeg" else 1e-6)
    assert corrupt(x[:0], {kind: STRONG[kind]}, regions[:0]).shape == (0, 3, 16, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_is_all_the_randomness(x, regions, kind):
    state = torch.get_rng_state()
    first, same, other = (
        corrupt(x, {kind: STRONG[kind]}, regions, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert torch.equal(first, other) == (kind in ("contrast", "blur", "jpeg"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)  # without a generator, torch's own
    assert torch.equal(corrupt(x, {kind: STRONG[kind]}, regions), first)


def test_several_are_applied_as_a_camera_would(x, regions):
    g = generator()
    expected = noise(blur(outline(x, regions, 0.5, g), 1.0), 0.1, g)
    asked = {"noise": 0.1, "blur": 1.0, "outline": 0.5}
    assert torch.equal(corrupt(x, asked, regions, generator()), expected)
    assert torch.equal(corrupt(x, {}), x)


def test_errors_say_what_is_missing(x, regions):
    with pytest.raises(EconError, match=r"texture, .*, jpeg, got 'fog'"):
        corrupt(x, {"fog": 1.0})
    for act in (
        lambda: corrupt(x, {"outline": 1.0}),
        lambda: augment(x, None, AugmentConfig(outline=0.5)),
    ):
        with pytest.raises(EconError, match="regions of the objects, for outline, got none"):
            act()
    for wrong in (
        regions[:2],
        regions[:, :, 0],
        regions[..., :8],
        regions.expand(4, 4, 3, 16, 24),
    ):
        with pytest.raises(EconError, match=r"regions \(4, T, 1, 16, 24\), got"):
            corrupt(x, {"texture": 0.1}, wrong)


STRONGEST = AugmentConfig(
    grey=1.0, texture=0.3, shading=0.5, outline=0.8, contrast=0.4, blur=1.5, noise=0.1, jpeg=40
)


def test_augmentation_has_every_kind_but_those_kept_for_tests():
    fields = set(vars(AugmentConfig())) - {"share", "start"}
    assert fields == set(KINDS) - {"speckle"}
    assert set(limits.CORRUPTIONS) == set(KINDS)
    assert list(vars(AugmentConfig()))[2:] == [kind for kind in KINDS if kind != "speckle"]


def test_nothing_is_augmented_by_default(x):
    state = torch.get_rng_state()
    both = augment(x, None, AugmentConfig())
    assert both.seen is x and both.explained is x
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augment(x, None, AugmentConfig(share=0.0, noise=0.5)).seen, x)


def test_each_kind_is_applied_to_its_part_of_the_share(monkeypatch):
    """Counted by what each kind is given, for all mixtures of three kinds."""
    seen = {}

    def spy(name, kind):
        def apply(x, regions, strength, g):
            assert len(x) == len(strength) == len(regions)
            seen[name] = dict(
                zip(regions[:, 0, 0, 0, 0].int().tolist(), strength.tolist(), strict=True)
            )
            return x.clone()

        return kind._replace(apply=apply)

    spies = {name: spy(name, kind) for name, kind in KINDS.items()}
    monkeypatch.setattr(corruptions, "KINDS", spies)
    n = 4000
    x = torch.zeros(n, 3, 1, 1)
    number = torch.arange(n).float().view(n, 1, 1, 1, 1)
    config = AugmentConfig(share=0.6, contrast=0.2, noise=0.1, jpeg=30)
    augment(x, number, config, generator())
    assert list(seen) == ["contrast", "noise", "jpeg"]
    for given, (low, high) in zip(seen.values(), ((0.2, 1), (0, 0.1), (30, 100)), strict=True):
        values = np.array(list(given.values()))
        assert low <= values.min() and values.max() <= high
        expected = np.linspace(low, high, 5)[1:4]
        assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx(expected, abs=0.05 * high)
    mixtures = np.array([[i in given for given in seen.values()] for i in range(n)])
    counts = np.bincount(mixtures @ [1, 2, 4], minlength=8) / n
    p = (0.5, 0.25, 0.25)  # of contrast, noise and jpeg
    expected = [
        0.6 * math.prod(q if i >> j & 1 else 1 - q for j, q in enumerate(p)) for i in range(8)
    ]
    expected[0] += 0.4
    assert counts == pytest.approx(expected, abs=0.02)


def test_augmented_images_are_the_same_again_and_clean_ones_among_them(regions):
    x = torch.rand(100, 3, 16, 24)
    many = regions[:1].expand(100, -1, -1, -1, -1)
    before, state = x.clone(), torch.get_rng_state()
    out, explained = augment(x, many, STRONGEST, generator())
    assert torch.equal(augment(x, many, STRONGEST, generator()).seen, out)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    clean = (out == x).flatten(1).all(1).float().mean()
    assert 0.2 < clean < 0.55 and 0 <= out.min() and out.max() <= 1
    assert augment(x.double(), many, STRONGEST, generator()).seen.dtype == torch.float64
    assert augment(x[:0], many[:0], STRONGEST).seen.shape == (0, 3, 16, 24)


def test_only_contrast_changes_what_is_explained(regions):
    x = torch.rand(100, 3, 16, 24)
    many = regions[:1].expand(100, -1, -1, -1, -1)
    seen, explained = augment(x, many, STRONGEST, generator())
    others = dataclasses.replace(STRONGEST, contrast=None)
    assert torch.equal(augment(x, many, others, generator()).explained, x)
    alone = AugmentConfig(share=STRONGEST.share, contrast=STRONGEST.contrast)
    seen, explained = augment(x, None, alone, generator())
    assert torch.equal(seen, explained) and not torch.equal(seen, x)
    mean = explained.mean((2, 3))
    torch.testing.assert_close(mean, x.mean((2, 3)))
