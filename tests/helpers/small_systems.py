"""Tiny configurations of every system, for images of 16 pixels."""

from dataclasses import replace

from econ_pyro.config import Config
from econ_pyro.model_config import (
    GenesisConfig,
    GenesisV2Config,
    IodineConfig,
    MonetConfig,
    MrbmConfig,
    SlotAttentionConfig,
    SoftmaxMrbmConfig,
)
from helpers.trainers import TINY

_CHANNELS = {"channels": (4, 4), "hidden": 8}
_SMALL = {"layers": 2, "features": 4, "hidden": 8}
_MRBM = {"appearance_units": 4, "shape_units": 4, "infer_sweeps": 4, "sample_sweeps": 4}
_MODELS = {
    "monet": MonetConfig(size=16, num_slots=3, latent_dim=2, features=4, layers=2, **_CHANNELS),
    "genesis": GenesisConfig(
        size=16, num_slots=3, mask_dim=4, component_dim=2, channels=(4,) * 5, **_SMALL
    ),
    "genesis-v2": GenesisV2Config(size=16, num_slots=3, latent_dim=4, features=8, **_CHANNELS),
    "slot-attention": SlotAttentionConfig(size=16, num_slots=3, latent_dim=4, **_SMALL),
    "iodine": IodineConfig(size=16, num_slots=3, latent_dim=4, rounds=2, **_SMALL),
    "mrbm": MrbmConfig(size=16, num_slots=3, **_MRBM),
    "mrbm-softmax": SoftmaxMrbmConfig(size=16, num_slots=3, **_MRBM),
}
SYSTEMS: dict[str, Config] = {
    "econ": TINY, **{name: replace(TINY, model=model) for name, model in _MODELS.items()}
}  # fmt: skip
