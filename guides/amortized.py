r"""The amortised posterior q, as a Pyro program over K attention networks and encoders.

.. math:: q(r, z | x, k) = \prod_t q(r_t | x, s_t, k_t) \, q(z_t | x, r_t, k_t)

front to back, with q(r_t) = Bern(s_t a_{k_t}(x, s_t)) (Eq. 9) and q(z_t) Gaussian. Regions are
replaced by their means (section 5.1). The last layer takes all that is left (footnote 7).

The program is ``guide(x, k)``. :meth:`AmortizedGuide.given` binds what a competition has fixed;
true regions of some or all layers are ``poutine.condition(guide, data={"r_4": mask})``. Batch
dimensions to the left of its own are accepted (:mod:`econ_pyro.core.batch_shapes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.core import sites
from econ_pyro.core.batch_shapes import batch_of, flat, restored
from econ_pyro.core.compositing import next_scope, region, scopes, with_log
from econ_pyro.core.distributions import FixedNoiseNormal, MeanBernoulli
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.input_images import program_images, program_mask
from econ_pyro.core.occlusion import occlude
from econ_pyro.core.parameters import program
from econ_pyro.core.pose import turned
from econ_pyro.core.selection import Selection
from econ_pyro.core.tensors import check_expert_sites, check_experts, fitted, site_value
from econ_pyro.guides.attention import AttentionUNet
from econ_pyro.guides.encoder import Encoder, WholeImage
from econ_pyro.guides.object_centred_encoder import Glimpse, ObjectCentredEncoder
from econ_pyro.model_config import EconConfig, FreeLatents

FIRST_LOG_VARIANCE = -4.0  # of a posterior that starts informative
LOG_SCALE_RANGE = (-7.0, 3.0)  # of q(z); outside, exp would meet the limits of float32 training


class AmortizedGuide(nn.Module):
    """K attention networks and encoders, and the program that explains an image with them.

    Args:
        config: number of experts and layers, sizes.
    """

    attention: type[AttentionUNet] = AttentionUNet

    def __init__(self, config: EconConfig) -> None:
        super().__init__()
        self.config = config
        sizes, experts = (config.expert, config.size), config.num_experts
        self.attentions = Ensemble(partial(self.attention, *sizes), experts)
        free = isinstance(config.expert.latents, FreeLatents)
        self.view = WholeImage(*sizes) if free else Glimpse(*sizes)
        encoder = Encoder if free else ObjectCentredEncoder
        self.encoders = Ensemble(partial(encoder, *sizes), experts)
        # of latents, experts, regions and scopes; set where poses have an angle
        self.find_directions: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
        # alike: latents of poses; set where poses are searched for, within pose_search alone
        self.find_poses: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
        self._searching = False
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def attend(self, x: Tensor, s_t: Tensor, k_t: Tensor) -> Tensor:
        """Eq. 9: the region that each image's own expert proposes.

        Args:
            x: images, ``(..., B, 3, H, W)``.
            s_t: scope, ``(..., B, 1, H, W)``.
            k_t: experts, ``(..., B)``.

        Returns:
            ``(..., B, 1, H, W)`` in [0, s_t].

        Raises:
            EconError: shapes do not fit, or there is no such expert.
        """
        batch, x, s_t, k_t = self._flat(x, "s_t", s_t, k_t)
        logits = self.attentions.forward_selected(k_t, with_log(x, s_t))
        return restored(region(s_t, logits.sigmoid()), batch)

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """The regions that all experts propose, without gradients.

        Args:
            x: images, ``(B, 3, H, W)``.
            s_t: scope, ``(B, 1, H, W)``.

        Returns:
            ``(B, K, 1, H, W)`` in [0, s_t].
        """
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        return region(s_t[:, None], self._logits_of_all(x, s_t).sigmoid())

    def attention_logits(self, x: Tensor, s_t: Tensor) -> Tensor:
        """Logits of the share of the scope that each expert takes, differentiable.

        Args:
            x: images, ``(B, 3, H, W)``.
            s_t: scope, ``(B, 1, H, W)``.

        Returns:
            ``(B, K, 1, H, W)``.
        """
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        every = torch.arange(self.config.num_experts, device=x.device).expand(x.shape[0], -1)
        return self.attentions.forward_each(every, with_log(x, s_t))

    def encode(
        self,
        x: Tensor,
        r_t: Tensor,
        k_t: Tensor,
        noise: Tensor | None = None,
        s_t: Tensor | None = None,
    ) -> TorchDistribution:
        """q(z_t | x, r_t, k_t) by each image's own expert, batch ``(..., B)``, event ``(L,)``.

        Args:
            x: images, ``(..., B, 3, H, W)``.
            r_t: region, ``(..., B, 1, H, W)``.
            k_t: experts, ``(..., B)``.
            noise: standard normal noise of the sample, ``(B, L)``; fresh if not given.
            s_t: scope, which poses that are searched for depend on, ``(..., B, 1, H, W)``;
                everything if not given.

        Raises:
            EconError: shapes do not fit, or there is no such expert.
        """
        batch, x, r_t, k_t = self._flat(x, "r_t", r_t, k_t)
        if noise is not None and noise.dim():  # a scalar holds for all
            noise = site_value("noise", noise, batch[-1], (self._latent_dim,), self._zero)
        out = self.encoders.forward_selected(k_t, *self.view(x, r_t))
        if self._finds:
            s_t = torch.ones_like(r_t) if s_t is None else flat(s_t, batch, 3)
            out = self._found(out, r_t, s_t, k_t)
        return posterior(restored(out, batch), noise)

    @property
    def _finds(self) -> bool:
        """Whether what encoders propose is improved by a search."""
        return self.find_directions is not None or (
            self._searching and self.find_poses is not None
        )

    def _found(self, out: Tensor, r: Tensor, s: Tensor, k: Tensor) -> Tensor:
        """An encoder's output with the pose that is found, ``(n, 2 L)``."""
        last = self.config.expert.latents.pose_dim
        given = k, r.detach(), s.detach()
        if self.find_directions is not None:
            a, b = last - 2, last
            found = self.find_directions(out[:, : self._latent_dim].detach(), *given)
            out = torch.cat([out[:, :a], turned(out[:, a:b], found.to(out)), out[:, b:]], 1)
        if self._searching and self.find_poses is not None:
            pose = self.find_poses(out[:, : self._latent_dim].detach(), *given)
            out = torch.cat([pose.to(out), out[:, last:]], 1)
        return out

    @contextmanager
    def pose_search(self) -> Iterator[None]:
        """Within it, poses are searched for from what encoders propose, where the model can."""
        self._searching = True
        try:
            yield
        finally:
            self._searching = False

    def encode_all(
        self, x: Tensor, r: Tensor, noise: Tensor, s: Tensor | None = None
    ) -> TorchDistribution:
        """q(z) by every expert given its own region, without gradients, batch ``(B, K)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            r: regions, ``(B, K, 1, H, W)``.
            noise: of the samples, ``(B, L)``, shared by the experts.
            s: scope, as of :meth:`encode`, ``(B, 1, H, W)``.

        Raises:
            EconError: shapes do not fit.
        """
        x, r = self._images(x), self._masks("r", r, x.shape[0], self.config.num_experts)
        noise = self._floats("noise", noise, x.shape[0], self._latent_dim)
        out = self.encoders.forward_all(*self.view.of_all(x, r))
        if self._finds:
            s = torch.ones_like(r) if s is None else s[:, None].expand_as(r)
            k = torch.arange(self.config.num_experts, device=x.device).repeat(x.shape[0])
            flat = self._found(out.flatten(0, 1), r.flatten(0, 1), s.flatten(0, 1), k)
            out = flat.unflatten(0, out.shape[:2])
        return posterior(out, noise[:, None])

    def regions(
        self, x: Tensor, k: Tensor, given: Selection | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scope and region of every layer, front to back (Eqs. 9 and 14).

        Args:
            x: images, ``(B, 3, H, W)``.
            k: expert of each layer, ``(B, T)``.
            given: what a competition has fixed.

        Returns:
            ``(B, T, 1, H, W)`` in [0, 1] each.
        """
        if given is not None and given.evidence is not None:
            return scopes(given.evidence), given.evidence
        x = _seen(x, given)
        s_t, before, taken = torch.ones_like(x[:, :1]), [], []
        for i in range(k.shape[1]):
            r_t = self._region(x, s_t, k, i, given)
            before.append(s_t)
            taken.append(r_t)
            s_t = next_scope(s_t, r_t)
        return torch.stack(before, 1), torch.stack(taken, 1)

    def posteriors(
        self, x: Tensor, r: Tensor, k: Tensor, given: Selection | None = None
    ) -> TorchDistribution:
        """q(z) of all layers as one batch ``(B T,)``, given their regions.

        Args:
            x: images, ``(B, 3, H, W)``.
            r: regions, ``(B, T, 1, H, W)``.
            k: expert of each layer, ``(B, T)``.
            given: what a competition has fixed.
        """
        x = _seen(x, given)
        images, flat_r = x.repeat_interleave(k.shape[1], 0), r.flatten(0, 1)
        noise = None if given is None else given.noise.flatten(0, 1)
        if given is not None and given.occluder is not None:
            images, flat_r = occlude(images, flat_r, given.occluder.flatten(0, 1))
        s = None
        if self._finds:
            s = scopes(r).flatten(0, 1)
            if given is not None and given.occluder is not None:
                s = s * (1 - given.occluder.flatten(0, 1)[:, 3:])
        return self.encode(images, flat_r, k.flatten(), noise, s)

    def given(self, selection: Selection) -> GivenGuide:
        """The guide with what a competition has fixed: noise, regions' seeds, true regions."""
        return GivenGuide(self, selection)

    def forward(self, x: Tensor, k: Tensor) -> None:
        """Q as a program: sites ``r_t`` and ``z_t`` for t = T..1.

        Args:
            x: images, ``(..., B, 3, H, W)`` in [0, 1].
            k: expert of each layer, front to back, ``(..., B, T)``.

        Raises:
            EconError: shapes or types do not fit, a mask is not in [0, 1], or there is no such
                expert.
        """
        self.program(x, k, None)

    def program(self, x: Tensor, k: Tensor, given: Selection | None) -> None:
        """:meth:`forward`, with what a competition has fixed."""
        size = self.config.size
        x = program_images(x, size, self._zero)
        scenes, slots = x.shape[-4], arguments.num_layers(k)
        check_expert_sites("k", k, scenes, self.config.num_experts, self._zero, slots)
        if given is not None:
            self._check(given, scenes, slots)
        x = _seen(x, given)
        s_t = torch.ones_like(x[..., :1, :, :])
        networks = program(attention=self.attentions, encoder=self.encoders)
        with networks, pyro.plate(sites.SCENES, scenes):
            for i, t in enumerate(sites.front_to_back(slots)):
                probs = self._region(x, s_t, k, i, given)
                r_t = pyro.sample(sites.r(t), MeanBernoulli(probs).to_event(3))
                r_t = program_mask(sites.r(t), r_t, scenes, size, self._zero)
                seen = x, r_t
                if given is not None and given.occluder is not None:
                    seen = occlude(x, r_t, given.occluder[:, i])
                noise = None if given is None else given.noise[:, i]
                pyro.sample(sites.z(t), self.encode(*seen, k[..., i], noise, s_t))
                s_t = next_scope(s_t, r_t)

    def _region(
        self, x: Tensor, s_t: Tensor, k: Tensor, i: int, given: Selection | None
    ) -> Tensor:
        """Probabilities of layer i's region, from the front, ``(..., B, 1, H, W)``."""
        if given is not None and given.evidence is not None:
            return given.evidence[:, i]
        if i == k.shape[-1] - 1:
            return s_t  # the last layer takes the whole scope (footnote 7)
        return self._propose(x, s_t, k[..., i], i, given)

    def _propose(
        self, x: Tensor, s_t: Tensor, k_t: Tensor, i: int, given: Selection | None
    ) -> Tensor:
        """The region that attention proposes for layer i."""
        return self.attend(x, s_t, k_t)

    def _logits_of_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """Outputs of all attention networks, ``(B, K, C, H, W)``."""
        inputs = with_log(x, s_t)[:, None].expand(-1, self.config.num_experts, -1, -1, -1)
        return self.attentions.forward_all(inputs)

    def _flat(
        self, x: Tensor, name: str, mask: Tensor, k_t: Tensor
    ) -> tuple[torch.Size, Tensor, Tensor, Tensor]:
        """Batch shape, and images, masks and experts with one batch dimension."""
        size, scenes = self.config.size, x.shape[-4]
        x = site_value("x", x, scenes, (3, size, size), self._zero)
        mask = site_value(name, mask, scenes, (1, size, size), self._zero)
        check_expert_sites("k", k_t, scenes, self.config.num_experts, self._zero)
        batch = batch_of((x, 3), (mask, 3), (k_t, 0))
        return batch, flat(x, batch, 3), flat(mask, batch, 3), flat(k_t, batch, 0)

    def _check(self, given: Selection, scenes: int, slots: int) -> None:
        """Check that what torch would broadcast, or leave out in part, is of all layers of x."""
        self._floats("noise", given.noise, scenes, slots, self._latent_dim)
        if given.evidence is not None:
            self._masks("evidence", given.evidence, scenes, slots)
        size = self.config.size
        if given.occluder is not None:
            self._floats("occluder", given.occluder, scenes, slots, 4, size, size)
        if given.seen is not None:
            self._floats("seen", given.seen, scenes, 3, size, size)

    @property
    def _latent_dim(self) -> int:
        return self.config.expert.latents.dim

    def _floats(self, name: str, value: Tensor, *shape: int) -> Tensor:
        return fitted(name, value, shape, self._zero)

    def _images(self, x: Tensor) -> Tensor:
        return self._floats("x", x, x.shape[0], 3, self.config.size, self.config.size)

    def _masks(self, name: str, value: Tensor, *batch: int) -> Tensor:
        return self._floats(name, value, *batch, 1, self.config.size, self.config.size)

    def _check_experts(self, k: Tensor, *shape: int) -> None:
        check_experts("k", k, shape, self.config.num_experts, self._zero)


class GivenGuide:
    """A guide with what a competition has fixed: a program of ``(x, k)``.

    Args:
        guide: q.
        selection: the competition's outcome for the images that the program will get.
    """

    def __init__(self, guide: AmortizedGuide, selection: Selection) -> None:
        self.guide, self.selection = guide, selection

    def __call__(self, x: Tensor, k: Tensor) -> None:
        """As :meth:`AmortizedGuide.forward`."""
        self.guide.program(x, k, self.selection)

    def regions(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`AmortizedGuide.regions`."""
        return self.guide.regions(x, k, self.selection)

    def posteriors(self, x: Tensor, r: Tensor, k: Tensor) -> TorchDistribution:
        """As :meth:`AmortizedGuide.posteriors`."""
        return self.guide.posteriors(x, r, k, self.selection)


def _seen(x: Tensor, given: Selection | None) -> Tensor:
    """The images as the networks see them."""
    return x if given is None or given.seen is None else given.seen


def posterior(out: Tensor, noise: Tensor | None) -> TorchDistribution:
    """q(z) from an encoder's output, event ``(L,)``.

    Args:
        out: means and log variances, ``(..., 2 L)``.
        noise: standard normal noise of the sample, which broadcasts to ``(..., L)``; fresh if not
            given.
    """
    loc, log_variance = out.chunk(2, dim=-1)
    scale = (0.5 * log_variance).clamp(*LOG_SCALE_RANGE).exp()
    noise = None if noise is None else noise.expand_as(loc)
    return FixedNoiseNormal(loc, scale, noise).to_event(1)


def start_informative(head: nn.Linear, gain: float) -> None:
    """Let the means of a new posterior differ between images, and by more than its noise.

    Otherwise decoders at first see latents that are all noise. They learn to draw by position
    alone, and masks follow from noise.

    Args:
        head: the layer that gives means and log variances.
        gain: factor of the means' weights.
    """
    size = head.out_features // 2
    with torch.no_grad():
        head.weight[:size] *= gain
        head.bias[size:] = FIRST_LOG_VARIANCE
