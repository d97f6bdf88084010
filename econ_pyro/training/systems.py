"""The systems beside ECON: model, guide and what their training needs, put together.

Each is one function here and one line of ``econ_pyro.infer.scene_model.BUILT_IN``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from econ_pyro.config import Config
from econ_pyro.core.meta_device import weights_of
from econ_pyro.guides.monet import MonetGuide
from econ_pyro.infer.scene_model import register
from econ_pyro.infer.slot_model import SlotModel
from econ_pyro.model_config import MonetConfig
from econ_pyro.models.monet import Monet


def monet_weights(config: MonetConfig) -> dict[str, Tensor]:
    """Names and sizes of MONet's weights.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    return weights_of({"model": partial(Monet, config), "guide": partial(MonetGuide, config)})


def monet(
    config: Config, device: torch.device | str = "cpu", names: Sequence[str] | None = None
) -> SlotModel:
    """MONet of a run's configuration.

    Raises:
        EconError: there is no such device, or it would be larger than any that we know of.
    """
    assert isinstance(config.model, MonetConfig)
    monet_weights(config.model)
    return SlotModel(config, Monet, MonetGuide, device, names)


def register_monet() -> None:
    """Make MONet known as a scene model."""
    register("monet", MonetConfig, monet, monet_weights)
