r"""Distributions that make the approximations of the paper explicit in a Pyro trace.

* :class:`MeanBernoulli`: ``rsample`` returns the mean, by which section 5.1 replaces regions; the
  KL divergence is that of Eq. 12.
* :class:`FixedNoiseNormal`: a reparametrised Gaussian with given noise, so that the ELBO uses the
  sample that won the competition.
* :class:`LayeredNormal`: Eq. 6 extended to soft regions, as in Eq. 10.

:class:`PixelNoise` is the noise of its pixels: Eq. 5, and beyond the paper, light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Bernoulli, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property

from econ_pyro.accel.compile import compilable

PROB_EPS = 1e-6  # added inside the logarithms of Eq. 12 to avoid 0 * log(0) for a scope of 0


@dataclass(frozen=True)
class PixelNoise:
    r"""How pixels differ from what a layer draws, each pixel independently of the others.

    .. math:: x_i = (1 + \tau \, l_i) \mu_i + \sigma n_i, \qquad l_i \sim N(0, 1), \;
              n_i \sim N(0, I_3)

    The light l is one number per pixel. With it integrated out, the covariance of a pixel's
    colour is :math:`\sigma^2 I + \tau^2 \mu \mu^T`: a lighter or darker shade of what is drawn
    costs less than another colour. With tau = 0 it is Eq. 5.
    """

    sigma: float
    """Standard deviation sigma of each channel."""
    light: float = 0.0
    """Standard deviation tau of a pixel's brightness, relative to what is drawn."""

    def sample(self, mean: Tensor) -> Tensor:
        """Pixels of layers that are drawn as ``mean``, ``(..., 3, H, W)``."""
        if self.light:
            light = torch.randn_like(mean[..., :1, :, :])
            mean = mean * (1 + self.light * light)
        return mean + self.sigma * torch.randn_like(mean)


@compilable
def pixel_errors(x: Tensor, mean: Tensor, noise: PixelNoise) -> Tensor:
    r"""Error of each layer's appearance at each pixel, ``(..., T, 1, H, W)``, in nats.

    The negative log density less its constant, :math:`\frac{3}{2} \log 2 \pi \sigma^2`: squared
    errors over :math:`2 \sigma^2` without light, and with it

    .. math:: \frac{1}{2 \sigma^2} \left(\|e\|^2 - \frac{\tau^2 (e^T \mu)^2}{\sigma^2 + \tau^2
              \|\mu\|^2}\right) + \frac{1}{2} \log \left(1 + \tau^2 \|\mu\|^2 / \sigma^2\right),
              \qquad e = x - \mu

    by the formulas of Sherman and Morrison and of the determinant of a rank-one update.

    Args:
        x: images, ``(..., 3, H, W)``.
        mean: appearances, ``(..., T, 3, H, W)``.
        noise: of the pixels.
    """
    off, variance = x.unsqueeze(-4) - mean, noise.sigma**2
    square = off.square().sum(-3, keepdim=True)
    if not noise.light:
        return square / (2 * variance)
    lit = noise.light**2 * mean.square().sum(-3, keepdim=True) / variance
    along = noise.light * (off * mean).sum(-3, keepdim=True)
    return (square - along.square() / (variance * (1 + lit))) / (2 * variance) + lit.log1p() / 2


