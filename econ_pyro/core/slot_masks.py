r"""Masks of slots that share the pixels of an image out, and what the slots make of an image.

A mask says to which of T slots each pixel belongs: :math:`m_{t,i} \ge 0, \sum_t m_{t,i} = 1`.

* :func:`stick_breaking`: each slot takes a share of what earlier ones left, the last one the rest,

  .. math:: s_T = 1, \qquad m_t = s_t \sigma(a_t), \qquad s_{t-1} = s_t (1 - \sigma(a_t)).

  It is Eq. 14 of ECON in logarithms: masks that underflow still have a gradient.
* :class:`SlotMasks`: one slot for each pixel, whose reparametrised sample is its mean.
* :class:`DecodedMasks`: masks that latents determine.
* :class:`PixelMixture`: the likelihood of an image, a mixture of the slots at each pixel,

  .. math:: \log p(x | m) = \sum_i \log \sum_t m_{t,i} N(x_i | \mu_{t,i}, \sigma_t^2 I).
* :class:`LogisticMixture`: the same with logistic densities.
* :class:`PixelBlend`: a Gaussian about the mixture's mean instead.

The layer axis runs in the order in which slots take their pixels, as in
:mod:`econ_pyro.core.sites`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.nn import functional as F

from econ_pyro.core.compositing import scopes

MASK_EPS = 1e-20  # smallest mask in the likelihood: far from where 1 / m overflows float32


def break_off(log_s: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """One step of :func:`stick_breaking`: log mask and log of what is left.

    Args:
        log_s: log of what is left before the step, any shape.
        logits: a_t, alike.
    """
    return log_s + F.logsigmoid(logits), log_s + F.logsigmoid(-logits)


def stick_breaking(logits: Tensor) -> Tensor:
    """Log masks of T slots.

    Args:
        logits: of the first T - 1 slots, ``(B, T - 1, 1, H, W)``.

    Returns:
        ``(B, T, 1, H, W)``; its exponential sums to 1 over slots.
    """
    log_s = torch.zeros_like(logits[:, :1])
    left = torch.cat([log_s, F.logsigmoid(-logits).cumsum(1)], 1)
    return torch.cat([left[:, :-1] + F.logsigmoid(logits), left[:, -1:]], 1)


def fractions(m: Tensor) -> Tensor:
    """The share that each slot takes of what earlier ones left; painting them gives the masks.

    Args:
        m: masks, ``(B, T, 1, H, W)``, which sum to 1 over slots.

    Returns:
        Same shape, in [0, 1]; of the last slot 1.
    """
    share = (m / scopes(m).clamp_min(MASK_EPS)).clamp(0, 1)
    return torch.cat([share[:, :-1], torch.ones_like(share[:, -1:])], 1)


class SlotMasks(TorchDistribution):
    r"""A slot for each pixel, as masks of zeros and ones.

    ``rsample`` is the mean, as of :class:`~econ_pyro.core.distributions.MeanBernoulli`; ``sample``
    draws a slot for each pixel.

    Args:
        log_probs: logarithms that are normalised over slots, ``(..., T, 1, H, W)``.
    """

    arg_constraints = {"log_probs": constraints.independent(constraints.real, 4)}
    support = constraints.independent(constraints.unit_interval, 4)
    has_rsample = True

    def __init__(self, log_probs: Tensor, validate_args: bool | None = None) -> None:
        self.log_probs = log_probs
        shape = log_probs.shape
        super().__init__(shape[:-4], shape[-4:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SlotMasks:
        """A copy with a larger batch shape."""
        new = type(self)(self.log_probs.expand(*batch_shape, *self.event_shape), False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The probabilities."""
        return self.log_probs.exp()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The mean, expanded to the sample shape."""
        return self.mean.expand(self._extended_shape(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Zeros and ones."""
        with torch.no_grad():
            whole = self.log_probs.expand(self._extended_shape(torch.Size(sample_shape)))
            slot = torch.distributions.Categorical(logits=whole.movedim(-4, -1)).sample()
            one_hot = F.one_hot(slot, whole.shape[-4]).to(whole.dtype)
            return one_hot.movedim(-1, -4)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, for soft masks its expectation."""
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.log_probs).sum((-4, -3, -2, -1))


def slot_divergences(q: SlotMasks, p: SlotMasks) -> Tensor:
    """What each slot adds to KL(q || p), ``(..., T)`` nats; single ones may be negative."""
    return (q.mean * (q.log_probs - p.log_probs)).sum((-3, -2, -1))


@register_kl(SlotMasks, SlotMasks)
def _kl_slot_masks(q: SlotMasks, p: SlotMasks) -> Tensor:
    return slot_divergences(q, p).sum(-1)


class DecodedMasks(TorchDistribution):
    """Masks that follow from latents: all probability is on what a function gives.

    The function is called when a value is drawn. A program that is replayed against one that has
    the masks already therefore does not compute them again.

    Args:
        decode: gives masks, ``(..., T, 1, H, W)``.
        batch_shape: of the masks.
        event_shape: ``(T, 1, H, W)``.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.unit_interval, 4)
    has_rsample = True

    def __init__(
        self,
        decode: Callable[[], Tensor],
        batch_shape: torch.Size,
        event_shape: torch.Size,
        validate_args: bool | None = None,
    ) -> None:
        self.decode = decode
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DecodedMasks:
        """A copy with a larger batch shape."""
        return type(self)(self.decode, torch.Size(batch_shape), self.event_shape, False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The masks."""
        return self.decode().expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """0: what was drawn had no choice."""
        return value.new_zeros(value.shape[: value.dim() - 4])


class PixelMixture(TorchDistribution):
    """An image in which each pixel is that of one of T slots, over all three channels.

    Args:
        masks: ``(..., T, 1, H, W)`` in [0, 1], which sum to 1 over slots.
        means: appearances, ``(..., T, 3, H, W)``.
        sigma: standard deviation of each slot's pixels, ``(T,)``.
    """

    arg_constraints = {
        "masks": constraints.independent(constraints.interval(0.0, 1.0 + 1e-4), 4),
        "means": constraints.independent(constraints.real, 4),
        "sigma": constraints.independent(constraints.positive, 1),
    }
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self, masks: Tensor, means: Tensor, sigma: Tensor, validate_args: bool | None = None
    ) -> None:
        self.masks, self.means, self.sigma = masks, means, sigma
        super().__init__(means.shape[:-4], means.shape[-3:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PixelMixture:
        """A copy with a larger batch shape."""
        masks = self.masks.expand(*batch_shape, *self.masks.shape[-4:])
        means = self.means.expand(*batch_shape, *self.means.shape[-4:])
        new = type(self)(masks, means, self.sigma, False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """Sum of mask times appearance over slots."""
        return (self.masks * self.means).sum(-4)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Pixels of a slot that is drawn for each."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            slot = SlotMasks(self.masks.clamp_min(MASK_EPS).log(), False).sample(sample_shape)
            mean = (slot * self.means).sum(-4)
            sigma = (slot * self.sigma[:, None, None, None]).sum(-4)
            return mean + sigma * self._noise(mean.expand(shape))

    def slot_errors(self, value: Tensor) -> Tensor:
        """Negative log density of each pixel under each slot, ``(..., T, 1, H, W)`` nats.

        It lacks the density's constant, that of the sharpest slot: it is never below 0.
        """
        sigma = self.sigma[:, None, None, None]
        errors = self._deviations(value.unsqueeze(-4) - self.means, sigma).sum(-3, keepdim=True)
        return errors - self.means.shape[-3] * (self.sigma.min() / sigma).log()

    def pixel_losses(self, value: Tensor) -> Tensor:
        """Negative log likelihood of each pixel in nats, ``(..., 1, H, W)``, never below 0.

        It lacks the constant of the sharpest slot's density, as the squared error of Eq. 10 lacks
        that of ECON's.
        """
        log_m = self.masks.clamp_min(MASK_EPS).log()
        return -(log_m - self.slot_errors(value)).logsumexp(-4)

    def slot_losses(self, value: Tensor) -> Tensor:
        """:meth:`pixel_losses` shared out by the masks, ``(..., T)``; they add up to the image's.

        The shares have no gradient.
        """
        losses = self.pixel_losses(value).unsqueeze(-4)
        return (self.masks.detach() * losses).sum((-3, -2, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        constant = self.sigma.min().log() + self._LOG_PEAK
        total = self.pixel_losses(value).sum((-3, -2, -1))
        return -total - constant * self.event_shape.numel()

    _LOG_PEAK = 0.5 * math.log(2 * math.pi)
    """Negative log of the density of sigma 1 at its peak."""

    @staticmethod
    def _deviations(away: Tensor, sigma: Tensor) -> Tensor:
        """Nats by which a density is below its peak, of values that far from its mean."""
        return away.square() / (2 * sigma.square())

    @staticmethod
    def _noise(like: Tensor) -> Tensor:
        """Noise of sigma 1."""
        return torch.randn_like(like)


class LogisticMixture(PixelMixture):
    r"""The same with logistic pixels (IODINE), whose scale is sigma.

    .. math:: p(x | \mu, s) = \exp(-u) / (s (1 + \exp(-u))^2), \qquad u = (x - \mu) / s
    """

    _LOG_PEAK = 2 * math.log(2)

    @staticmethod
    def _deviations(away: Tensor, sigma: Tensor) -> Tensor:
        u = (away / sigma).abs()
        return u + 2 * (F.softplus(-u) - math.log(2))

    @staticmethod
    def _noise(like: Tensor) -> Tensor:
        return torch.rand_like(like).logit(eps=1e-7)


class PixelBlend(PixelMixture):
    """An image of which each pixel is a Gaussian about the sum of mask times appearance.

    Args:
        masks: ``(..., T, 1, H, W)`` in [0, 1], which sum to 1 over slots.
        means: appearances, ``(..., T, 3, H, W)``.
        sigma: standard deviation of the pixels, the same for each slot, ``(T,)``.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The mean and noise."""
        with torch.no_grad():
            mean = self.mean.expand(self._extended_shape(torch.Size(sample_shape)))
            return mean + self.sigma.min() * torch.randn_like(mean)

    def pixel_losses(self, value: Tensor) -> Tensor:
        """Squared error of each pixel in nats, ``(..., 1, H, W)``."""
        errors = (value - self.mean).square().sum(-3, keepdim=True)
        return errors / (2 * self.sigma.min().square())
