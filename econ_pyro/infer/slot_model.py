"""Scene models whose slots share the pixels of an image out: MONet, GENESIS.

They have no experts and no competition. The programs p and q come from outside; decomposing,
sampling and the terms of the loss are the same for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.config import Config
from econ_pyro.core import sites
from econ_pyro.core.compositing import scopes
from econ_pyro.core.handlers import CleanLayers, one_at_a_time, seeded
from econ_pyro.core.input_images import as_images
from econ_pyro.core.slot_masks import fractions
from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.scene_model import Drawn, SceneModel
from econ_pyro.infer.slot_elbo import Explained, explained


class SlotModel(SceneModel):
    """A model and a guide of slots.

    Args:
        config: of the run.
        device: where the networks are.
        names: of the one network for all slots.

    Raises:
        EconError: true regions are given, the networks would be larger than any that we know of,
            or there is no such device.
    """

    weights: ClassVar[Any]
    """A function: the configuration of a model to names and sizes of its weights."""

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        type(self).weights(config.model)  # refuses networks that are too large
        super().__init__(config, names)
        device = arguments.as_device(device)
        if config.gt_masks:
            raise self._no_evidence()
        with seeded(config.seed % 2**64, torch.device("cpu")):
            model, guide = self._programs(config.model)
        self.model: Any = model.to(device)
        self.guide: Any = guide.to(device)

    @staticmethod
    @abstractmethod
    def _programs(sizes: Any) -> tuple[nn.Module, nn.Module]:
        """New p and q: programs of ``(x, slots)``, with ``prior``, and ``(x, slots, mean)``."""

    def loss_terms(self, x: Tensor, evidence: Tensor | None = None) -> Terms:
        """Terms of every slot, ``(B, T)`` each, differentiable.

        Args:
            x: images, ``(B, 3, H, W)``.
            evidence: None.

        Raises:
            EconError: true regions are given.
        """
        if evidence is not None:
            raise self._no_evidence()
        return self._terms(x)

    def _terms(self, x: Tensor) -> Terms:
        return self._explained(x, self.config.model.num_slots).terms

    @torch.no_grad()
    def decompose(
        self,
        images: Tensor,
        slots: int | None = None,
        batch: int = 32,
        evidence: Tensor | None = None,
        refine: bool = True,
    ) -> Decomposition:
        """Take images apart, by posterior means, in the order in which slots take their pixels.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], H = W = the model's size.
            slots: number of slots; as in training if not given.
            batch: images at a time.
            evidence: None.
            refine: has no effect: there is no refinement.

        Raises:
            EconError: the images have another shape, type or range, a number makes no sense, or
                true regions are given.
        """
        if evidence is not None:
            raise self._no_evidence()
        weight = next(self.parameters())
        images = as_images(images, self.config.model.size, weight.dtype)
        slots = self.config.model.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        pieces = images.split(arguments.as_int("batch", batch))
        return Decomposition.cat([self._decomposed(x.to(weight.device), slots) for x in pieces])

    @torch.no_grad()
    def sample(self, n: int = 1, *, seed: int | None = None) -> Drawn:
        """New scenes, without pixel noise; painting their layers gives the image.

        Args:
            n: number of scenes.
            seed: of the sample; the global generator is then left as it was.

        Raises:
            EconError: a number makes no sense.
        """
        n, sizes, weight = arguments.as_int("n", n), self.config.model, next(self.parameters())
        item = sizes.num_slots * 4 * sizes.size**2 * weight.dtype.itemsize
        arguments.check_memory("n", n, item)
        local = pyro.settings.context(module_local_params=True)
        with seeded(seed, weight.device), local, CleanLayers():
            drawn = self.model.prior(n)
        k = torch.zeros(drawn.mask.shape[:2], dtype=torch.long, device=weight.device)
        return self._drawn(drawn, k)

    @torch.no_grad()
    def redraw(self, layers: Decomposition) -> Tensor:
        """Draw images anew from the latents of slots: masks depend on all of them.

        Args:
            layers: of this model; only ``z`` counts.

        Returns:
            ``(B, 3, H, W)`` on the CPU.
        """
        weight, slots = next(self.parameters()), layers.z.shape[1]
        given = self._latent_sites(layers.z.to(weight.device, weight.dtype))
        local = pyro.settings.context(module_local_params=True)
        program = poutine.condition(self.model.prior, data=given)
        with one_at_a_time(), local, CleanLayers():
            return program(len(layers), slots).image.cpu()

    def _latent_sites(self, z: Tensor) -> dict[str, Tensor]:
        """The sites that hold the latents of a decomposition, ``(B, T, L)``."""
        order = sites.front_to_back(z.shape[1])
        return {sites.z(t): z[:, i] for i, t in enumerate(order)}

    def _drawn(self, drawn: Any, k: Tensor) -> Drawn:
        """What ``prior`` drew, as layers that give the image when they are painted."""
        return Drawn(drawn.image, k, fractions(drawn.mask), drawn.mean)

    def _explained(self, x: Tensor, slots: int, mean: bool = False) -> Explained:
        # the optimiser holds the parameters: nothing goes into Pyro's global store
        with one_at_a_time(), pyro.settings.context(module_local_params=True):
            return explained(self.model, self.guide, x, slots, mean)

    def _decomposed(self, x: Tensor, slots: int) -> Decomposition:
        found, terms = self._explained(x, slots, mean=True)
        k = torch.zeros(found.mask.shape[:2], dtype=torch.long, device=x.device)
        none = terms.x.new_zeros(*k.shape, 0)  # no expert competed
        d = Decomposition(
            x, k, scopes(found.mask), found.mask, found.mean, found.shape, found.z, terms, none,
            k - 1,
        )  # fmt: skip
        return d.cpu()

    def _no_evidence(self) -> EconError:
        return EconError(
            "a model that takes true regions, for gt-masks",
            f"one of kind {getattr(self.config.model, 'kind', '?')}, which has masks of its own",
            "leave out --gt-masks",
        )
