r"""IODINE's posterior q (Greff et al., 2019), as a Pyro program.

The parameters of all slots' posteriors start alike and are refined in R rounds. In each, latents
are drawn and decoded, and a recurrent network sees what came of them:

.. math:: z^r_t \sim q(z_t | \lambda^r_t), \qquad
          \lambda^{r+1}_t = \lambda^r_t + f(a^r_t, h^r_t), \qquad
          q(z_t | x) = q(z_t | \lambda^R_t)

The inputs a (:func:`spatial_inputs`, :func:`vector_inputs`) include gradients of the negative
ELBO of the round. They are constants to training, as the likelihoods among the inputs are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn import functional as F

from econ_pyro import arguments
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.pose import coordinates
from econ_pyro.core.slot_masks import PixelMixture
from econ_pyro.core.tensors import site_value
from econ_pyro.guides.amortized import posterior
from econ_pyro.model_config import IodineConfig

CHANNELS = 17
"""Of :func:`spatial_inputs`."""
State = tuple[Tensor, Tensor]
"""Of the recurrent layer, ``(n, hidden)`` each."""


class Draft(NamedTuple):
    """Terms of the ELBO before a refinement, of each slot, ``(B, T)`` nats."""

    x: Tensor
    z: Tensor


class Refinement(nn.Module):
    """Lambda of the first round, and the network that refines lambda.

    Convolutions with stride 2, their mean over the image, a fully connected layer, and a
    recurrent one that sees lambda and its gradient as well.

    Args:
        config: sizes.
    """

    def __init__(self, config: IodineConfig) -> None:
        super().__init__()
        values = 2 * config.latent_dim
        self.start = nn.Parameter(torch.zeros(values))  # N(0, I)
        blocks: list[nn.Module] = []
        inputs = CHANNELS
        for _ in range(config.layers):
            blocks += [nn.Conv2d(inputs, config.features, 3, 2, 1), nn.ELU()]
            inputs = config.features
        self.blocks = nn.Sequential(*blocks)
        self.inner = nn.Sequential(nn.Linear(inputs, config.hidden), nn.ELU())
        self.cell = nn.LSTMCell(config.hidden + 2 * values, config.hidden)
        self.head = nn.Linear(config.hidden, values)

    def forward(self, image: Tensor, vector: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """The change of lambda, ``(n, 2 L)``, and the state.

        Args:
            image: :func:`spatial_inputs`, ``(n, 17, H, W)``.
            vector: :func:`vector_inputs`, ``(n, 4 L)``.
            h: of the state.
            c: of the state.
        """
        seen = self.blocks(image.contiguous(memory_format=torch.channels_last))
        seen = self.inner(at_least_float32(seen).mean((2, 3)))
        h, c = self.cell(torch.cat([at_least_float32(seen), vector], 1), (h, c))
        return at_least_float32(self.head(h)), h, c


def gains(errors: Tensor, log_m: Tensor) -> Tensor:
    """By how much each slot makes each pixel likelier, ``(B, T, 1, H, W)`` nats.

    The log likelihood less that of the other slots, whose masks then sum to 1; 0 of a single slot.

    Args:
        errors: negative log densities of the slots, ``(B, T, 1, H, W)``.
        log_m: log masks, alike.
    """
    slots = log_m.shape[1]
    if slots == 1:
        return torch.zeros_like(log_m)
    whole, found = (log_m - errors).logsumexp(1), []
    for t in range(slots):
        others = [i for i in range(slots) if i != t]
        left = log_m[:, others]
        found.append(whole - (left - errors[:, others]).logsumexp(1) + left.logsumexp(1))
    return torch.stack(found, 1)


def spatial_inputs(
    x: Tensor,
    mean: Tensor,
    logits: Tensor,
    likelihood: PixelMixture,
    d_mean: Tensor,
    d_logits: Tensor,
    grid: Tensor,
) -> Tensor:
    """What the network sees of each slot at each pixel, ``(B, T, 17, H, W)``.

    Image, appearance, mask, its logit, the slot's share of the sum of all slots' densities, and
    coordinates; and, normalised over the image and without gradient, d appearance, d logit, log
    likelihood of the pixel and :func:`gains`.

    Args:
        x: images, ``(B, 3, H, W)``.
        mean: appearances, ``(B, T, 3, H, W)``.
        logits: of the masks, ``(B, T, 1, H, W)``.
        likelihood: the mixture of both.
        d_mean: gradient of the negative ELBO, as ``mean``.
        d_logits: the same, as ``logits``.
        grid: coordinates, ``(1, 2, H, W)``.
    """
    of_slots = logits.shape[:2]
    errors = likelihood.slot_errors(x)
    with torch.no_grad():
        log_m = logits.log_softmax(1)
        log_p = (log_m - errors).logsumexp(1, keepdim=True).expand_as(logits)
        fixed = [d_mean, d_logits, log_p, gains(errors, log_m)]
        fixed = [F.layer_norm(a, a.shape[2:]) for a in fixed]
    image = x[:, None].expand(-1, of_slots[1], -1, -1, -1)
    places = grid[:, None].expand(*of_slots, -1, -1, -1)
    seen = [image, mean, likelihood.masks, logits, (-errors).softmax(1), places]
    return torch.cat([*seen, *fixed], 2)


def vector_inputs(lam: Tensor, d_lam: Tensor) -> Tensor:
    """What the network sees of each slot as a whole, ``(B, T, 4 L)``.

    Lambda and, normalised and without gradient, the gradient of the negative ELBO.

    Args:
        lam: means and log variances, ``(B, T, 2 L)``.
        d_lam: the gradient, alike.
    """
    return torch.cat([lam, F.layer_norm(d_lam, d_lam.shape[2:]).detach()], 2)


class IodineGuide(nn.Module):
    """A refinement network for all slots, and the program that uses it.

    Args:
        config: number of slots and rounds, sizes.
        decode: the model's decoder: appearances and logits of masks of latents ``(B, T, L)``.
        mixture: the model's likelihood, of appearances and masks.
    """

    def __init__(
        self,
        config: IodineConfig,
        decode: Callable[[Tensor], tuple[Tensor, Tensor]],
        mixture: Callable[[Tensor, Tensor], PixelMixture],
    ) -> None:
        super().__init__()
        self.config, self.decode, self.mixture = config, decode, mixture
        self.refinements = nn.ModuleList([Refinement(config)])
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self.register_buffer("grid", coordinates(config.size), persistent=False)
        self._zero: Tensor
        self.grid: Tensor

    def forward(self, x: Tensor, slots: int | None = None, mean: bool = False) -> list[Draft]:
        """The program: sites ``z_t_draft_r``, which the model lacks, for each round; then ``z_t``.

        Gradients are computed under ``torch.no_grad`` as well; nothing is then kept of them.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            slots: number of slots T; the configuration's if not given.
            mean: latents are their means instead of samples, and drafts have always the same
                noise: with the same means, slots would stay alike.

        Returns:
            Terms of each draft, in the order of the rounds.

        Raises:
            EconError: the images or a draft have another shape or type, or the number makes no
                sense.
        """
        config = self.config
        slots = config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        x = program_images(x, config.size, self._zero)
        drafts = []
        with program(refinement=self.refinements), pyro.plate(sites.SCENES, len(x)):
            start: Any = self.refinements[0].start
            lam = start.expand(len(x), slots, -1)
            state = (self._zero.expand(len(x) * slots, config.hidden),) * 2
            for r, noise in enumerate(self._noise(slots, mean)):
                lam, state, draft = self._round(x, lam, state, r, noise)
                drafts.append(draft)
            for i, t in enumerate(sites.front_to_back(slots)):
                noise_t = self._zero if mean else None
                pyro.sample(sites.z(t), posterior(lam[:, i], noise_t))
        return drafts

    def _round(
        self, x: Tensor, lam: Tensor, state: State, r: int, noise: Tensor | None
    ) -> tuple[Tensor, State, Draft]:
        """Draw, decode, look, refine: the next lambda, the network's state and the terms."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            if not (learning and lam.requires_grad):
                lam = lam.detach().requires_grad_()
            z, l_z = self._draft(lam, r, noise)
            if not z.requires_grad:  # handlers have set it
                z = z.detach().requires_grad_()
            mean, logits = self.decode(z)
            likelihood = self.mixture(mean, logits.softmax(1))
            draft = Draft(likelihood.slot_losses(x), l_z)
            loss = draft.x.sum() + draft.z.sum()  # images do not depend on one another
            d_mean, d_logits, d_lam = torch.autograd.grad(
                loss, (mean, logits, lam), retain_graph=learning
            )
        seen = spatial_inputs(x, mean, logits, likelihood, d_mean, d_logits, self.grid)
        flat = seen.flatten(0, 1), vector_inputs(lam, d_lam).flatten(0, 1)
        out: Any = run(self.refinements[0], *flat, *state)
        change, h, c = out
        return lam + change.unflatten(0, lam.shape[:2]), (h, c), draft

    def _draft(self, lam: Tensor, r: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents ``(B, T, L)`` that are drawn from lambda, and their KLs, ``(B, T)``."""
        options: Any = {"is_auxiliary": True}
        slots, found = lam.shape[1], []
        for i, t in enumerate(sites.front_to_back(slots)):
            name = sites.z_draft(t, r)
            q = posterior(lam[:, i], None if noise is None else noise[i])
            z_t = pyro.sample(name, q, infer=options)
            found.append(site_value(name, z_t, len(lam), (self.config.latent_dim,), self._zero))
        q = posterior(lam, self._zero)
        prior = Normal(self._zero, self._zero + 1).expand(q.batch_shape + q.event_shape)
        return torch.stack(found, 1), kl_divergence(q, prior.to_event(1))

    def _noise(self, slots: int, mean: bool) -> list[Tensor | None]:
        """Noise of each round's drafts, ``(T, L)`` each; None: fresh."""
        rounds = self.config.rounds
        if not mean:
            return [None] * rounds
        generator = torch.Generator().manual_seed(0)
        fixed = torch.randn(rounds, slots, self.config.latent_dim, generator=generator)
        return list(fixed.to(self._zero))
