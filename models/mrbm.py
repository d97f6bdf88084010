r"""The masked RBM's generative model p (Le Roux, Heess, Shotton and Winn, 2011), as Pyro programs.

Each of T layers has an appearance :math:`x_t` from a Gaussian RBM. Of layers that occlude one
another (:class:`Mrbm`), each but the furthest has a binary shape :math:`m_t` from a binary RBM,
and an order decides which is in front. The furthest layer is everywhere. At pixel i is visible

.. math:: r_{t,i} = m_{t,i} \prod_{l \text{ in front of } t} (1 - m_{l,i}), \qquad
          x_i = \sum_t r_{t,i} x_{t,i}

In the softmax variant (:class:`SoftmaxMrbm`) one RBM draws a layer for each pixel, without an
order.

Hidden units are sites: h_t of the appearance, g_t of the shape. Their log probability is the
negative free energy (:meth:`~econ_pyro.models.rbm.RBM.hidden_score`), which is not normalised.
Layers given hidden units are independent pixels, so that a layer's two sites together have the
probability of its RBM. Given an image, the layers are summed out:

.. math:: p(x | h, g, \sigma) =
          \prod_i \sum_t p(r_{t,i} = 1 | g, \sigma) N(x_i | \mu_{t,i}, \rho^2)

Indices of layers are those of RBMs, not of depth; the last is the background (t = 1).
"""

from __future__ import annotations

from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical, Normal
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro import arguments
from econ_pyro.core import sites
from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.core.handlers import APPEARANCE, SHAPE, noise
from econ_pyro.core.input_images import program_images, program_mask
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import PixelMixture, SlotMasks
from econ_pyro.core.tensors import describe_tensor, site_value
from econ_pyro.errors import EconError
from econ_pyro.limits import MAX_ORDERED_LAYERS
from econ_pyro.models.rbm import RBM, BinaryRBM, GaussianRBM, HiddenUnits, OneHotRBM

CHUNK = 24
"""Orders that are scored at a time."""


class MaskedLayers(NamedTuple):
    """What a program made of its layers; the layer axis is that of the RBMs."""

    image: Tensor
    """The image that was observed, or painted, ``(B, 3, H, W)``."""
    mask: Tensor
    """What is visible of each layer, ``(B, T, 1, H, W)``; sums to 1 over layers."""
    mean: Tensor
    """Appearances, ``(B, T, 3, H, W)``."""
    shape: Tensor
    """Unoccluded shapes, ``(B, T, 1, H, W)``; of the softmax variant, the masks."""
    order: Tensor
    """Layers front to back, ``(B, T)`` int64."""


def all_orders(slots: int, like: Tensor) -> Tensor:
    """Every depth order of T layers with the last at the back, ``((T - 1)!, T)`` int64."""
    rows = [(*order, slots - 1) for order in permutations(range(slots - 1))]
    return torch.tensor(rows, device=like.device)


def depth_log_masks(logits: Tensor, order: Tensor) -> Tensor:
    """Log probability that each layer is the visible one, layers front to back.

    Args:
        logits: of the shapes of all layers but the last, ``(B, T - 1, D)``.
        order: layers front to back, ``(B, T)``, or ``(O, T)`` for O orders of every image.

    Returns:
        ``(B, T, D)``, or ``(B, O, T, D)``.
    """
    rest = torch.zeros_like(logits[:, :1]) if logits.shape[1] else None
    if rest is None:  # a layer alone
        return logits.new_zeros(len(logits), *order.shape[:-1], 1, logits.shape[-1])
    log_m = torch.cat([F.logsigmoid(logits), rest], 1)
    log_not = torch.cat([F.logsigmoid(-logits), rest], 1)
    log_m, log_not = log_m[:, order], log_not[:, order]
    return log_m + log_not.cumsum(-2) - log_not


