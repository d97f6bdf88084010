"""The minimal training script: the package's competition, step and losses, written out."""

import dataclasses
import re

import pyro
import pytest
import torch

from econ_pyro.data.splits import GeneratedScenes
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.presets import PRESETS
from econ_pyro.scripts import train_minimal
from helpers.paths import ROOT
from helpers.scripts import script
from helpers.trainers import make_trainer


@pytest.fixture
def config(tiny):
    """The tiny configuration with the script's objective and competition, in float32."""
    model = dataclasses.replace(tiny.model, competition=train_minimal.MODEL.competition)
    objective = dataclasses.replace(tiny.objective, beta=0.52, gamma=9.54)
    assert (train_minimal.BETA, train_minimal.GAMMA) == (0.52, 9.54)
    return dataclasses.replace(tiny, model=model, objective=objective, seed=3)


def small(config):
    """Model, guide and scenes of a configuration as the script makes them."""
    torch.manual_seed(config.seed)
    model, guide = DeadLeaves(config.model), AmortizedGuide(config.model)
    return model, guide, GeneratedScenes(config.scenes, config.seed, config.train.train_scenes)


def args_of(config, steps):
    train = config.train
    return train_minimal.Args(steps, train.batch, lr=train.lr, size=16, seed=config.seed)


def test_the_configuration_is_the_papers():
    config = PRESETS["paper-unique-colours-swapped"][1]
    assert train_minimal.MODEL == config.model
    assert (train_minimal.BETA, train_minimal.GAMMA) == (
        config.objective.beta, config.objective.gamma,
    )  # fmt: skip
    args = train_minimal.Args()
    assert (args.batch, args.lr, args.size) == (config.train.batch, config.train.lr, 32)
    assert train_minimal.SCENES == config.train.train_scenes
    assert config.train.clip == 0 and config.scenes == train_minimal.SceneConfig()


def test_the_competition_is_the_greedy_one(pq):
    model, guide = (part.float() for part in pq)
    x = torch.rand(5, 3, 16, 16)
    torch.manual_seed(1)
    ours = train_minimal.compete(model, guide, x)
    torch.manual_seed(1)
    theirs = GreedyCompetition(3)(model, guide, x)
    assert torch.equal(ours.k, theirs.k) and torch.equal(ours.noise, theirs.noise)
    assert len(ours.k.unique()) > 1
    torch.testing.assert_close(ours.losses, theirs.losses)
    torch.testing.assert_close(ours.region, theirs.region)


def test_steps_are_those_of_competitive_svi(config):
    model, guide, scenes = small(config)
    args = args_of(config, 4)
    torch.manual_seed(1)
    ours = list(train_minimal.train(model, guide, scenes, args))
    pyro.clear_param_store()
    model, guide, _ = small(config)
    optim = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=args.lr)
    elbo = ClassConditionalELBO(0.52, 9.54)
    svi = CompetitiveSVI(model, guide, optim, elbo, GreedyCompetition(3))
    torch.manual_seed(1)
    for step, loss in enumerate(ours):
        indices = train_minimal.batch_indices(len(scenes), args.batch, step, args.seed)
        assert svi.step(scenes.images(indices)) == pytest.approx(loss, rel=1e-5)


def test_losses_are_those_of_the_trainer(config, tmp_path):
    model, guide, scenes = small(config)
    torch.manual_seed(config.seed)
    ours = list(train_minimal.train(model, guide, scenes, args_of(config, 5)))
    trainer, losses = make_trainer(config, tmp_path / "run", steps=5), []
    step = trainer.learner.step

    def recorded(*args):
        result = step(*args)
        losses.append(result.loss.item())
        return result

    trainer.learner.step = recorded
    trainer.fit()
    assert losses == pytest.approx(ours, rel=1e-5)


def test_the_loss_falls_and_a_figure_is_drawn(tmp_path, capsys):
    figure = tmp_path / "scene.png"
    options = ["--steps", 21, "--batch", 4, "--size", 16, "--every", 7, "--figure", figure]
    script("train_minimal", *options)
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"step +(\d+)   loss +([\d.]+) nats", line) for line in lines]
    assert [int(line[1]) for line in found] == [7, 14, 21]
    losses = [float(line[2]) for line in found]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 0.9 * losses[0]
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]
    assert not list(pyro.get_param_store())


def test_nothing_is_imported_from_training():
    text = (ROOT / "scripts/train_minimal.py").read_text()
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert len(imports) > 10 and not any("training" in line for line in imports)
