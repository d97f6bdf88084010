"""The systems beside ECON: each learns, resumes bit by bit and refuses bad input as ECON does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from econ_pyro.config import Config, ObjectiveConfig, TrainConfig
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.evaluation.evaluate import HEADLINE, evaluate, format_report
from econ_pyro.infer import scene_model
from econ_pyro.io.layer_files import write_image
from econ_pyro.io.pretrained import load_model
from econ_pyro.model_config import (
    GecoConfig,
    GenesisConfig,
    GenesisV2Config,
    IodineConfig,
    MonetConfig,
    MrbmConfig,
    SlotAttentionConfig,
    SoftmaxMrbmConfig,
)
from econ_pyro.scene_config import SceneConfig
from helpers.scripts import fails, script
from helpers.trainers import equal, make_trainer, without_clock

MONET = MonetConfig(
    num_slots=3, size=16, sigma=0.18, sigma_background=0.15, latent_dim=4, layers=2, features=8,
    channels=(8, 8), hidden=16,
)  # fmt: skip
GECO = GecoConfig(goal=0.0125, start=0.5, smallest=0.2)
GENESIS = GenesisConfig(
    num_slots=3, size=16, sigma=0.2, mask_dim=6, component_dim=4, layers=2, features=8,
    channels=(8, 8, 8, 8), hidden=16, informative=True, geco=GECO,
)  # fmt: skip
GENESIS_V2 = GenesisV2Config(
    num_slots=3, size=16, latent_dim=6, features=8, embedding_dim=4, channels=(8, 8), hidden=16,
    sigma=0.2, colour_weight=8.0, spread=5.0, informative=True, geco=GECO,
)  # fmt: skip
SLOT_ATTENTION = SlotAttentionConfig(
    num_slots=3, size=16, latent_dim=8, layers=2, features=8, hidden=16
)
IODINE = IodineConfig(
    num_slots=3, size=16, rounds=2, latent_dim=4, layers=2, features=8, hidden=16
)
RBM = {
    "num_slots": 3, "size": 16, "appearance_units": 8, "shape_units": 16, "infer_sweeps": 6,
    "sample_sweeps": 10,
}  # fmt: skip
MRBM, SOFTMAX_MRBM = MrbmConfig(**RBM), SoftmaxMrbmConfig(**RBM)
SYSTEMS = {
    "monet": MONET, "genesis": GENESIS, "genesis-v2": GENESIS_V2, "mrbm": MRBM,
    "mrbm-softmax": SOFTMAX_MRBM, "slot-attention": SLOT_ATTENTION, "iodine": IODINE,
    "iodine-logistic": replace(IODINE, likelihood="logistic", sigma=0.03),
}  # fmt: skip
OBJECTIVES = {"monet": ObjectiveConfig(beta=0.5, gamma=0.5)}


def config_of(kind, **train):
    return Config(
        scenes=SceneConfig(size=16, objects=2),
        model=SYSTEMS[kind],
        objective=OBJECTIVES.get(kind, ObjectiveConfig()),
        train=TrainConfig(
            **{"steps": 6, "batch": 4, "validate_every": 2, "valid_scenes": 8} | train
        ),
        amp=False,
    )


@pytest.fixture(params=SYSTEMS)
def kind(request):
    return request.param


def test_a_short_training_learns(kind, tmp_path):
    config = config_of(kind, steps=60, batch=8, validate_every=60, lr=5e-3, train_scenes=500)
    model = scene_model.build(config)
    held_out = GeneratedScenes(config.scenes, 7, 32, "valid")
    before = evaluate(model, held_out).summary()
    make_trainer(config, tmp_path / "run", econ=model).fit()
    after = evaluate(model, held_out).summary()
    assert after["x"] < LEARNT[kind] * before["x"]
    assert after["mse"] < LEARNT[kind] * before["mse"]


LEARNT = dict.fromkeys(SYSTEMS, 0.7)
"""Share of L_x and of the squared error that is left."""


def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(kind, tmp_path):
    config = config_of(kind)
    whole = make_trainer(config, tmp_path / "whole", 6)
    whole.fit()
    make_trainer(config, tmp_path / "parts", 4).fit()
    torch.randn(7)  # another process has another generator
    resumed = make_trainer(config, tmp_path / "parts", 6)
    resumed.resume()
    assert resumed.step == 4
    resumed.fit()
    state = without_clock(whole.state())
    assert equal(state, without_clock(resumed.state()))
    initial = scene_model.build(config).state_dict()
    same = [torch.equal(value, initial[name]) for name, value in state["weights"].items()]
    assert np.mean(same) < 0.5  # all but buffers have moved


def test_every_entry_point_takes_it(kind, tmp_path, capsys):
    sizes = SYSTEMS[kind]
    args = ["--train.batch", 4, "--train.valid-scenes", 8, "--scenes.size", 16, "--no-amp"]
    args += ["--scenes.objects", 2]
    for name in ("num_slots", "size", *SMALL[kind]):
        value = getattr(sizes, name)
        values = value if isinstance(value, tuple) else (value,)
        args += [f"--model.{name.replace('_', '-')}", *values]
    run = tmp_path / "run"
    script("svi_train", kind, *args, "--steps", 2, "--device", "cpu", "--run", run)
    capsys.readouterr()
    script("evaluate", run, "--n", 8, "--ood", "--no-refine")
    printed = capsys.readouterr().out
    assert "ARI-FG" in printed and "class accuracy" not in printed and "experts" not in printed
    assert printed.split("class_accuracy")[1].split("held-out")[1].split()[5] == "-"
    sample = ["sample", run, "--n", 2, "--out", tmp_path / "samples"]
    if scene_model.build(config_of(kind)).generative:
        script(*sample)
        assert (tmp_path / "samples/scene-001.png").exists()
    else:
        assert "a generative model, to sample scenes" in fails(capsys, *sample)
        assert not (tmp_path / "samples").exists()
    picture = tmp_path / "picture.png"
    write_image(picture, torch.rand(3, 16, 16))
    script("decompose", run, picture, "--slots", 5, "--out", tmp_path / "layers")
    assert (tmp_path / "layers/picture/strip.png").exists()
    for command, more, message in [
        ("evaluate", ["--gt-masks"], "a model that takes true regions, for gt-masks"),
        ("evaluate", ["--samples", "--n", 2], "a model with experts, for --samples"),
        ("sample", ["--scene", "a", "--out", tmp_path / "s"], "a model with experts, for --scene"),
        ("publish", [tmp_path / "p"], f"weights of ECON in {run}, got {sizes.kind}"),
    ]:
        assert message in fails(capsys, command, run, *more)
    assert "for gt-masks" in fails(
        capsys, "svi_train", kind, "--gt-masks", "--run", tmp_path / "r"
    )
    assert load_model(run).config.model == sizes


SMALL = {
    "monet": ("latent_dim", "layers", "features", "channels", "hidden"),
    "genesis": ("mask_dim", "component_dim", "layers", "features", "channels", "hidden"),
    "genesis-v2": ("latent_dim", "features", "embedding_dim", "channels", "hidden"),
    "iodine": ("rounds", "latent_dim", "layers", "features", "hidden"),
    "iodine-logistic": ("rounds", "latent_dim", "layers", "features", "hidden"),
    "mrbm": ("appearance_units", "shape_units", "infer_sweeps", "sample_sweeps"),
    "mrbm-softmax": ("appearance_units", "shape_units", "infer_sweeps", "sample_sweeps"),
    "slot-attention": ("latent_dim", "layers", "features", "hidden"),
}
"""Options of the sizes of networks."""


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (torch.rand(3, 16, 16), "batch axis"),
        (torch.zeros(0, 3, 16, 16), "give at least one"),
        (torch.rand(1, 3, 32, 32), "resize"),
        (torch.full((1, 3, 16, 16), 255.0), "divide by 255"),
        (np.zeros((1, 3, 16, 16)), "torch.from_numpy"),
    ],
)
def test_wrong_images_are_explained(kind, images, hint):
    with pytest.raises(EconError, match=hint):
        scene_model.build(config_of(kind)).decompose(images)


def test_what_makes_no_sense_is_refused(kind):
    config = config_of(kind)
    with pytest.raises(EconError, match="for gt-masks"):
        scene_model.build(replace(config, gt_masks=True))
    model, x = scene_model.build(config), torch.rand(1, 3, 16, 16)
    for evidence in (model.decompose, model.loss_terms):
        with pytest.raises(EconError, match="for gt-masks"):
            evidence(x, evidence=torch.ones(1, 3, 1, 16, 16))
    for wrong in (0, 1.5, 10**6):
        with pytest.raises(EconError, match="slots"):
            model.decompose(x, wrong)
        with pytest.raises(EconError, match="for n"):
            model.sample(wrong * 10**6)
    with pytest.raises(EconError, match="a device"):
        scene_model.build(config, "nowhere")


LARGE = {
    "monet": {"hidden": 8192, "channels": (64,)},
    "genesis": {"hidden": 8192, "channels": (64, 64, 64, 64)},
    "genesis-v2": {"hidden": 8192, "channels": (64,)},
    "iodine": {"hidden": 8192},
    "mrbm": {"shape_units": 8192},
    "mrbm-softmax": {"shape_units": 8192},
}
"""Sizes beyond any. Networks of Slot Attention do not grow with the image: bounds exclude such."""


@pytest.mark.parametrize("kind", LARGE)
def test_networks_larger_than_any_are_not_built(kind):
    large = replace(config_of(kind), model=replace(SYSTEMS[kind], size=1024, **LARGE[kind]))
    with pytest.raises(EconError, match="networks of at most 536,870,912 numbers"):
        scene_model.build(large)


UNORDERED = ("genesis-v2", "mrbm-softmax", "slot-attention", "iodine", "iodine-logistic")
"""Their slots have no depth order."""


def test_scores_of_a_model_without_experts_have_none_of_classes(kind):
    model = scene_model.build(config_of(kind))
    metrics = evaluate(model, GeneratedScenes(model.config.scenes, 7, 8, "valid"))
    assert metrics.confusion is None and not len(metrics.usage)
    assert "ari" in metrics.summary()
    assert ("amodal_iou" in metrics.summary()) == (kind != "mrbm-softmax")
    assert ("ooa" in metrics.summary()) == (kind not in UNORDERED)
    assert ("completed_iou" in metrics.summary()) == (kind not in UNORDERED)
    assert "experts" not in format_report(metrics, "scenes")
    assert all(len(label) < 28 for label in HEADLINE.values())  # the width of its column
