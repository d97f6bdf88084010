r"""Corruptions of images, for augmentation in training and for evaluation.

They are common corruptions (Hendrycks & Dietterich, 2019) with a continuous strength, and four
that follow objects, for which soft regions are given. In the order of :data:`KINDS`, in which a
scene and then a camera cause them:

- ``grey`` takes the colour of objects; the share of the objects that lose it.
- ``texture`` lays stripes, checkers or noise over each region; strength: largest amplitude.
- ``shading`` lays a linear gradient of brightness over each region; largest relative amplitude.
- ``outline`` draws a contour one pixel wide in black or white; opacity.
- ``contrast`` gives :math:`\bar x + c\,(x - \bar x)` about the mean colour; the factor :math:`c`.
- ``blur`` convolves with a Gaussian; its standard deviation in pixels.
- ``speckle`` gives :math:`x + x\,\epsilon` with Gaussian :math:`\epsilon`; its standard deviation.
- ``noise`` gives :math:`x + \epsilon` with Gaussian :math:`\epsilon`; its standard deviation.
- ``jpeg`` compresses; the quality.

A strength is one number, or one per image. All functions compute in float32 or more, clamp to
[0, 1] and return the type of ``x``. Random numbers come from a generator, on whose device they are
drawn, so that a CPU generator gives the same images on every device; without one, they come from
torch's own generator on the device of ``x``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from econ_pyro.config import AugmentConfig
from econ_pyro.errors import EconError, describe

P = ParamSpec("P")
Strength: TypeAlias = "float | Tensor"
"""One number, or one per image, ``(B,)``."""

PERIODS = (2.5, 6.5)
"""Minimum and maximum period of stripes and checkers in pixels."""
GLOOM = 0.3  # standard deviation of the log of an object's brightness
EPS = 1e-6  # lower bound of denominators, for empty regions


def _corruption(
    change: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Compute in float32 or more, also under autocast, clamp, and return the type of ``x``."""

    @wraps(change)
    @torch.no_grad()
    def changed(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):  # matrix products in bfloat16 else
            return change(wide, *args, **kwargs).clamp(0, 1).to(x.dtype)

    return changed


@_corruption
def take_colour(
    x: Tensor, regions: Tensor, share: Strength, generator: Generator | None = None
) -> Tensor:
    """Take the colour of some objects, chosen at random, and change their brightness.

    A pixel becomes grey, as bright as its own mean of brightest and mean channel; the brightness
    of an object is multiplied by a factor that is log-normal, with a standard deviation of GLOOM.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        regions: soft regions, the background last, which keeps its colour, ``(B, T, 1, H, W)``.
        share: of the objects.
        generator: source of random numbers.
    """
    r = regions[:, :-1].to(x)
    chosen = _uniform(x, tuple(r.shape[:2]), generator) < _per_image(share, x)[:, :, 0, 0]
    factor = (GLOOM * _normal(x, tuple(r.shape[:2]), generator)).exp()
    mask = r * chosen[:, :, None, None, None]
    lit = (mask * factor[:, :, None, None, None]).sum(1)
    value = (x.amax(1, keepdim=True) + x.mean(1, keepdim=True)) / 2
    return x * (1 - mask.sum(1)) + value * lit


@_corruption
def texture(
    x: Tensor, regions: Tensor, amplitude: Strength, generator: Generator | None = None
) -> Tensor:
    """Lay stripes, checkers or noise over each region.

    Pattern, period, angle and phase are random, and so is the amplitude of each channel, which is
    uniform up to the given one. The mean of a pattern over its region is 0.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        regions: soft regions, the background's as well, ``(B, T, 1, H, W)``.
        amplitude: largest amplitude.
        generator: source of random numbers.
    """
    r = regions[:, :, 0].to(x)
    angle, period, phase, other_phase, kind = (
        u[:, :, None, None] for u in _uniform(x, (5, *r.shape[:2]), generator)
    )
    low, high = PERIODS
    frequency = 2 * math.pi / (low + (high - low) * period)
    along, across = _rotated(r, 2 * math.pi * angle)
    stripes = (along * frequency + 2 * math.pi * phase).sin().sign()
    checkers = stripes * (across * frequency + 2 * math.pi * other_phase).sin().sign()
    grain = _normal(x, tuple(r.shape), generator).clamp(-1, 1)
    pattern = torch.where(kind < 1 / 3, stripes, torch.where(kind < 2 / 3, checkers, grain))
    share = _uniform(x, (*r.shape[:2], 3), generator)
    colour = _per_image(amplitude, x)[:, 0] * share  # (B, T, 3)
    return x + torch.einsum("btc,bthw->bchw", colour, r * (pattern - _mean(r, pattern)))


