r"""Features by which pixels group, learnt before training from objects that colour tells apart.

Regions grow over pixels of like features (:mod:`econ_pyro.guides.region_growing`), at first
colour and place. Where an object differs from the ground in brightness alone, shade and shadow
differ as much, and regions grow past it. Most objects of a set may well differ in colour, though:
growth finds them, and what else is common to objects (edges, shading, outline) can be learnt from
them, on images in which some have lost their colour, or have been shaded or textured
(:func:`econ_pyro.core.corruptions.augment`).

From the layers r that colour tells apart, t is drawn uniformly, the background included, and a
pixel i of it. The region a(i) that grows from i in the corrupted image is to be that layer:

.. math:: \mathbb{E}_{t, \, i \in r_t} \Bigl[ \frac{1}{|r_t|} \sum_j
          KL(r_{tj} \| a_j(i)) \Bigr]

So features of pixels of one layer come to lie within the reach of growth from each other, and
those of other layers outside. It is the loss of semi-convolutional embeddings (Novotny et al.,
2018) with growth's own logit, and regions of the model's own in place of labels. Where regions
grow from means (:func:`~econ_pyro.guides.region_growing.grow`), the mean of the layer takes the
place of every second pixel.

Where all is textured, layers are leaves of textures (:mod:`econ_pyro.training.texture_lessons`).
Where objects have several colours on a ground of one, they are objects cut out of images
(:mod:`econ_pyro.training.cutout_lessons`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.config import AugmentConfig
from econ_pyro.core.compositing import mean_over, with_log
from econ_pyro.core.corruptions import augment
from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.core.pixel_features import logits_around
from econ_pyro.guides.seeded import SeedsAlone
from econ_pyro.training.shape_clusters import SMALLEST, mean_of_last

WORTH = 50.0  # nats that an object saves beside the background's colour: latents cost about 20
THICK = 0.15  # share of an object's pixels of which all neighbours are its own
AT_ONCE = 64  # images
BATCH, SEEDS = 8, 8  # images of a step, pixels of each
RATE, WARMUP, CLIP = 2e-3, 50, 1.0
SLIVER = 12  # pixels: less of a layer is no layer of a scene put together


class Layers(NamedTuple):
    """Images whose layers are known: what colour tells apart, or what was put there."""

    image: Tensor
    """``(B, 3, H, W)``."""
    labels: Tensor
    """Layer of each pixel: 0 is the background, -1 unknown, ``(B, H, W)`` int64."""

    def regions(self, count: int) -> Tensor:
        """Of so many layers, the background and what is unknown last, ``(B, count, 1, H, W)``."""
        each = F.one_hot(self.labels.clamp(min=0), count).permute(0, 3, 1, 2)[:, :, None]
        return each.roll(-1, 1).to(self.image)

    def some(self, n: int, generator: torch.Generator) -> Layers:
        """So many of the images, drawn at random."""
        i = torch.randint(len(self.image), (n,), generator=generator)
        return Layers(self.image[i], self.labels[i])


Lesson = Callable[[int, torch.Generator], Layers]
"""Gives so many images at random."""
Phi = Callable[[Tensor, Tensor], Tensor]
"""Features of an attention network, and images, to the features over which regions grow."""


def _as_they_are(features: Tensor, x: Tensor) -> Tensor:
    return features


@torch.no_grad()
def layers_by_colour(x: Tensor, seeds: SeedsAlone, slots: int, noise: PixelNoise) -> Layers:
    """Objects that growth over colour finds, each of which saves nats.

    Each region is drawn in its mean colour, and the largest is the background. A region is an
    object if its own colour explains its pixels better than the background's, by more than WORTH
    nats, and if it is no mere edge: mixed pixels of two objects are alike, too. What else differs
    from the background is unknown.

    Args:
        x: images, ``(B, 3, H, W)`` in [0, 1].
        seeds: from which regions grow.
        slots: number of layers T: so many regions grow.
        noise: of pixels.
    """
    return Layers(x, torch.cat([_labels(x_i, seeds, slots, noise) for x_i in x.split(AT_ONCE)]))


def _labels(x: Tensor, seeds: SeedsAlone, slots: int, noise: PixelNoise) -> Tensor:
    _, grown = seeds.candidates(x, torch.ones_like(x[:, :1]), slots)
    inside = grown[:, :, 0] > 0.5  # (B, T, 1, H, W)
    first = inside & (inside.cumsum(1) == 1)
    r = torch.cat([first, ~inside.any(1, keepdim=True)], 1)
    area = r.sum((2, 3, 4))
    largest = area.argmax(1)[:, None]
    soft = r.to(x)
    own = mean_over(soft.flatten(0, 1), x.repeat_interleave(slots + 1, 0)).unflatten(
        0, (-1, slots + 1)
    )
    colours = own[..., None, None].expand(-1, -1, -1, *x.shape[2:])
    errors = pixel_errors(x, colours, noise)  # (B, T + 1, 1, H, W)
    ground = errors.take_along_dim(largest[:, :, None, None, None], 1)
    saved = (soft * (ground - errors)).sum((2, 3, 4))
    within = -F.max_pool2d(-soft.flatten(0, 1), 3, stride=1, padding=1).view_as(soft)
    thick = within.sum((2, 3, 4)) > THICK * area
    kept = ((saved > WORTH) & (area >= SMALLEST) & thick).scatter(1, largest, False)
    number = kept.cumsum(1) * kept - (~kept & (saved > area)).long()
    return (r[:, :, 0] * number[:, :, None, None]).sum(1)


def learn_grouping(
    network: nn.Module,
    lesson: Lesson,
    config: AugmentConfig,
    steps: int,
    seed: int,
    means: bool = False,
    phi: Phi = _as_they_are,
) -> float:
    """Have an attention network learn to group the pixels of layers, in corrupted images.

    Args:
        network: images and log scopes to features
            (:class:`~econ_pyro.guides.seeded.SeededUNet`).
        lesson: gives so many images, on the CPU, on which random numbers are drawn.
        config: the corruptions.
        steps: number of gradient steps.
        seed: of images, pixels and corruptions.
        means: half of the regions grow from a layer's mean.
        phi: as of :func:`grouping_loss`.

    Returns:
        Mean loss of the last tenth of the steps, in nats per pixel of a layer.
    """
    generator = torch.Generator().manual_seed(seed)
    optim = torch.optim.Adam(network.parameters(), RATE)
    like, last = next(network.parameters()), []
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optim.param_groups:
            group["lr"] = RATE * rate
        some = lesson(BATCH, generator)
        regions = some.regions(int(some.labels.max()) + 1)
        seen = augment(some.image, regions, config, generator).seen
        pixels = draw_pixels(some.labels, generator)
        labels, pixels = some.labels.to(like.device), pixels.to(like.device)
        loss = grouping_loss(network, seen.to(like), labels, pixels, means, phi)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optim.step()
        last.append(loss.item())
    optim.zero_grad(set_to_none=True)
    return mean_of_last(last)


def draw_pixels(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels of layers that are drawn uniformly, SEEDS of each image, ``(B, SEEDS)``.

    Args:
        labels: as of :class:`Layers`.
        generator: of random numbers.
    """
    flat = labels.flatten(1)
    return torch.multinomial((flat >= 0) / _areas(flat), SEEDS, generator=generator)


