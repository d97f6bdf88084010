"""ONNX files, run by onnxruntime on other images than the export saw."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer.depth_order import explains_enough, likeliest_order
from econ_pyro.infer.mixture import Mixture
from econ_pyro.infer.refinement import fill_spare
from econ_pyro.infer.strategies import competition_of
from econ_pyro.io.onnx_export import (
    OUTPUTS,
    Decompose,
    _difference,
    _exporting,
    _write,
    export_onnx,
)
from econ_pyro.scene_config import SceneConfig
from econ_pyro.scripts import export_onnx as command
from helpers.paths import ROOT
from helpers.scripts import script
from helpers.trainers import TINY, changed, seeded_tiny, small_expert, taught_tiny

pytestmark = pytest.mark.needs("onnx", "onnxruntime", "onnxscript")


@pytest.fixture(scope="module")
def econ():
    config = changed(
        seeded_tiny(dim=3, shape_bias=0.0),
        model__num_experts=2,
        model__num_slots=2,
        model__competition__depth_order_from=0,
        model__competition__refine=True,
        model__competition__layer_covariance=0.05,
        seed=5,
    )
    return Econ(config, names=["circle", "background"])


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnxruntime_says_what_torch_says(econ, tmp_path, capsys):
    econ.save_pretrained(tmp_path / "weights")
    out = tmp_path / "onnx"
    script("export_onnx", tmp_path / "weights", "--out", out)
    assert {p.name for p in out.iterdir()} == {
        "decompose.onnx", "decoder_0.onnx", "decoder_1.onnx"
    }  # fmt: skip
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 3 and all("of torch" in line for line in printed)
    # no traces of the exporter, which name the folders of this machine
    assert str(ROOT).encode() not in (out / "decompose.onnx").read_bytes()
    whole = session(out / "decompose.onnx")
    assert whole.get_modelmeta().custom_metadata_map["experts"] == '["circle", "background"]'
    for n in (1, 5):
        images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))
        d = econ.decompose(images)
        got = dict(zip(OUTPUTS, whole.run(None, {"images": images.numpy()}), strict=True))
        np.testing.assert_array_equal(got["k"], d.k)
        for name in ("region", "appearance", "shape", "z"):
            np.testing.assert_allclose(got[name], getattr(d, OUTPUTS[name]), atol=1e-4)
        # differences of costs of thousands of nats
        np.testing.assert_allclose(
            got["competition_losses"], d.competition_losses, rtol=1e-4, atol=1e-2
        )
    z = torch.randn(3, 3)
    for k in range(2):
        mean, shape = session(out / f"decoder_{k}.onnx").run(None, {"z": z.numpy()})
        with torch.no_grad():
            theirs = econ.model.decode(z, torch.full((3,), k))
        np.testing.assert_allclose(mean, theirs.mean, atol=1e-5)
        np.testing.assert_allclose(shape, theirs.shape, atol=1e-5)


def test_attention_without_seeds(tmp_path):
    econ = Econ(changed(TINY, model__num_slots=2, model__num_experts=2))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with _exporting():
        path = tmp_path / "decompose.onnx"
        _write(path, Decompose(econ), "images", images, tuple(OUTPUTS), {})
        assert _difference(path, Decompose(econ), "images", images) < 1e-4


class _Order(torch.nn.Module):
    """Layers (B, T, 4, H, W), colours and shape, to their order and which explain enough."""

    def forward(self, layers):
        mean, shape = layers.split([3, 1], 2)
        x = mean[:, 1] * shape[:, 1] + mean[:, 0] * (1 - shape[:, 1])  # the second is in front
        l_z = layers.mean((2, 3, 4)) * 100
        errors = pixel_errors(x, mean, PixelNoise(0.1))
        return likeliest_order(errors, shape), explains_enough(errors, shape, l_z).int()


def test_the_order_of_more_layers(tmp_path):
    layers = torch.rand(6, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    order, kept = _Order()(layers)
    assert (order != torch.arange(4)).any() and 0 < kept.float().mean() < 1
    with _exporting():
        path = tmp_path / "order.onnx"
        _write(path, _Order(), "layers", layers, ("order", "kept"), {})
        assert _difference(path, _Order(), "layers", layers) == 0


def test_the_extra_is_named(econ, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EconError, match=r"no onnxscript: pip install 'econ-pyro\[onnx\]'"):
        export_onnx(econ, tmp_path)


def test_gradient_steps_are_left_out_and_the_command_says_so(econ, tmp_path, capsys, monkeypatch):
    config = changed(econ.config, model__competition__refine_steps=3)
    assert Decompose(Econ(config)).competition.steps == 0
    Econ(config).save_pretrained(tmp_path / "weights")
    monkeypatch.setattr(command, "export_onnx", lambda *_: {})
    script("export_onnx", tmp_path / "weights", "--out", tmp_path / "onnx")
    assert "leaves out model.competition.refine-steps" in capsys.readouterr().out
    unrefined = Econ(changed(config, model__competition__refine=False))  # takes none, either
    for i, other in enumerate((econ, unrefined)):
        other.save_pretrained(tmp_path / f"others{i}")
        script("export_onnx", tmp_path / f"others{i}", "--out", tmp_path / f"other{i}")
        assert "leaves out" not in capsys.readouterr().out


class _Filled(torch.nn.Module):
    """The savings competition for two layers; the first is then filled anew."""

    def __init__(self, econ):
        super().__init__()
        self.econ, self.competition = econ, competition_of(econ.config)

    def forward(self, images):
        model, guide = self.econ.model, self.econ.guide
        d = self.competition.decompose(model, guide, images)
        spare = torch.cat([0 * d.region[:, :1], 0 * d.region[:, :1] + 1], 1)
        filled = fill_spare(model, guide, dataclasses.replace(d, region=spare), 1.0, Mixture(0.01))
        return d.k, d.region, d.competition_losses, filled.k, filled.region, filled.mean


def test_savings_and_a_spare_layer_filled(tmp_path):
    expert = small_expert(dim=5, pose=True, shape_dim=2, bias=0.0, shape_bias=0.0)
    sizes = {"model__expert": expert, "model__num_slots": 2, "model__num_experts": 2}
    network = _Filled(Econ(changed(taught_tiny(), **sizes)))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    path, outputs = tmp_path / "filled.onnx", tuple("abcdef")
    with _exporting():
        _write(path, network, "images", images, outputs, {})
        assert _difference(path, network, "images", images) < 1e-4


class _Turned(torch.nn.Module):
    """Connected regions that grow from a seed, and the poses that are found for them."""

    def __init__(self, econ):
        super().__init__()
        # the decoders are part of the exported network, as in Decompose
        self.model, self.guide = econ.model, econ.guide

    def forward(self, images):
        scope = torch.ones_like(images[:, :1])
        seeds, r = self.guide.candidates(images, scope, 1)
        noise = images.new_zeros(images.shape[0], 8)
        return seeds, r, self.guide.encode_all(images, r[:, 0], noise, scope).mean


def test_connected_regions_and_the_search_for_poses(tmp_path):
    config = seeded_tiny(dim=8, size=True, angle=True, shape_dim=5)
    attention = dataclasses.replace(config.model.expert.attention, connected=True)
    expert = dataclasses.replace(config.model.expert, attention=attention)
    network = _Turned(Econ(changed(config, model__expert=expert, model__num_experts=1)))
    scenes = GeneratedScenes(SceneConfig(kind="random-colours", size=16), 3, 8)
    images = scenes.images(torch.arange(8))
    guess = network(images)[2]
    path = tmp_path / "turned.onnx"
    with _exporting(), network.guide.pose_search():
        assert (network(images)[2] != guess)[:, 0, :5].all(0).all()
        _write(path, network, "images", images, ("seeds", "r", "found"), {})
        assert _difference(path, network, "images", images) < 1e-3