class Mrbm(nn.Module):
    """RBMs of appearances and shapes, and the programs that draw images with them.

    Args:
        config: number of layers, sizes, sigma.
    """

    ordered = True
    """Whether layers occlude one another."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        layers, pixels = config.num_slots, config.size**2
        self.appearance = GaussianRBM(layers, 3 * pixels, config.appearance_units, config.sigma)
        with torch.no_grad():  # every layer starts as a colour of its own
            self.appearance.visible_bias.view(layers, 3, -1).copy_(torch.rand(layers, 3, 1))
        self.shapes: Any = self._shapes(pixels)
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def _shapes(self, pixels: int) -> RBM:
        rbm = BinaryRBM(self.config.num_slots - 1, pixels, self.config.shape_units)
        nn.init.constant_(rbm.visible_bias, -2.0)  # most of the image is no object's
        return rbm

    def machines(self, slots: int) -> tuple[RBM, RBM]:
        """RBMs of the appearances and of the shapes of T layers.

        Of more layers than were trained, further ones are like the first ones again.

        Raises:
            EconError: the model has no layer before the background, or there would be too many
                orders.
        """
        trained = self.config.num_slots
        if slots == trained:
            return self.appearance, self.shapes
        if trained == 1:
            raise EconError("1 for slots, of a model of one layer", str(slots))
        if self.ordered and slots > MAX_ORDERED_LAYERS:
            expected = f"at most {MAX_ORDERED_LAYERS} for slots, as every order is tried"
            raise EconError(expected, str(slots))
        rows = [i % (trained - 1) for i in range(slots - 1)]
        objects = torch.tensor(rows, dtype=torch.long, device=self._zero.device)
        last = objects.new_tensor([trained - 1])
        both = torch.cat([objects, last])
        return self.appearance.chosen(both), self.shapes.chosen(objects if self.ordered else both)

    def log_masks(self, logits: Tensor, order: Tensor) -> Tensor:
        """Log probability that each layer is the visible one, ``(B, T, D)``.

        Args:
            logits: of the shapes, ``(B, T - 1, D)``.
            order: layers front to back, ``(B, T)``.
        """
        rows = torch.arange(len(order), device=order.device)[:, None]
        rest = torch.zeros_like(self._zero).expand(len(order), 1, self.config.size**2)
        log_m = torch.cat([F.logsigmoid(logits), rest], 1)[rows, order]
        log_not = torch.cat([F.logsigmoid(-logits), rest], 1)[rows, order]
        return (log_m + log_not.cumsum(1) - log_not)[rows, order.argsort(1)]

    def order_scores(self, logits: Tensor, fit: Tensor) -> Tensor:
        r"""Log probability of the image in each order, up to a constant, ``(B, (T - 1)!)``.

        .. math:: \log p(x | h, g, \sigma) = \sum_i \log \sum_t p(r_{t,i} = 1 | g, \sigma) p_{t,i}

        Args:
            logits: of the shapes, ``(B, T - 1, D)``.
            fit: log p of each pixel by each layer, ``(B, T, D)``.
        """
        scores = []
        for orders in all_orders(fit.shape[1], fit).split(CHUNK):
            log_m = depth_log_masks(logits, orders)
            scores.append((log_m + fit[:, orders]).logsumexp(2).sum(-1))
        return torch.cat(scores, 1)

    def fit(self, x: Tensor, mean: Tensor) -> Tensor:
        """Log p of each pixel by each layer, up to a constant, ``(B, T, D)``.

        Args:
            x: images, ``(B, 3 D)``.
            mean: appearances, ``(B, T, 3 D)``.
        """
        errors = (x[:, None] - mean).square().unflatten(-1, (3, -1)).sum(2)
        return -errors / (2 * self.config.sigma**2)

    def images(self, flat: Tensor, channels: int) -> Tensor:
        """Pixels in a row as images, ``(..., C, H, W)``."""
        return flat.unflatten(-1, (channels, self.config.size, self.config.size))

    def forward(
        self, x: Tensor | None = None, slots: int | None = None, scenes: int = 1
    ) -> MaskedLayers:
        """The program: sites ``h_t`` and ``g_t`` for t = T..1, ``order`` and ``x``.

        Args:
            x: images, ``(B, 3, H, W)``; drawn if not given.
            slots: number of layers T; the configuration's if not given.
            scenes: number of images B, where they are drawn.

        Raises:
            EconError: a value has another shape or type, or a number makes no sense.
        """
        if x is not None:
            x = program_images(x, self.config.size, self._zero)
            scenes = len(x)
        slots, scenes = self._numbers(slots, scenes)
        with self._program(), pyro.plate(sites.SCENES, scenes):
            mean, logits, order = self._hidden(slots, scenes)
            mask = self.images(self.log_masks(logits, order).exp(), 1)
            sigma = self._zero + self.config.sigma
            mixture = PixelMixture(mask, mean, sigma.expand(slots))
            image = pyro.sample(sites.IMAGE, mixture, obs=x, infer=noise(APPEARANCE))
        return MaskedLayers(image, mask, mean, self._whole(logits, mask), order)

    def prior(self, scenes: int = 1, slots: int | None = None) -> MaskedLayers:
        """The program with layers: sites ``h_t, g_t, order, m_t, x_t`` and ``image``.

        Hidden units come from ``sample_sweeps`` sweeps of Gibbs sampling. The painted image is a
        deterministic site.

        Args:
            scenes: number of scenes B.
            slots: number of layers T; the configuration's if not given.
        """
        slots, scenes = self._numbers(slots, scenes)
        with self._program(), pyro.plate(sites.SCENES, scenes):
            mean, logits, order = self._hidden(slots, scenes)
            mask, shape = self._draw_masks(logits, order)
            drawn = []
            for i, t in enumerate(sites.front_to_back(slots)):
                pixels = Normal(mean[:, i], self.config.sigma).to_event(3)
                x_t = pyro.sample(sites.x(t), pixels, infer=noise(APPEARANCE))
                event = (3, self.config.size, self.config.size)
                drawn.append(site_value(sites.x(t), x_t, scenes, event, self._zero))
            v = torch.stack(drawn, 1)
            image = pyro.deterministic(sites.COMPOSED, compose(mask, v), event_dim=3)
        return MaskedLayers(image, mask, v, shape, order)

    def _numbers(self, slots: int | None, scenes: int) -> tuple[int, int]:
        slots = self.config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        return slots, arguments.as_int("scenes", scenes)

    def _program(self) -> Any:
        parts = {"appearance": self.appearance, "shapes": self.shapes}
        return program(**{name: nn.ModuleList([part]) for name, part in parts.items()})

    def _hidden(self, slots: int, scenes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden sites and the order; appearances, logits of the shapes, layers front to back."""
        appearance, shapes = self.machines(slots)
        h = self._units(sites.h, appearance, slots, scenes)
        mean = self.images(appearance.field(h), 3)
        g = self._shape_units(shapes, slots, scenes)
        return mean, shapes.field(g), self._order(slots, scenes)

    def _units(self, name: Any, rbm: RBM, slots: int, scenes: int) -> Tensor:
        """Hidden units of the first machines, ``(B, R, J)``."""
        found, sweeps = [], self.config.sample_sweeps
        size = rbm.hidden_bias.shape[-1]
        for i, t in enumerate(sites.front_to_back(slots)[: len(rbm.hidden_bias)]):
            one = rbm if len(rbm.hidden_bias) == 1 else _machine(rbm, i)
            units = HiddenUnits(
                partial(_score, one), partial(_draw, one, sweeps), torch.Size((scenes,)), size
            )
            value = pyro.sample(name(t), units)
            found.append(site_value(name(t), value, scenes, (size,), self._zero))
        return torch.stack(found, 1) if found else self._zero.expand(scenes, 0, size)

    def _shape_units(self, shapes: RBM, slots: int, scenes: int) -> Tensor:
        return self._units(sites.g, shapes, slots, scenes)

    def _order(self, slots: int, scenes: int) -> Tensor:
        orders = all_orders(slots, self._zero)
        even = self._zero.expand(scenes, len(orders))
        o = pyro.sample(sites.ORDER, Categorical(logits=even))
        return orders[order_value(o, scenes, len(orders))]

    def _draw_masks(self, logits: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Sites ``m_t``; what is visible, and the shapes."""
        scenes, slots = order.shape
        found = []
        for i, t in enumerate(sites.front_to_back(slots)[:-1]):
            coins = Bernoulli(logits=self.images(logits[:, i], 1)).to_event(3)
            m_t = pyro.sample(sites.m(t), coins, infer=noise(SHAPE))
            found.append(program_mask(sites.m(t), m_t, scenes, self.config.size, self._zero))
        size = self.config.size
        found.append(torch.ones_like(self._zero).expand(scenes, 1, size, size))
        shape = torch.stack(found, 1)
        rows = torch.arange(scenes, device=order.device)[:, None]
        mask = regions_of_shapes(shape[rows, order])[rows, order.argsort(1)]
        return mask, shape

    def _whole(self, logits: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([self.images(logits.sigmoid(), 1), torch.ones_like(mask[:, :1])], 1)


class SoftmaxMrbm(Mrbm):
    """The variant without an order: one RBM over a mask that names each pixel's layer."""

    ordered = False

    def _shapes(self, pixels: int) -> RBM:
        return OneHotRBM(self.config.num_slots, pixels, self.config.shape_units)

    def log_masks(self, logits: Tensor, order: Tensor) -> Tensor:
        """Log probability that each layer is the visible one, ``(B, T, D)``."""
        return logits.log_softmax(1)

    def order_scores(self, logits: Tensor, fit: Tensor) -> Tensor:
        """Log probability of the image, up to a constant, ``(B, 1)``: there is one order."""
        return (logits.log_softmax(1) + fit).logsumexp(1).sum(-1, keepdim=True)

    def _shape_units(self, shapes: RBM, slots: int, scenes: int) -> Tensor:
        return self._units(lambda t: sites.MASK_UNITS, shapes, slots, scenes)

    def _order(self, slots: int, scenes: int) -> Tensor:
        return torch.arange(slots, device=self._zero.device).expand(scenes, -1)

    def _draw_masks(self, logits: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Site ``masks``; what is visible, twice."""
        log_m = self.images(logits.log_softmax(1), 1)
        mask = pyro.sample(sites.MASKS, VisibleLayer(log_m), infer=noise(SHAPE))
        return mask, mask

    def _whole(self, logits: Tensor, mask: Tensor) -> Tensor:
        return mask


class VisibleLayer(SlotMasks):
    """A layer for each pixel, drawn as zeros and ones."""

    has_rsample = False


def order_value(o: Any, scenes: int, orders: int) -> Tensor:
    """Check the site ``order``, which handlers may have set.

    Raises:
        EconError: it is no index of an order for each scene.
    """
    expected = f"an order from 0 to {orders - 1} for each of {scenes} scenes, torch.long"
    if not isinstance(o, Tensor) or o.dtype != torch.long or o.shape != (scenes,):
        raise EconError(expected, describe_tensor(o))
    if o.numel() and not (0 <= int(o.min()) and int(o.max()) < orders):
        raise EconError(expected, str(o[(o < 0) | (o >= orders)][0].item()))
    return o


def _machine(rbm: RBM, i: int) -> RBM:
    return rbm.chosen(torch.tensor([i], device=rbm.hidden_bias.device))


def _score(rbm: RBM, h: Tensor) -> Tensor:
    return rbm.hidden_score(h[:, None])[:, 0]


def _draw(rbm: RBM, sweeps: int, n: int) -> Tensor:
    return rbm.prior_hidden(n, sweeps)[:, 0]