def grouping_loss(
    network: nn.Module,
    seen: Tensor,
    labels: Tensor,
    pixels: Tensor,
    means: bool = False,
    phi: Phi = _as_they_are,
) -> Tensor:
    """KL(r || a) of the regions that grow from pixels, over the area of their layers; a scalar.

    Args:
        network: as of :func:`learn_grouping`.
        seen: images as the network sees them, ``(B, 3, H, W)``.
        labels: layer of each pixel, ``(B, H, W)``.
        pixels: from which regions grow, ``(B, n)``.
        means: of the second half of the pixels, they grow from the mean of the pixel's layer.
        phi: adds to the network's features what else regions grow over
            (:meth:`~econ_pyro.guides.seeded.SeededGuide.with_pretrained`).
    """
    features = phi(network(with_log(seen, torch.ones_like(seen[:, :1]))), seen)
    n, flat, over = pixels.shape[1], labels.flatten(1), features[:, 1:].flatten(2)
    own = flat.gather(1, pixels)  # (B, n)
    target = (flat[:, None] == own[:, :, None]).to(over)  # (B, n, H W)
    middle = over.mT.gather(1, pixels[..., None].expand(-1, -1, over.shape[1]))  # (B, n, D)
    if means:
        first = n // 2
        mean = target[:, first:] @ over.mT / target[:, first:].sum(2, keepdim=True)
        middle = torch.cat([middle[:, :first], mean], 1)
    logits = logits_around(middle.flatten(0, 1), features.repeat_interleave(n, 0)).flatten(1)
    known = (flat >= 0).repeat_interleave(n, 0)
    kl = F.binary_cross_entropy_with_logits(logits, target.flatten(0, 1), reduction="none")
    kl = (kl * known).sum(1)
    return (kl / _areas(flat).gather(1, pixels).flatten()).mean()


def _areas(flat: Tensor) -> Tensor:
    """Pixels of the layer to which each pixel belongs, ``(B, H W)``."""
    count = F.one_hot(flat + 1).sum(1)  # of unknown pixels first
    return count.gather(1, flat + 1).float()


def without_slivers(labels: Tensor) -> Tensor:
    """Layers of fewer than SLIVER pixels become unknown.

    Args:
        labels: as of :class:`Layers`, ``(B, H, W)``.
    """
    small = _areas(labels.flatten(1)) < SLIVER
    return labels.masked_fill(small.view_as(labels), -1)


def whole_number(least: int, most: int, generator: torch.Generator) -> int:
    """A random whole number, uniform from the least to the most."""
    return int(torch.randint(least, most + 1, (), generator=generator))