@_corruption
def shading(
    x: Tensor, regions: Tensor, amplitude: Strength, generator: Generator | None = None
) -> Tensor:
    """Multiply each region by a linear gradient of random direction, as light from one side does.

    The factor's mean over a region is 1. The amplitude is uniform up to the given one, in each
    region. For the arguments see :func:`texture`.
    """
    r = regions[:, :, 0].to(x)
    angle, share = (u[:, :, None, None] for u in _uniform(x, (2, *r.shape[:2]), generator))
    along, _ = _rotated(r, 2 * math.pi * angle)
    gradient = along - _mean(r, along)
    gradient = gradient / (r * gradient.abs()).amax((2, 3), keepdim=True).clamp_min(EPS)
    change = _per_image(amplitude, x) * share * gradient
    return x * (1 + (r * change).sum(1, keepdim=True))


@_corruption
def outline(
    x: Tensor, regions: Tensor, opacity: Strength, generator: Generator | None = None
) -> Tensor:
    """Draw a contour around each region but the last, black or white at random for each image.

    The contour is one pixel wide and lies within the region in front: on the pixels that have an
    upper, lower, left or right neighbour in a later region. A pixel belongs to its most probable
    region.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        regions: soft regions, front to back, the background last, ``(B, T, 1, H, W)``.
        opacity: 0 for no contour, 1 for a black or white one.
        generator: source of random numbers.
    """
    layer = regions[:, :, 0].to(x).max(1).indices  # (B, H, W); ten times faster than argmax
    contour = torch.zeros_like(layer, dtype=torch.bool)
    for axis in (1, 2):
        step = layer.diff(dim=axis)
        contour.narrow(axis, 0, step.shape[axis]).logical_or_(step > 0)
        contour.narrow(axis, 1, step.shape[axis]).logical_or_(step < 0)
    colour = (_uniform(x, (len(x),), generator) < 0.5).to(x)
    return x + _per_image(opacity, x) * contour[:, None] * (_per_image(colour, x) - x)


@_corruption
def contrast(x: Tensor, factor: Strength) -> Tensor:
    """Scale the difference from the image's mean colour, as Hendrycks & Dietterich (2019) do.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        factor: 1 leaves the image as it is, 0 leaves its mean colour.
    """
    mean = x.mean((2, 3), keepdim=True)
    return mean + _per_image(factor, x) * (x - mean)


@_corruption
def blur(x: Tensor, sigma: Strength) -> Tensor:
    """Convolve with a Gaussian; at the borders, the image is mirrored, which keeps its mean.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        sigma: standard deviation in pixels. The kernel ends at four standard deviations.
    """
    sd = _per_image(sigma, x)[:, 0].expand(len(x), 1, 1)
    radius = int(4 * max(sd.flatten().tolist(), default=0.0) + 0.5)
    offset = torch.arange(-radius, radius + 1, device=x.device)
    kernel = (-0.5 * (offset / sd.clamp_min(EPS)) ** 2).exp()  # (B, 1, 2 radius + 1)
    kernel = kernel / kernel.sum(2, keepdim=True)

    def matrix(n: int) -> Tensor:
        """The convolution of a mirrored signal of n values, ``(B, 1, n, n)``."""
        source = (torch.arange(n, device=x.device)[:, None] + offset) % (2 * n)
        source = torch.minimum(source, 2 * n - 1 - source).expand(len(x), -1, -1)
        weights = kernel.expand(-1, n, -1)
        return x.new_zeros(len(x), n, n).scatter_add_(2, source, weights)[:, None]

    return matrix(x.shape[2]) @ x @ matrix(x.shape[3]).mT


@_corruption
def speckle(x: Tensor, sd: Strength, generator: Generator | None = None) -> Tensor:
    """Add Gaussian noise in proportion to the image; for the arguments see :func:`noise`."""
    return x + x * _per_image(sd, x) * _normal(x, tuple(x.shape), generator)


@_corruption
def noise(x: Tensor, sd: Strength, generator: Generator | None = None) -> Tensor:
    """Add Gaussian noise, independent for each pixel and channel.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        sd: standard deviation.
        generator: source of random numbers.
    """
    return x + _per_image(sd, x) * _normal(x, tuple(x.shape), generator)


@_corruption
def jpeg(x: Tensor, quality: Strength) -> Tensor:
    """Compress each image as Pillow does by default, with halved resolution of the chroma.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        quality: from 1 to 100, rounded to a whole number.
    """
    qualities = _per_image(quality, x).expand(len(x), 1, 1, 1).flatten().round().int().tolist()
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.empty_like(pixels)
    for i, q in enumerate(qualities):
        buffer = io.BytesIO()
        Image.fromarray(pixels[i]).save(buffer, "JPEG", quality=q)
        with Image.open(buffer) as image:
            decoded[i] = np.asarray(image)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x) / 255


class Kind(NamedTuple):
    """A kind of corruption."""

    apply: Callable[[Tensor, Tensor | None, Strength, Generator | None], Tensor]
    """Function of images, regions, strength and generator."""
    mild: float = 0.0
    """The weakest strength."""
    needs_regions: bool = False
    """Whether it follows objects."""
    probability: float = 0.25
    """Probability of its use in :func:`augment`."""


