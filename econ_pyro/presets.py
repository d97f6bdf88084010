"""Named configurations: the paper's experiments, and a small one for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from econ_pyro.config import Config, ExpertConfig, ModelConfig, ObjectiveConfig, TrainConfig
from econ_pyro.scene_config import SceneConfig

# shapes of one class differ in place alone here
_EXPERT = ExpertConfig(centred=True, reach=0.7, shape_latents=2, seeded=True)
_SMALL = ModelConfig(expert=replace(_EXPERT, features=16, channels=(16, 32, 32, 32)))
# what is far from the background in colour comes apart as well at half the resolution
_HALF = replace(_SMALL, expert=replace(_SMALL.expert, channels=(16, 32, 32), patch=2))
# masks that start at one half, as published
_PAPER_EXPERT = ExpertConfig(latent=2, layers=4, features=32, attention_bias=0.0, shape_bias=0.0)
_RECIPE = ObjectiveConfig(
    beta=1.0,
    gamma=0.5,
    gamma_end=1.0,
    gamma_steps=1200,
    lam=1.0,
    order_from=75,
    temperature=2.0,
    temperature_end=1.0,
    temperature_steps=1200,
    balance=3.0,
    balance_limit=300.0,
    balance_until=700,
    occlude=0.5,
    units=True,
    refine=True,
)

_TRAIN = TrainConfig(steps=1000, batch=16, lr=2e-3, schedule="cosine", restart_below=0.2)

_UNIQUE = Config(model=_SMALL, objective=_RECIPE, train=_TRAIN)

PRESETS: dict[str, tuple[str, Config]] = {
    "quick": (
        "unique-colours in at most 20 minutes on two CPU cores, attention at half the resolution.",
        replace(_UNIQUE, model=_HALF, train=replace(_UNIQUE.train, minutes=20.0)),
    ),
    "unique-colours": (
        "The paper's Fig. 1: circles red, squares green, triangles blue.",
        _UNIQUE,
    ),
    "random-colours": (
        "The paper's Figs. 4, 6 and 7: objects of random colours.",
        Config(
            scenes=SceneConfig(kind="random-colours"),
            model=_SMALL,
            objective=_RECIPE,
            train=_TRAIN,
        ),
    ),
    "sprites": (
        "Objects of several colours, with --scenes.sprites or --data.",
        Config(
            scenes=SceneConfig(background="grey", object_size=(0.4375, 0.4375)),
            model=replace(
                _SMALL,
                # what is of one object is to cost less by its colours than by another's shape
                sigma_x=0.25,
                expert=replace(_SMALL.expert, latent=6, colour_weight=0.2, place_weight=0.2),
            ),
            objective=_RECIPE,
            train=_TRAIN,
        ),
    ),
    "single-expert": (
        "The paper's Fig. 5: one expert, true regions given, a generative extension of MONet.",
        Config(
            model=replace(
                _SMALL,
                experts=1,
                # one expert for all classes: its shapes need latents to tell them apart
                expert=replace(_SMALL.expert, latent=8, shape_latents=5),
            ),
            objective=replace(_RECIPE, gamma=1.0, balance=0.0),
            train=replace(_TRAIN, steps=3000),
            true_regions=True,
        ),
    ),
    "paper-unique-colours": (
        "Fig. 1 as published, beta and gamma as printed (9.54 and 0.52).",
        Config(
            model=ModelConfig(expert=_PAPER_EXPERT),
            objective=ObjectiveConfig(beta=9.54, gamma=0.52, lam=1.0, temperature=1.0),
        ),
    ),
    "paper-unique-colours-swapped": (
        "Fig. 1 with beta and gamma swapped (0.52 and 9.54), as their stated ranges suggest.",
        Config(
            model=ModelConfig(expert=_PAPER_EXPERT),
            objective=ObjectiveConfig(beta=0.52, gamma=9.54, lam=1.0, temperature=1.0),
        ),
    ),
    "paper-random-colours": (
        "Figs. 4, 6 and 7 as published: beta 1, gamma 3.26, lambda 0.",
        Config(
            scenes=SceneConfig(kind="random-colours"),
            model=ModelConfig(expert=ExpertConfig(attention_bias=0.0, shape_bias=0.0)),
            objective=ObjectiveConfig(beta=1.0, gamma=3.26, lam=0.0, temperature=1.0),
        ),
    ),
}
