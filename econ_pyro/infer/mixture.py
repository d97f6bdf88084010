r"""The likelihood of an image given all that its layers draw, each pixel a mixture of them.

Some pixels are like nothing that a layer draws: outlines, texture, the traces of a camera. With a
share of outliers, each layer's density has a uniform component,

.. math:: (1 - \epsilon) \, N(x_i; \mu_{ti}, \sigma^2) + \epsilon,

so that no pixel costs more than :math:`-\log \epsilon - \frac{3}{2} \log 2 \pi \sigma^2` nats on
the scale of pixel errors: 9 for a share of 0.01 and sigma 0.1. Such pixels go where the shapes
have them.

A ground of one colour hardly differs from what is drawn, objects of several colours do. With a
background noise of its own, the last layer's variance is estimated in each image (the M-step of
the mixture, as if BEFOREHAND more pixels had the common one), and a pixel at an object's blended
edge is no longer as likely the ground's.

Objects and grounds with a pattern are drawn in one colour, from which their pixels differ much in
some directions (those between the pattern's colours) and little in others. With covariances, the
noise of a layer is estimated from its own pixels in each image, light included (the M-step of a
Gaussian mixture, with a prior).

Colours say little of objects with a pattern, which decoders draw in a colour between those that
the pattern has. Features by which attention has learnt to group pixels say more. They give log
odds that a pixel is of a layer, by its distance from the layer's mean
(:mod:`econ_pyro.core.pixel_features`): by Bayes' rule, and but for a constant, how much likelier
its features are in the layer than elsewhere. They count for less than that, as neighbouring
pixels have their features from the same pixels of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.core.pixel_features import logits_of_layers
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.depth_order import log_likelihood, only

BEFOREHAND = 50.0  # pixels that count for the common noise when the background's is estimated
PRIOR = 20.0  # likewise, of a layer's covariance
FACTORS = (0.01, 4.0)  # least and largest variance of the background over the common one
WIDE = 2.5  # standard deviations of a pixel: a layer's colour may be so far from what is drawn


@dataclass(frozen=True)
class Mixture:
    """What refinement takes the pixels of an image to be, beside the noise of the model."""

    outliers: float = 0.0
    """Share of the pixels that are like nothing that a layer draws."""
    background_noise: bool = False
    """Whether the variance of the last layer's pixels is estimated in each image."""
    covariance: float = 0.0
    """Standard deviation of the PRIOR pixels with which the covariance of each layer's pixels is
    estimated in each image, but of the last layer's if its variance is; 0: all have the common
    noise."""
    floor: float = 0.02
    """Standard deviation that is added to that covariance in any direction of colours: noise and
    edges, which are no pattern."""
    feature_weight: float = 0.0
    """Of the pixels' features beside their colours."""
    features: Tensor | None = None
    """Those of the images, ``(B, 1 + D, H, W)``: g, then phi; colours alone if not given."""

    def errors(self, d: Decomposition, mean: Tensor, noise: PixelNoise) -> Tensor:
        """Pixel errors of layers that are drawn as ``mean``, in nats, ``(B, T, 1, H, W)``.

        Args:
            d: layers, whose regions decide which pixels are the background's.
            mean: appearances, ``(B, T, 3, H, W)``.
            noise: of the pixels.
        """
        if self.covariance:
            errors = _at_own_covariance(d, mean, noise, self.covariance, self.floor)
        else:
            errors = pixel_errors(d.image, mean, noise)
        if self.background_noise:
            plain = pixel_errors(d.image, mean[:, -1:], noise)
            errors = torch.cat([errors[:, :-1], _at_own_noise(plain, d.region[:, -1:])], 1)
        errors = with_outliers(errors, noise, self.outliers)
        if self.features is None:
            return errors
        return errors - self.feature_weight * logits_of_layers(self.features, d.region)


PLAIN = Mixture()


def uniform_cost(sigma: float) -> float:
    """Nats of a uniform density of colours, on the scale of pixel errors.

    They leave out the constant of the normal density.
    """
    return -1.5 * math.log(2 * math.pi * sigma**2)


def with_outliers(errors: Tensor, noise: PixelNoise, outliers: float) -> Tensor:
    """Pixel errors in nats, if that share of the pixels has a uniform density."""
    if not outliers:
        return errors
    uniform = errors.new_tensor(math.log(outliers) - uniform_cost(noise.sigma))
    return -torch.logaddexp(math.log1p(-outliers) - errors, uniform)