def _of_regions(
    kind: Callable[[Tensor, Tensor, Strength, Generator | None], Tensor],
    probability: float = 0.25,
) -> Kind:
    def apply(x: Tensor, r: Tensor | None, strength: Strength, g: Generator | None) -> Tensor:
        assert r is not None
        return kind(x, r, strength, g)

    return Kind(apply, needs_regions=True, probability=probability)


KINDS = {
    "grey": _of_regions(take_colour, probability=0.5),
    "texture": _of_regions(texture),
    "shading": _of_regions(shading),
    "outline": _of_regions(outline),
    "contrast": Kind(lambda x, _, c, __: contrast(x, c), mild=1.0, probability=0.5),
    "blur": Kind(lambda x, _, sigma, __: blur(x, sigma)),
    "speckle": Kind(lambda x, _, sd, generator: speckle(x, sd, generator)),
    "noise": Kind(lambda x, _, sd, generator: noise(x, sd, generator)),
    "jpeg": Kind(lambda x, _, quality, __: jpeg(x, quality), mild=100.0),
}
"""All kinds, in the order in which :func:`corrupt` and :func:`augment` apply them."""


def corrupt(
    x: Tensor,
    strengths: Mapping[str, Strength],
    regions: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Apply several corruptions, in the order of :data:`KINDS`.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        strengths: strength of each kind.
        regions: soft regions, front to back, the background last, ``(B, T, 1, H, W)``, for the
            kinds that follow objects.
        generator: source of random numbers.

    Raises:
        EconError: there is no such kind, or it needs regions and there are none.
    """
    _check(x, strengths, regions)
    for name, kind in KINDS.items():
        if name in strengths:
            x = kind.apply(x, regions, strengths[name], generator)
    return x


class Augmented(NamedTuple):
    """Images for training, ``(B, 3, H, W)`` each."""

    seen: Tensor
    """What networks see."""
    explained: Tensor
    """What they are to explain: clean, but for the contrast. Colours of less contrast are other
    colours, which nothing in the image tells apart."""


def augment(
    x: Tensor, regions: Tensor | None, config: AugmentConfig, generator: Generator | None = None
) -> Augmented:
    """Corrupt images at random: none, some or all of the configured kinds, of random strengths.

    A share of the images is drawn to be corrupted. Each kind is applied to each of them with
    probability 1/4, contrast and grey with 1/2, at a strength that is uniform between the weakest
    and the configured one.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        regions: as for :func:`corrupt`.
        config: kinds, and the strongest corruption of each.
        generator: source of random numbers.

    Returns:
        Both ``x`` itself if no kind is configured.

    Raises:
        EconError: a configured kind needs regions and there are none.
    """
    strongest = {kind: getattr(config, kind) for kind in config.kinds}
    if not strongest:
        return Augmented(x, x)
    _check(x, strongest, regions)
    out, explained, n = x.clone(), x.clone(), len(x)
    corrupted = _uniform(x, (n,), generator) < config.share
    for name, kind in KINDS.items():
        if name not in strongest:
            continue
        chance, u = _uniform(x, (2, n), generator)
        i = (corrupted & (chance < kind.probability)).nonzero()[:, 0]
        strength = kind.mild + (strongest[name] - kind.mild) * u[i]
        own = None if regions is None else regions[i]
        out[i] = kind.apply(out[i], own, strength, generator)
        if name == "contrast":
            explained[i] = kind.apply(explained[i], own, strength, generator)
    return Augmented(out, explained)


def _check(x: Tensor, kinds: Iterable[str], regions: Tensor | None) -> None:
    for name in kinds:
        if name not in KINDS:
            raise EconError(f"a corruption among {', '.join(KINDS)}", describe(name))
        if KINDS[name].needs_regions:
            if regions is None:
                raise EconError(f"regions of the objects, for {name}", "none", f"omit {name}")
            b, _, h, w = x.shape
            if regions.ndim != 5 or regions.shape != (b, regions.shape[1], 1, h, w):
                raise EconError(f"regions ({b}, T, 1, {h}, {w})", str(tuple(regions.shape)))


def _per_image(strength: Strength, x: Tensor) -> Tensor:
    """A strength to multiply images with, ``(B, 1, 1, 1)`` or ``(1, 1, 1, 1)``."""
    return torch.as_tensor(strength, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)


def _uniform(x: Tensor, shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    device = x.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(x)


def _normal(x: Tensor, shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    device = x.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device).to(x)


def _rotated(r: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in pixels along an axis of that angle and across it, ``(B, T, H, W)`` each."""
    y, x = (torch.arange(n, device=r.device, dtype=r.dtype) for n in r.shape[2:])
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y[:, None], cos * y[:, None] - sin * x


def _mean(r: Tensor, values: Tensor) -> Tensor:
    """Mean over each region, ``(B, T, 1, 1)``; 0 over an empty one."""
    total = r.sum((2, 3), keepdim=True)
    return (r * values).sum((2, 3), keepdim=True) / total.clamp_min(EPS)
