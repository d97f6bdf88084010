"""The masked RBM as a scene model: contrastive divergence, and posterior means of its chain."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from econ_pyro.core.compositing import compose, regions_of_shapes, scopes
from econ_pyro.core.handlers import one_at_a_time, seeded
from econ_pyro.core.meta_device import weights_of
from econ_pyro.core.slot_masks import fractions
from econ_pyro.guides.mrbm import Chain, MrbmSampler
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.scene_model import NEED_ORDER, Drawn, SceneModel, register
from econ_pyro.infer.slot_model import SlotModel
from econ_pyro.model_config import MrbmConfig, SoftmaxMrbmConfig
from econ_pyro.models.mrbm import Mrbm, SoftmaxMrbm, all_orders
from econ_pyro.models.rbm import RBM, one_of


def mrbm_weights(config: MrbmConfig) -> dict[str, Tensor]:
    """Names and sizes of the weights.

    Raises:
        EconError: the RBMs would be larger than any networks that we know of.
    """
    return weights_of({"model": partial(Mrbm, config)})


def softmax_mrbm_weights(config: SoftmaxMrbmConfig) -> dict[str, Tensor]:
    """The same of the softmax variant."""
    return weights_of({"model": partial(SoftmaxMrbm, config)})


def divergence(rbm: RBM, v: Tensor, sweeps: int) -> Tensor:
    r"""A difference of free energies whose gradient is contrastive divergence's, ``(B, R)``.

    :math:`F(v) - F(v')` with v' after some sweeps from v; v' has no gradient.

    Args:
        rbm: R machines.
        v: visible units of the data, ``(B, R, D)``.
        sweeps: of Gibbs sampling: CD-1, CD-2 and so on.
    """
    with torch.no_grad():
        negative = rbm.gibbs(v, sweeps)
    return rbm.free_energy(v) - rbm.free_energy(negative)


class MrbmModel(SlotModel):
    """The masked RBM of a run's configuration."""

    weights: ClassVar[Any] = staticmethod(mrbm_weights)

    @staticmethod
    def _programs(sizes: Any) -> tuple[nn.Module, nn.Module]:
        model = Mrbm(sizes)
        return model, MrbmSampler(model, all_orders, one_of)

    def _terms(self, x: Tensor) -> Terms:
        """Contrastive divergence of each layer's RBMs, ``(B, T)``.

        L_x is that of appearances, L_r that of shapes, L_z is 0. Only gradients mean something.
        """
        sizes: Any = self.config.model
        flat = x.flatten(1).to(next(self.parameters()).dtype)
        # energies are differences of large sums
        with one_at_a_time(), torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                units = self.guide.run(flat, sizes.num_slots, sizes.sweeps - 1)
                chain: Chain = self.guide.sweep(flat, *units)
            l_x = divergence(self.model.appearance, chain.appearance, sizes.cd_steps)
            shapes = divergence(self.model.shapes, chain.shape, sizes.cd_steps)
        rest = l_x.new_zeros(len(x), sizes.num_slots - shapes.shape[1])
        return Terms(l_x, torch.zeros_like(l_x), torch.cat([shapes, rest], 1))

    def sampling_effort(self) -> str:
        """Gibbs sweeps, each of which tries all depth orders."""
        sizes: Any = self.config.model
        orders = math.factorial(sizes.num_slots - 1) if self.model.ordered else 1
        return f"{sizes.infer_sweeps} sweeps x {orders} orders"

    def redraw(self, layers: Decomposition) -> Tensor:
        """Draw images anew from appearances and shapes: hidden units belong to one layer's RBM.

        Args:
            layers: of this model.

        Returns:
            ``(B, 3, H, W)`` on the CPU.
        """
        if self.model.ordered:
            return SceneModel.redraw(self, layers)
        return compose(layers.shape / layers.shape.sum(1, keepdim=True), layers.mean)

    def _drawn(self, drawn: Any, k: Tensor) -> Drawn:
        mean, mask, shape = (
            in_order(a, drawn.order) for a in (drawn.mean, drawn.mask, drawn.shape)
        )
        if not self.model.ordered:
            shape = fractions(mask)
        return Drawn(compose(regions_of_shapes(shape), mean), k, shape, mean)

    def _decomposed(self, x: Tensor, slots: int) -> Decomposition:
        """Posterior means over the second half of the sweeps, in the likeliest order."""
        sizes: Any = self.config.model
        sweeps = sizes.infer_sweeps
        flat, kept = x.flatten(1), sweeps - sweeps // 2
        sums: list[Tensor] = []
        # the same images, in the same batches, give the same layers
        with seeded(0, x.device), torch.autocast(x.device.type, enabled=False):
            h, g = self.guide.run(flat, slots, sweeps // 2)
            for _ in range(kept):
                chain: Chain = self.guide.sweep(flat, h, g)
                h, g = chain.h, chain.g
                parts = self._parts(flat, chain)
                sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        probs, region, mean, shape, z, l_x, l_r = (a / kept for a in sums)
        images = self.model.images
        depth = self.guide._depth(probs.argmax(1), slots)
        none = l_x.new_zeros(*depth.shape, 0)  # no expert competed
        k = torch.zeros_like(depth)
        region = images(region, 1)
        d = Decomposition(
            x, k, region, region, images(mean, 3), images(shape, 1), z,
            Terms(l_x, torch.zeros_like(l_x), l_r), none, k - 1,
        ).in_order(depth)  # fmt: skip
        return replace(d, scope=scopes(d.region)).cpu()

    def _parts(self, flat: Tensor, chain: Chain) -> list[Tensor]:
        """What one sweep adds to the means: probabilities instead of samples where they exist."""
        q = chain.log_visible.exp()
        errors = -self.model.fit(flat, chain.mean)
        l_x = (q * errors).sum(-1)
        # what a posterior of 0 adds is 0, whatever the prior is
        gap = (chain.log_visible - chain.log_mask).nan_to_num(0.0, 0.0, 0.0)
        l_r = (q * gap).sum(-1)
        shape = q
        if self.model.ordered:
            rank = chain.order.argsort(1)
            nearer = rank[:, None, :] < rank[:, :, None]  # (B, T, T): the other is in front
            covered = torch.einsum("btl,bld->btd", nearer.to(q.dtype), q)
            objects = q[:, :-1] + covered[:, :-1] * chain.logits.sigmoid()
            shape = torch.cat([objects, torch.ones_like(q[:, :1])], 1)
        z = chain.h
        if self.model.ordered:  # the background has no shape
            units = chain.g.new_zeros(len(z), 1, chain.g.shape[-1])
            z = torch.cat([z, torch.cat([chain.g, units], 1)], -1)
        return [chain.order_probs, q, chain.mean, shape, z, l_x, l_r]


class SoftmaxMrbmModel(MrbmModel):
    """The softmax variant."""

    undefined = NEED_ORDER | {"amodal_iou"}
    weights = staticmethod(softmax_mrbm_weights)

    @staticmethod
    def _programs(sizes: Any) -> tuple[nn.Module, nn.Module]:
        model = SoftmaxMrbm(sizes)
        return model, MrbmSampler(model, all_orders, one_of)


def register_mrbm() -> None:
    """Make the masked RBM known as a scene model."""
    register("mrbm", MrbmConfig, MrbmModel, mrbm_weights)


def register_softmax_mrbm() -> None:
    """Make its softmax variant known as a scene model."""
    register("mrbm-softmax", SoftmaxMrbmConfig, SoftmaxMrbmModel, softmax_mrbm_weights)
