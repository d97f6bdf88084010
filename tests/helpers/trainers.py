"""Trainers and learners of tiny configurations, and comparisons of what they leave."""

import dataclasses

import pyro
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import Config, TeachingConfig, TrainConfig, additions
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.infer import scene_model
from econ_pyro.model_config import (
    EconConfig,
    ExpertConfig,
    FreeLatents,
    GreedyOptions,
    JointOptions,
    PoseLatents,
    SavingsOptions,
    SeededAttention,
    UNetAttention,
)
from econ_pyro.presets import PRESETS
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training.learner import Learner
from econ_pyro.training.trainer import Trainer


def small_expert(
    dim=2,
    layers=2,
    features=4,
    channels=(4, 4),
    hidden=8,
    patch=1,
    pose=False,
    reach=1.0,
    size=False,
    angle=False,
    shape_dim=None,
    seeded=False,
    bias=-3.0,
    colour_weight=1.0,
    place_weight=0.35,
    shape_bias=-3.0,
    **growth,
) -> ExpertConfig:
    """Tiny networks of any kind."""
    free = not pose
    latents = FreeLatents(dim=dim)
    if not free:
        latents = PoseLatents(dim=dim, reach=reach, size=size, angle=angle, shape_dim=shape_dim)
    attention = UNetAttention(channels=channels, patch=patch, hidden=hidden, bias=bias)
    if seeded:
        attention = SeededAttention(
            channels=channels,
            patch=patch,
            hidden=hidden,
            colour_weight=colour_weight,
            place_weight=place_weight,
            **growth,
        )
    return ExpertConfig(latents, layers, features, shape_bias, attention)


TINY = Config(
    scenes=SceneConfig(size=16),
    model=EconConfig(
        num_experts=3,
        num_slots=3,
        size=16,
        expert=small_expert(),
        competition=GreedyOptions(temperature=5.0),
    ),
    train=TrainConfig(
        steps=6, batch=4, validate_every=2, train_scenes=32, valid_scenes=4, lr=1e-3
    ),
    amp=False,
)


def seeded_tiny(**fields) -> Config:
    """The tiny configuration with pose latents, seeds and the joint competition."""
    options = {"dim": 5, "pose": True, "shape_dim": 2, "seeded": True} | fields
    model = dataclasses.replace(
        TINY.model, expert=small_expert(**options), competition=JointOptions(temperature=5.0)
    )
    return dataclasses.replace(TINY, model=model)


def taught_tiny(**teaching) -> Config:
    """The tiny configuration with pose latents and attention that is taught, by seeds at first."""
    expert = small_expert(dim=5, pose=True, shape_dim=2)
    model = dataclasses.replace(
        TINY.model, expert=expert, competition=SavingsOptions(temperature=5.0)
    )
    options = {"start": 0, "seeds_until": 2} | teaching
    return dataclasses.replace(TINY, model=model, teaching=TeachingConfig(**options))


def changed(config, **fields):
    """A configuration with fields of its parts changed, as ``train__clip`` or ``model__size``."""
    for name, value in fields.items():
        part, _, rest = name.partition("__")
        if rest:
            within = additions(config) if part == "recipe" else getattr(config, part)
            value = changed(within, **{rest: value})
        config = dataclasses.replace(config, **{part: value})
    return config


def callback(learner, kind):
    """The one callback of a class."""
    (found,) = [c for c in learner.callbacks if isinstance(c, kind)]
    return found


def make_trainer(config, run, steps=None, econ=None):
    if steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    run.mkdir(exist_ok=True)
    econ = econ or scene_model.build(config)
    train = GeneratedScenes(config.scenes, config.seed, config.train.train_scenes)
    valid = GeneratedScenes(config.scenes, config.seed, config.train.valid_scenes, "valid")
    pyro.set_rng_seed(config.seed)
    return Trainer(config, econ, train, valid, run, torch.device("cpu"))


def make_learner():
    config = PRESETS["random-colours"][1]
    expert = small_expert(5, 1, pose=True, reach=0.7, shape_dim=2, seeded=True)
    model = dataclasses.replace(config.model, num_experts=3, num_slots=3, size=16, expert=expert)
    config = Config(model=model, objective=config.objective, recipe=config.recipe, amp=False)
    return Learner(config, Econ(config).double(), torch.device("cpu"), ProcessGroup())


def without_clock(values: dict) -> dict:
    """Without what the machine's speed decides."""
    return {key: value for key, value in values.items() if key != "seconds"}


def equal(a: object, b: object) -> bool:
    """Whether containers and the tensors in them are bit-equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b