def _at_own_noise(errors: Tensor, region: Tensor) -> Tensor:
    """Errors of layers at the variance of their own pixels, ``(B, T, 1, H, W)`` each.

    Args:
        errors: at the common variance: 3/2 is expected of a pixel of three channels.
        region: whose pixels they are.
    """
    axes = (2, 3, 4)
    expected = 1.5 * (region.sum(axes, keepdim=True) + BEFOREHAND)
    factor = ((region * errors).sum(axes, keepdim=True) + 1.5 * BEFOREHAND) / expected
    factor = factor.clamp(*FACTORS)
    return errors / factor + 1.5 * factor.log()


def _at_own_covariance(
    d: Decomposition, mean: Tensor, noise: PixelNoise, deviation: float, floor: float
) -> Tensor:
    """Errors of layers at the covariance of their own pixels, ``(B, T, 1, H, W)``.

    Args:
        d: layers, whose regions decide which pixels are theirs.
        mean: appearances, ``(B, T, 3, H, W)``.
        noise: on whose scale errors are.
        deviation: of PRIOR more pixels.
        floor: deviation that is added in any direction.
    """
    off = (d.image[:, None] - mean).flatten(3)  # (B, T, 3, N)
    own, identity = off.detach(), torch.eye(3).to(off)
    weight = d.region.flatten(3).detach()  # (B, T, 1, N)
    scatter = (weight * own) @ own.mT + PRIOR * deviation**2 * identity
    covariance = scatter / (weight.sum(3, keepdim=True) + PRIOR) + floor**2 * identity
    # Cholesky's method, channel by channel: no ONNX operator does it
    errors, rest = off.new_zeros(()), off
    for _ in range(3):
        variance = covariance[:, :, :1, :1]
        slope = covariance[:, :, 1:, :1] / variance
        first = rest[:, :, :1]
        errors = errors + first.square() / variance / 2 + (variance / noise.sigma**2).log() / 2
        rest = rest[:, :, 1:] - slope * first
        covariance = covariance[:, :, 1:, 1:] - slope * covariance[:, :, :1, 1:]
    return errors.unflatten(3, mean.shape[3:])


def corrected_errors(d: Decomposition, noise: PixelNoise, mixture: Mixture = PLAIN) -> Tensor:
    """Pixel errors in nats, by each layer's mean colour in the image, ``(B, T, 1, H, W)``.

    An object of a colour that no expert has learnt is decoded in another one; that must not give
    its pixels away.
    """
    mean = mean_colour_corrected(d, noise if mixture.outliers else None)
    return mixture.errors(d, mean, noise)


def mean_colour_corrected(d: Decomposition, noise: PixelNoise | None = None) -> Tensor:
    """Appearances shifted to each layer's mean colour in the image, ``(B, T, 3, H, W)``.

    Args:
        d: layers as decoded.
        noise: if given, pixels count less the further they are from what is drawn, by the density
            of noise that is WIDE times as large: outliers are not to change a layer's colour.
    """
    off = d.image[:, None] - d.mean
    weight = d.region
    if noise is not None:
        weight = weight * (-pixel_errors(d.image, d.mean, noise) / WIDE**2).exp()
    shift = (weight * off).sum((3, 4), keepdim=True)
    return d.mean + shift / (weight.sum((3, 4), keepdim=True) + 1)


def log_evidence(
    d: Decomposition,
    kept: Tensor,
    noise: PixelNoise,
    mixture: Mixture = PLAIN,
    as_drawn: bool = False,
) -> Tensor:
    """Log p(x | z, k), regions summed out, less what the latents cost, ``(B,)``.

    Args:
        d: layers front to back.
        kept: which of them explain something, ``(B, T)`` bool.
        noise: of the pixels.
        mixture: what the pixels are.
        as_drawn: by colours as they are decoded, in place of those in the image, so that what
            draws the right ones is preferred.
    """
    errors = mixture.errors(d, d.mean, noise) if as_drawn else corrected_errors(d, noise, mixture)
    return log_likelihood(errors, only(kept, d.shape)) - (d.terms.z * kept).sum(1)
