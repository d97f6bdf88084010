"""Warnings about images that are unlike those of training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import load
from econ_pyro.evaluation.evaluate import as_json, evaluate
from econ_pyro.files import storage
from econ_pyro.io.familiarity import FACTOR, nats_per_pixel, validation_nats, warnings_of
from econ_pyro.io.pretrained import SHIPPED
from scripts import decompose


def coins(side=32, seed=0):
    """Shaded discs with noise on a dark, uneven ground, as on a photograph of coins."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = 0.25 + 0.1 * x / side + 0.05 * rng.standard_normal((side, side))
    for i in range(4):
        for j in range(6):
            cy, cx = (i + 0.5) * side / 4, (j + 0.5) * side / 6
            r = np.hypot(y - cy, x - cx)
            image = np.where(r < 2.4, 0.5 + 0.1 * (cx - x) + 0.1 * rng.random(), image)
    return torch.tensor(image, dtype=torch.float32).clamp(0, 1).expand(1, 3, -1, -1).contiguous()


def test_the_figure_is_the_loss_of_eqs_10_to_12():
    econ = load("quick")
    source = GeneratedScenes(econ.config.scenes, 5, 6, "valid")
    d = econ.decompose(source.images(torch.arange(6)))
    naive = [sum(float(term[b].sum()) for term in d.terms) / 1024 for b in range(6)]
    assert nats_per_pixel(d) == pytest.approx(naive)
    # the mean over scenes is what evaluation stores
    metrics = evaluate(econ, source).summary()
    total = sum(metrics[name] for name in "xzr")
    assert np.mean(naive) * 1024 == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", ["quick", "random-colours", "learnt-random-colours"])
def test_shipped_weights_know_scenes_from_photographs(name):
    econ, usual = load(name), validation_nats(SHIPPED / name)
    assert usual is not None and 20 < usual < 200
    scenes = GeneratedScenes(econ.config.scenes, 9, 24, "valid").images(torch.arange(24))
    assert sum(map(bool, warnings_of(econ.decompose(scenes), usual))) <= 1
    d = econ.decompose(coins())
    (text,) = warnings_of(d, usual)
    nats = nats_per_pixel(d)[0]
    assert nats > FACTOR * usual / 1024
    assert text.startswith(f"unlike what the model has learnt: {nats:.3g} nats per pixel")
    assert warnings_of(d, None) == [""]


def test_decomposing_says_which_picture_is_unlike(tmp_path, capsys):
    econ = load("quick")
    own = GeneratedScenes(econ.config.scenes, 9, 1, "valid").images(torch.arange(1))
    for name, image in (("own", own), ("coins", coins())):
        pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / name) for name in ("own.png", "coins.png")]
    decompose.main(["quick", *paths, "--out", str(tmp_path / "out"), "--device", "cpu"])
    said = capsys.readouterr().err
    assert "own.png" not in said
    assert f"warning: {paths[1]}: unlike what the model has learnt" in said


def test_figures_of_runs_and_of_published_weights(tmp_path):
    report = {"metrics": {"x": 3.0, "z": 4.5, "r": 2.5, "ari": None}}
    file = tmp_path / "evaluation.json"
    for stored in (
        report,  # as training ends
        {**report, "pictures": {"metrics": {"x": 1.0, "z": 1.0, "r": 1.0}}},
        {"held-out": report, "5 objects": {"metrics": {"x": 90.0, "z": 1.0, "r": 1.0}}},
        {"pictures.npy": report},
    ):
        storage.write_json(file, stored)
        assert validation_nats(tmp_path) == 10.0
    econ = load("quick")
    source = GeneratedScenes(econ.config.scenes, 5, 2, "valid")
    storage.write_json(file, as_json(evaluate(econ, source)))
    assert validation_nats(tmp_path) == pytest.approx(
        sum(json.loads(file.read_text())["metrics"][name] for name in "xzr")
    )


@pytest.mark.parametrize("text", [
    "", "[1]", "{}", '{"metrics": 3}', '{"metrics": {"x": 1, "z": 2}}', '{"held-out": null}',
    '{"metrics": {"x": "1", "z": 2, "r": 3}}', '{"metrics": {"x": -9, "z": 2, "r": 3}}',
])  # fmt: skip
def test_without_figures_there_is_no_warning(tmp_path, text):
    assert validation_nats(tmp_path) is None
    (tmp_path / "evaluation.json").write_text(text)
    assert validation_nats(tmp_path) is None
