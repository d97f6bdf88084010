"""The systems beside ECON: model, guide and what their training needs, put together.

Each is one class or function here and one line of ``econ_pyro.infer.scene_model.BUILT_IN``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
from torch import Tensor, nn

from econ_pyro.core import sites
from econ_pyro.core.handlers import one_at_a_time
from econ_pyro.core.meta_device import weights_of
from econ_pyro.core.slot_masks import PixelMixture
from econ_pyro.guides.genesis import GenesisGuide
from econ_pyro.guides.genesis_v2 import GenesisV2Guide
from econ_pyro.guides.iodine import IodineGuide
from econ_pyro.guides.monet import MonetGuide
from econ_pyro.guides.slot_attention import SlotAttentionGuide
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.scene_model import NEED_ORDER, register
from econ_pyro.infer.slot_elbo import refined_terms
from econ_pyro.infer.slot_model import SlotModel
from econ_pyro.model_config import (
    GenesisConfig,
    GenesisV2Config,
    IodineConfig,
    MonetConfig,
    SlotAttentionConfig,
)
from econ_pyro.models.genesis import Genesis
from econ_pyro.models.genesis_v2 import GenesisV2
from econ_pyro.models.iodine import Iodine
from econ_pyro.models.monet import Monet
from econ_pyro.models.slot_attention import SlotAttention
from econ_pyro.training.geco import Geco


def monet_weights(config: MonetConfig) -> dict[str, Tensor]:
    """Names and sizes of MONet's weights.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    return weights_of({"model": partial(Monet, config), "guide": partial(MonetGuide, config)})


class MonetModel(SlotModel):
    """MONet of a run's configuration."""

    weights = staticmethod(monet_weights)

    @staticmethod
    def _programs(sizes: MonetConfig) -> tuple[nn.Module, nn.Module]:
        return Monet(sizes), MonetGuide(sizes)


class _GecoModel(SlotModel):
    """A model whose weight of the KL follows GECO."""

    def callbacks(self, learner: Any) -> list[Any]:
        """GECO."""
        sizes = learner.config.model
        return [Geco(sizes.geco, learner.elbo, sizes.size, learner.group)]


def genesis_weights(config: GenesisConfig) -> dict[str, Tensor]:
    """Names and sizes of GENESIS's weights; errors as of :func:`monet_weights`."""
    guide = partial(GenesisGuide, config, lambda z: z)
    return weights_of({"model": partial(Genesis, config), "guide": guide})


class GenesisModel(_GecoModel):
    """GENESIS of a run's configuration."""

    weights = staticmethod(genesis_weights)

    @staticmethod
    def _programs(sizes: GenesisConfig) -> tuple[nn.Module, nn.Module]:
        model = Genesis(sizes)
        return model, GenesisGuide(sizes, model.masks)

    def _latent_sites(self, z: Tensor) -> dict[str, Tensor]:
        mask, component = z.tensor_split([self.model.config.mask_dim], 2)
        order = list(enumerate(sites.front_to_back(z.shape[1])))
        found = {sites.z_mask(t): mask[:, i] for i, t in order}
        return found | {sites.z_component(t): component[:, i] for i, t in order}


def genesis_v2_weights(config: GenesisV2Config) -> dict[str, Tensor]:
    """Names and sizes of GENESIS-V2's weights; errors as of :func:`monet_weights`."""
    guide = partial(GenesisV2Guide, config)
    return weights_of({"model": partial(GenesisV2, config), "guide": guide})


class GenesisV2Model(_GecoModel):
    """GENESIS-V2 of a run's configuration."""

    # slots come in the random order of their seed pixels
    undefined = NEED_ORDER
    weights = staticmethod(genesis_v2_weights)

    @staticmethod
    def _programs(sizes: GenesisV2Config) -> tuple[nn.Module, nn.Module]:
        return GenesisV2(sizes), GenesisV2Guide(sizes)


def slot_attention_weights(config: SlotAttentionConfig) -> dict[str, Tensor]:
    """Names and sizes of Slot Attention's weights; errors as of :func:`monet_weights`."""
    guide = partial(SlotAttentionGuide, config)
    return weights_of({"model": partial(SlotAttention, config), "guide": guide})


class SlotAttentionModel(SlotModel):
    """Slot Attention of a run's configuration."""

    # slots come in the random order of their starts, and have no prior
    undefined = NEED_ORDER
    generative = False
    weights = staticmethod(slot_attention_weights)

    @staticmethod
    def _programs(sizes: SlotAttentionConfig) -> tuple[nn.Module, nn.Module]:
        return SlotAttention(sizes), SlotAttentionGuide(sizes)


def iodine_weights(config: IodineConfig) -> dict[str, Tensor]:
    """Names and sizes of IODINE's weights; errors as of :func:`monet_weights`."""
    unused = lambda z: (z, z), lambda mean, m: PixelMixture(m, mean, m)
    guide = partial(IodineGuide, config, *unused)
    return weights_of({"model": partial(Iodine, config), "guide": guide})


class IodineModel(SlotModel):
    """IODINE of a run's configuration."""

    undefined = NEED_ORDER  # slots have no order
    weights = staticmethod(iodine_weights)

    @staticmethod
    def _programs(sizes: IodineConfig) -> tuple[nn.Module, nn.Module]:
        model = Iodine(sizes)
        return model, IodineGuide(sizes, model.decode, model.mixture)

    def _terms(self, x: Tensor) -> Terms:
        """A weighted mean over rounds."""
        with one_at_a_time(), pyro.settings.context(module_local_params=True):
            return refined_terms(self.model, self.guide, x, self.config.model.num_slots)


def register_monet() -> None:
    """Make MONet known as a scene model."""
    register("monet", MonetConfig, MonetModel, monet_weights)


def register_genesis() -> None:
    """Make GENESIS known as a scene model."""
    register("genesis", GenesisConfig, GenesisModel, genesis_weights)


def register_genesis_v2() -> None:
    """Make GENESIS-V2 known as a scene model."""
    register("genesis-v2", GenesisV2Config, GenesisV2Model, genesis_v2_weights)


def register_slot_attention() -> None:
    """Make Slot Attention known as a scene model."""
    register("slot-attention", SlotAttentionConfig, SlotAttentionModel, slot_attention_weights)


def register_iodine() -> None:
    """Make IODINE known as a scene model."""
    register("iodine", IodineConfig, IodineModel, iodine_weights)
