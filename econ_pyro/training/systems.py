"""The systems beside ECON: model, guide and what their training needs, put together.

Each is one class or function here and one line of ``econ_pyro.infer.scene_model.BUILT_IN``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from econ_pyro.config import Config
from econ_pyro.core.meta_device import weights_of
from econ_pyro.guides.genesis import GenesisGuide
from econ_pyro.guides.genesis_v2 import GenesisV2Guide
from econ_pyro.guides.monet import MonetGuide
from econ_pyro.infer.scene_model import register
from econ_pyro.infer.slot_model import SlotModel
from econ_pyro.model_config import GenesisConfig, GenesisV2Config, MonetConfig
from econ_pyro.models.genesis import Genesis
from econ_pyro.models.genesis_v2 import GenesisV2
from econ_pyro.models.monet import Monet
from econ_pyro.training.geco import Geco


def monet_weights(config: MonetConfig) -> dict[str, Tensor]:
    """Names and sizes of MONet's weights.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    return weights_of({"model": partial(Monet, config), "guide": partial(MonetGuide, config)})


class MonetModel(SlotModel):
    """MONet of a run's configuration.

    Args:
        config: of the run.
        device: where the networks are.
        names: of the one network for all slots.

    Raises:
        EconError: true regions are given, the networks would be larger than any that we know of,
            or there is no such device.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        monet_weights(config.model)  # type: ignore[arg-type]
        super().__init__(config, Monet, lambda sizes, _: MonetGuide(sizes), device, names)


def genesis_weights(config: GenesisConfig) -> dict[str, Tensor]:
    """Names and sizes of GENESIS's weights; errors as of :func:`monet_weights`."""
    guide = partial(GenesisGuide, config, lambda z: z)
    return weights_of({"model": partial(Genesis, config), "guide": guide})


class GenesisModel(SlotModel):
    """GENESIS of a run's configuration; arguments and errors as of :class:`MonetModel`."""

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        genesis_weights(config.model)  # type: ignore[arg-type]
        super().__init__(config, Genesis, _genesis_guide, device, names)

    def callbacks(self, learner: Any) -> list[Any]:
        """GECO."""
        return [_geco(learner)]


def genesis_v2_weights(config: GenesisV2Config) -> dict[str, Tensor]:
    """Names and sizes of GENESIS-V2's weights; errors as of :func:`monet_weights`."""
    guide = partial(GenesisV2Guide, config)
    return weights_of({"model": partial(GenesisV2, config), "guide": guide})


class GenesisV2Model(SlotModel):
    """GENESIS-V2 of a run's configuration; arguments and errors as of :class:`MonetModel`."""

    # slots come in the random order of their seed pixels
    undefined = frozenset({"ooa"})

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        genesis_v2_weights(config.model)  # type: ignore[arg-type]
        super().__init__(config, GenesisV2, lambda sizes, _: GenesisV2Guide(sizes), device, names)

    def callbacks(self, learner: Any) -> list[Any]:
        """GECO."""
        return [_geco(learner)]


def _geco(learner: Any) -> Geco:
    sizes = learner.config.model
    return Geco(sizes.geco, learner.elbo, sizes.size, learner.group)


def _genesis_guide(sizes: GenesisConfig, model: Genesis) -> GenesisGuide:
    return GenesisGuide(sizes, model.masks)


def register_monet() -> None:
    """Make MONet known as a scene model."""
    register("monet", MonetConfig, MonetModel, monet_weights)


def register_genesis() -> None:
    """Make GENESIS known as a scene model."""
    register("genesis", GenesisConfig, GenesisModel, genesis_weights)


def register_genesis_v2() -> None:
    """Make GENESIS-V2 known as a scene model."""
    register("genesis-v2", GenesisV2Config, GenesisV2Model, genesis_v2_weights)