class MeanBernoulli(Bernoulli):
    r"""Bernoulli distribution whose reparametrised sample is its mean.

    ``sample()`` still gives zeros and ones, for programs that need binary regions.

    Args:
        probs: success probabilities, any shape, in [0, 1].
    """

    has_rsample = True
    support = constraints.unit_interval

    def __init__(self, probs: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(probs=probs, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MeanBernoulli:
        """A copy with a larger batch shape."""
        new = type(self)(self.probs.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The mean, expanded to the sample shape: the continuous approximation of section 5.1."""
        return self.probs.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, for soft values value log p + (1 - value) log(1 - p)."""
        if self._validate_args:
            self._validate_sample(value)
        p = self.probs
        return value * (p + PROB_EPS).log() + (1 - value) * (1 - p + PROB_EPS).log()


@register_kl(MeanBernoulli, MeanBernoulli)
def _kl_mean_bernoulli(q: MeanBernoulli, p: MeanBernoulli) -> Tensor:
    # adding epsilon instead of clamping keeps the gradient of a decoder that is certain and wrong
    log_ratio = ((q.probs + PROB_EPS) / (p.probs + PROB_EPS)).log()
    log_ratio_0 = ((1 - q.probs + PROB_EPS) / (1 - p.probs + PROB_EPS)).log()
    return q.probs * log_ratio + (1 - q.probs) * log_ratio_0


class FixedNoiseNormal(Normal):
    r"""Normal distribution whose ``rsample`` is loc + scale * noise for given noise.

    Args:
        loc: means.
        scale: standard deviations.
        noise: standard normal noise of the same shape; 0 gives the mean. Sampled if not given, as
            Pyro's reparametrisers only pass location and scale.
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        noise: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self._given = noise is not None
        self.noise = torch.randn_like(self.loc) if noise is None else noise

    def expand(self, batch_shape: Any, _instance: Any = None) -> FixedNoiseNormal:
        """A copy with a larger batch shape."""
        shape = torch.Size(batch_shape)
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        # sampled noise is independent along new dimensions
        kept = self._given or shape == self.loc.shape
        new = type(self)(loc, scale, self.noise.expand(shape) if kept else None, False)
        new._given = self._given  # kept here, it may yet have to be drawn anew by the next plate
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The sample with the given noise."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return (self.loc + self.scale * self.noise).expand(shape)

    sample = rsample


class LayeredNormal(TorchDistribution):
    r"""Likelihood of an image composed of T layers (Eq. 6), extended to soft regions.

    .. math:: \log p(x) = \sum_{i,c} \sum_t r_{t,i} \log N(x_{i,c} | \mu_{t,i,c}, \sigma^2)

    For binary regions that sum to 1, this is Eq. 6. For soft regions, it is the expectation in
    Eq. 10, which is not normalised.

    Args:
        regions: regions, front to back, ``(..., T, 1, H, W)``, in [0, 1].
        means: appearances, ``(..., T, 3, H, W)``.
        noise: of the pixels.
    """

    arg_constraints = {
        "regions": constraints.independent(constraints.interval(0.0, 1.0 + 1e-4), 4),
        "means": constraints.independent(constraints.real, 4),
    }
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self, regions: Tensor, means: Tensor, noise: PixelNoise, validate_args: bool | None = None
    ) -> None:
        self.regions, self.means, self.noise = regions, means, noise
        super().__init__(means.shape[:-4], means.shape[-3:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LayeredNormal:
        """A copy with a larger batch shape."""
        shape = torch.Size(batch_shape)
        new = type(self)(
            self.regions.expand(shape + self.regions.shape[-4:]),
            self.means.expand(shape + self.means.shape[-4:]),
            self.noise,
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    @lazy_property
    def mean(self) -> Tensor:
        """Sum of region times mean over layers (Eq. 3)."""
        return (self.regions * self.means).sum(dim=-4)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The mean plus pixel noise, which is exact for binary regions."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            return self.noise.sample(self.mean.expand(shape))

    def errors(self, value: Tensor) -> Tensor:
        """Error of each layer in nats, ``(..., T)``: Eq. 10 summed over pixels."""
        return (self.regions * pixel_errors(value, self.means, self.noise)).sum((-3, -2, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        log_normaliser = -math.log(self.noise.sigma) - 0.5 * math.log(2 * math.pi)
        pixels = self.regions.sum(dim=(-4, -3, -2, -1)) * self.means.shape[-3]
        return log_normaliser * pixels - self.errors(value).sum(dim=-1)
