"""A short training learns: objects stay separate, and experts specialise in their classes."""

from dataclasses import replace

import pytest

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.evaluation.evaluate import TEST_SEED, evaluate
from econ_pyro.presets import PRESETS
from helpers.trainers import make_trainer

STEPS, SIZE, SCENES = 150, 16, 64
# Measured with seeds 0 to 5 on 64 held-out scenes, first untrained, then after 150 steps:
#   ARI-FG          0.999 to 1.000    1.000
#   amodal IoU      0.552 to 0.632    0.776 to 0.830
#   class accuracy  0.430 to 0.705    0.857 to 0.925
#   L_x, nats       12.5 to 20.8      1.0 to 1.1
# ARI-FG is high without training, as regions grow by colour. Hence the other scores.
AMODAL_IOU, CLASS_ACCURACY, L_X = 0.70, 0.78, 4.0


def short(config):
    """``quick`` on small images; its schedules are shares of the run, here of 150 steps."""

    def scaled(steps):
        return max(1, steps * STEPS // config.train.steps)

    recipe, train = config.recipe, config.train
    return replace(
        config,
        seed=0,
        amp=False,
        scenes=replace(config.scenes, size=SIZE),
        model=replace(config.model, size=SIZE),
        recipe=replace(recipe, restart_every=scaled(recipe.restart_every), restart_until="100%"),
        train=replace(
            train,
            steps=STEPS,
            batch=16,
            lr=3e-3,
            minutes=None,
            validate_every=50,
            train_scenes=2000,
            valid_scenes=32,
        ),
    )


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Scores of the same model before and after training."""
    config = short(PRESETS["quick"][1])
    econ = Econ(config)
    held_out = GeneratedScenes(config.scenes, TEST_SEED, SCENES, "valid")
    before = evaluate(econ, held_out).summary()
    make_trainer(config, tmp_path_factory.mktemp("runs") / "short", econ=econ).fit()
    return before, evaluate(econ, held_out).summary()


def test_objects_are_separate(scores):
    _, after = scores
    assert after["ari_fg"] > 0.95


def test_experts_learn_whole_shapes(scores):
    before, after = scores
    assert before["amodal_iou"] < AMODAL_IOU - 0.05
    assert after["amodal_iou"] > AMODAL_IOU


def test_experts_specialise(scores):
    before, after = scores
    assert before["class_accuracy"] < CLASS_ACCURACY - 0.05
    assert after["class_accuracy"] > CLASS_ACCURACY


def test_layers_explain_the_image(scores):
    before, after = scores
    assert before["x"] > 2 * L_X
    assert after["x"] < L_X
