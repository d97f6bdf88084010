r"""Blocked Gibbs sampling in place of a guide, for the masked RBM (Le Roux et al., 2011).

The visible pixel of a layer is the image's, so that which layer is visible and what the layers are
have to be drawn together. Given all hidden units, one sweep draws in turn

1. the order: proportional to :math:`\prod_i \sum_t p(r_{t,i} = 1 | g, \sigma) p_{t,i}`,
   by trying all of them;
2. the visible layer of each pixel: proportional to :math:`p(r_{t,i} = 1 | g, \sigma) p_{t,i}`;
3. shapes: 1 where a layer is visible, 0 in front of that, and anew behind it;
4. appearances: the image where a layer is visible, and anew elsewhere;
5. hidden units given shapes and appearances,

where :math:`p_{t,i} = N(x_i | \mu_{t,i}, \rho^2)`. Steps 1 to 4 are one exact draw of everything
but the hidden units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical

from econ_pyro import arguments
from econ_pyro.core import sites
from econ_pyro.core.input_images import program_images
from econ_pyro.errors import EconError


class Chain(NamedTuple):
    """A state of the chain, and what it was drawn from; layers are those of the RBMs."""

    h: Tensor
    """Hidden units of the appearances, ``(B, T, J)``."""
    g: Tensor
    """Hidden units of the shapes, ``(B, T - 1, J)``; ``(B, 1, J)`` of the softmax variant."""
    appearance: Tensor
    """Completed appearances, ``(B, T, 3 D)``."""
    shape: Tensor
    """Completed shapes, ``(B, T - 1, D)``; of the softmax variant masks, ``(B, T, D)``."""
    order: Tensor
    """Layers front to back, ``(B, T)``."""
    order_probs: Tensor
    """Posterior of the orders given the hidden units before, ``(B, O)``."""
    log_mask: Tensor
    """Prior of the visible layer given those and the order, ``(B, T, D)``."""
    log_visible: Tensor
    """Its posterior, alike."""
    mean: Tensor
    """Appearances given those, ``(B, T, 3 D)``."""
    logits: Tensor
    """Of the shapes given those, as ``shape``."""


class MrbmSampler(nn.Module):
    """Gibbs sampling of layers given images.

    Args:
        model: p, with the methods of :class:`econ_pyro.models.mrbm.Mrbm`.
        orders: gives every order of T layers, ``(O, T)``, on the device of a tensor.
        one_of: draws one layer for each pixel from ``(B, T, D)``.
    """

    def __init__(self, model: Any, orders: Any, one_of: Any) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that its weights are not this module's, too
        self._orders, self._one_of = orders, one_of

    @property
    def p(self) -> Any:
        """The model."""
        return self._model[0]

    def start(self, x: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Hidden units at the start: as if every layer were the image, and no shape likelier.

        Args:
            x: images, ``(B, 3 D)``.
            slots: number of layers T.

        Returns:
            Those of the appearances and of the shapes.
        """
        appearance, shapes = self.p.machines(slots)
        h = appearance.draw_hidden(x[:, None].expand(-1, slots, -1))
        visible = self._one_of(self.p.fit(x, appearance.field(h)).softmax(1))
        return h, shapes.draw_hidden(visible[:, :-1] if self.p.ordered else visible)

    def sweep(self, x: Tensor, h: Tensor, g: Tensor, order: Tensor | None = None) -> Chain:
        """One sweep.

        Args:
            x: images, ``(B, 3 D)``.
            h: hidden units of the appearances.
            g: hidden units of the shapes.
            order: index of the order of each image, ``(B,)``; drawn if not given.
        """
        slots = h.shape[1]
        appearance, shapes = self.p.machines(slots)
        mean, logits = appearance.field(h), shapes.field(g)
        fit = self.p.fit(x, mean)
        scores = self.p.order_scores(logits, fit)
        drawn = TorchCategorical(logits=scores).sample() if order is None else order
        depth = self._depth(drawn, slots)
        log_mask, log_visible, v, s = self.complete(x, mean, logits, fit, depth)
        h, g = appearance.draw_hidden(v), shapes.draw_hidden(s)
        return Chain(
            h, g, v, s, depth, scores.softmax(1), log_mask, log_visible, mean, logits
        )  # fmt: skip

    def complete(
        self, x: Tensor, mean: Tensor, logits: Tensor, fit: Tensor, depth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Steps 2 to 4: prior and posterior of the visible layer, appearances, shapes."""
        log_mask = self.p.log_masks(logits, depth)
        log_visible = (log_mask + fit).log_softmax(1)
        visible = self._one_of(log_visible.exp())
        seen = visible.bool()[:, :, None].expand(-1, -1, 3, -1).flatten(2)
        anew = mean + self.p.config.sigma * torch.randn_like(mean)
        v = torch.where(seen, x[:, None], anew)
        if not self.p.ordered:
            return log_mask, log_visible, v, visible
        rank = depth.argsort(1)[:, :, None]  # 0 is the nearest
        at = (visible * rank).sum(1, keepdim=True)
        behind = logits.sigmoid().bernoulli() * (rank[:, :-1] > at)
        return log_mask, log_visible, v, visible[:, :-1] + behind

    def run(
        self, x: Tensor, slots: int, sweeps: int, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden units after sweeps from the start; arguments as of :meth:`sweep`."""
        h, g = self.start(x, slots)
        for _ in range(sweeps):
            h, g = self.sweep(x, h, g, order)[:2]
        return h, g

    def forward(self, x: Tensor, slots: int | None = None, sweeps: int | None = None) -> None:
        """The program: one more sweep after a chain, as sites.

        They are ``order``, ``visible``, ``h_t`` and ``g_t``, each with its conditional
        distribution given what came before it, and the completed layers ``m_t`` and ``x_t``,
        which are deterministic. A model that is replayed against a trace has its hidden units and
        its order. The chain before does not know of values that handlers set.

        Args:
            x: images, ``(B, 3, H, W)``.
            slots: number of layers T; the configuration's if not given.
            sweeps: sweeps of the chain; ``infer_sweeps`` if not given.

        Raises:
            EconError: the images have another shape or type, or a number makes no sense.
        """
        p = self.p
        slots = p.config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        sweeps = p.config.infer_sweeps if sweeps is None else sweeps
        sweeps = arguments.as_int("sweeps", sweeps, minimum=0)
        images = program_images(x, p.config.size, p._zero)
        if images.dim() != 4:
            raise EconError("images (B, 3, H, W) for the sampler", str(tuple(images.shape)))
        flat = images.flatten(1)
        with torch.no_grad(), pyro.plate(sites.SCENES, len(flat)):
            h, g = self.run(flat, slots, sweeps)
            appearance, shapes = p.machines(slots)
            mean, logits = appearance.field(h), shapes.field(g)
            fit = p.fit(flat, mean)
            drawn = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
            if p.ordered:
                orders = Categorical(logits=p.order_scores(logits, fit))
                drawn = pyro.sample(sites.ORDER, orders)
            depth = self._depth(drawn, slots)
            _, _, v, s = self.complete(flat, mean, logits, fit, depth)
            self._sites(appearance, shapes, v, s, slots)

    def _sites(self, appearance: Any, shapes: Any, v: Tensor, s: Tensor, slots: int) -> None:
        p = self.p
        h, g = appearance.hidden_logits(v), shapes.hidden_logits(s)
        for i, t in enumerate(sites.front_to_back(slots)):
            pyro.deterministic(sites.x(t), p.images(v[:, i], 3), event_dim=3)
            pyro.sample(sites.h(t), Bernoulli(logits=h[:, i]).to_event(1))
            if p.ordered and t > 1:
                pyro.deterministic(sites.m(t), p.images(s[:, i], 1), event_dim=3)
                pyro.sample(sites.g(t), Bernoulli(logits=g[:, i]).to_event(1))
        if not p.ordered:
            pyro.deterministic(sites.MASKS, p.images(s, 1), event_dim=4)
            pyro.sample(sites.MASK_UNITS, Bernoulli(logits=g[:, 0]).to_event(1))

    def _depth(self, drawn: Tensor, slots: int) -> Tensor:
        """Layers front to back of an index of an order, ``(B, T)``."""
        if not self.p.ordered:
            return torch.arange(slots, device=drawn.device).expand(len(drawn), -1)
        return self._orders(slots, drawn)[drawn]
