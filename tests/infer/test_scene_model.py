"""The contract for scene models: a second one trains, evaluates, decomposes and samples."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

import econ_pyro
from econ_pyro import config as configuration
from econ_pyro import model_config
from econ_pyro.config import Config
from econ_pyro.errors import EconError
from econ_pyro.infer import scene_model
from econ_pyro.io.pretrained import load_model
from econ_pyro.model_config import SceneModelConfig
from helpers.mosaic import Mosaic, MosaicConfig, register_mosaic
from helpers.scripts import script

OPTIONS = """--model.kind mosaic --model.size 16 --model.num-slots 3 --scenes.size 16
    --train.batch 4 --train.validate-every 10 --train.valid-scenes 8 --train.lr 0.02
    --steps 40 --device cpu --no-amp""".split()


@pytest.fixture
def mosaic():
    kinds, registry = dict(model_config.KINDS), dict(scene_model._registry)
    register_mosaic()
    yield
    model_config.KINDS.clear()
    model_config.KINDS.update(kinds)
    scene_model._registry.clear()
    scene_model._registry.update(registry)


def test_a_second_model_goes_through_every_entry_point(mosaic, tmp_path, capsys):
    run = tmp_path / "run"
    script("svi_train", "quick", *OPTIONS, "--run", run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["valid_loss"] < 0.9 * rows[0]["valid_loss"]
    assert json.loads((run / "config.json").read_text())["config"]["model"]["kind"] == "mosaic"
    model = load_model(run)
    assert isinstance(model, Mosaic) and model.num_experts == 1
    script("svi_train", "quick", "--run", run, "--resume", "--steps", "50", "--device", "cpu")
    script("evaluate", run, "--n", "4", "--json")
    assert "ari_fg" in capsys.readouterr().out
    picture = tmp_path / "a.png"
    Image.new("RGB", (16, 16), (200, 30, 30)).save(picture)
    script("decompose", run, picture, "--out", tmp_path / "layers")
    assert (tmp_path / "layers/a/scene.json").exists()
    script("sample", run, "--n", "3", "--out", tmp_path / "samples")
    assert len(list((tmp_path / "samples").glob("scene-*.png"))) == 3
    with pytest.raises(EconError, match="weights of ECON"):
        econ_pyro.load(run)


def test_it_has_no_option_of_other_models(mosaic, capsys):
    with pytest.raises(SystemExit):
        script("svi_train", "quick", "--model.kind", "mosaic", "--help")
    text = capsys.readouterr().out
    assert "--model.num-slots" in text
    assert "--model.expert" not in text and "--model.competition" not in text
    assert "--recipe.load-balancing" not in text


def test_models_are_built_by_kind(mosaic):
    config = Config(model=MosaicConfig(num_slots=2, size=16))
    assert isinstance(scene_model.build(config), Mosaic)
    assert configuration.from_dict(Config, configuration.to_dict(config)) == config
    with pytest.raises(EconError, match="configuration of ECON"):
        econ_pyro.Econ(config)


def test_sizes_of_weights_are_checked_before_a_model_is_built(mosaic, tmp_path, monkeypatch):
    built = []

    def build(config, device, names):
        built.append(config)
        return Mosaic(config, device, names)

    run = tmp_path / "run"
    script("svi_train", "quick", *OPTIONS, "--steps", "1", "--run", run)
    wrong = {"colour": torch.zeros(99, 3, device="meta")}
    scene_model.register("mosaic", MosaicConfig, build, lambda config: wrong)
    with pytest.raises(EconError, match=r"weights of the sizes that are configured.*colour"):
        load_model(run)
    assert not built
    right = {"colour": torch.zeros(3, 3, device="meta")}
    scene_model.register("mosaic", MosaicConfig, build, lambda config: right)
    assert isinstance(load_model(run), Mosaic) and len(built) == 1
    scene_model.register("mosaic", MosaicConfig, build)
    assert isinstance(load_model(run), Mosaic)


def test_what_cannot_be_registered(mosaic):
    @dataclasses.dataclass(frozen=True)
    class Other(SceneModelConfig):
        kind: str = "mosaic"

    with pytest.raises(EconError, match="new name"):
        scene_model.register("mosaic", Other, Mosaic)
    with pytest.raises(EconError, match='kind is "other"'):
        scene_model.register("other", SceneModelConfig, Mosaic)


def test_an_unknown_kind_is_named():
    with pytest.raises(EconError, match=r"one of econ, .*monet.* as model\.kind"):
        scene_model.build(Config(model=SceneModelConfig()))


def test_the_packages_own_models_are_known_with_their_configurations():
    assert set(scene_model.BUILT_IN) == set(model_config.KINDS) <= set(scene_model.known())


def test_gradients_of_its_own_loss_reach_it(mosaic):
    model = Mosaic(Config(model=MosaicConfig(num_slots=2, size=16)))
    model.loss_terms(torch.rand(2, 3, 16, 16)).x.sum().backward()
    assert model.colour.grad.abs().sum() > 0
