"""Trainers and learners of tiny configurations, and comparisons of what they leave."""

import dataclasses

import pyro
import torch

from econ_pyro.config import Config, ExpertConfig, ModelConfig, ObjectiveConfig, TrainConfig
from econ_pyro.data.splits import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.guides.recognition import Recognition
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.presets import PRESETS
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import Learner
from econ_pyro.training.trainer import Trainer

TINY = Config(
    scenes=SceneConfig(size=16),
    model=ModelConfig(
        experts=3,
        steps=3,
        size=16,
        expert=ExpertConfig(latent=2, layers=2, features=4, channels=(4, 4), hidden=8),
    ),
    objective=ObjectiveConfig(temperature=5.0),
    train=TrainConfig(
        steps=6, batch=4, validate_every=2, train_scenes=32, valid_scenes=4, lr=1e-3
    ),
    amp=False,
)


def make_trainer(config, run, steps=None, begin=None, econ=None):
    if steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    run.mkdir(exist_ok=True)
    econ = econ or Econ(config)
    train = GeneratedScenes(config.scenes, config.seed, config.train.train_scenes)
    valid = GeneratedScenes(config.scenes, config.seed, config.train.valid_scenes, "valid")
    pyro.set_rng_seed(config.seed)
    return Trainer(
        config, econ.model, econ.guide, train, valid, run, torch.device("cpu"), begin=begin
    )


def beginnings(tiny, path, steps, made):
    """A run of three beginnings of two steps each."""
    config = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, tries=3, try_steps=2, steps=steps)
    )

    def begin(number):
        made.append(number)
        other = Econ(dataclasses.replace(config, seed=100 + number))
        return other.model, other.guide

    return make_trainer(config, path, begin=begin)


def make_learner():
    config = PRESETS["random-colours"][1]
    expert = dataclasses.replace(config.model.expert, features=4, channels=(4, 4), hidden=8)
    model = ModelConfig(experts=3, steps=3, size=16, expert=dataclasses.replace(expert, layers=1))
    config = Config(model=model, objective=config.objective, amp=False)
    parts = DeadLeaves(model).double(), Recognition(model).double()
    return Learner(config, *parts, torch.device("cpu"), World())


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
