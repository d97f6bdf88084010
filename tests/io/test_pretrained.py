"""Published weights: one folder that every script takes in place of a run."""

import dataclasses
import json
import socket
import sys

import pytest
import torch
from safetensors.torch import save_file

import econ_pyro
from econ_pyro.econ import Econ, load
from econ_pyro.errors import EconError
from econ_pyro.io import pretrained
from econ_pyro.io.layer_files import write_image
from helpers.scripts import TINY_ARGS, fails, script


@pytest.fixture
def econ(tiny):
    econ = Econ(dataclasses.replace(tiny, seed=3), names=["circle", "square", "background"])
    econ.model.constant_colour = True
    econ.model.class_probs.copy_(torch.tensor([0.2, 0.3, 0.5]).expand(3, 3))
    return econ


@pytest.fixture
def offline(monkeypatch):
    """No socket connects, and huggingface_hub is not installed."""

    def refuse(*args):
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def states(econ):
    parts = {"model": econ.model, "guide": econ.guide}
    return {f"{p}.{n}": t for p, m in parts.items() for n, t in m.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_saved_comes_back(econ, tmp_path, offline, dtype):
    folder = tmp_path / "mine"
    econ.save_pretrained(folder, dtype)
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "experts.json", "model.safetensors", "README.md"
    }  # fmt: skip
    back = Econ.from_pretrained(folder)
    assert back.names == econ.names and back.config == econ.config and back.model.constant_colour
    kept = states(back)
    for name, tensor in states(econ).items():
        stored = tensor if name == "model.class_probs" else tensor.to(getattr(torch, dtype))
        assert torch.equal(kept[name], stored.float()), name
        assert kept[name].dtype == torch.float32
    size = (folder / "model.safetensors").stat().st_size
    count = sum(t.numel() for t in states(econ).values())
    bytes_each = 4 if dtype == "float32" else 2
    assert size < count * bytes_each + 14_000  # and a header


def test_a_folder_goes_before_shipped_weights(econ, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "installed")
    monkeypatch.chdir(tmp_path)
    econ.save_pretrained(tmp_path / "installed/colours")
    assert pretrained.shipped() == ["colours"]
    assert load("colours").names == econ.names == Econ.from_pretrained("colours").names
    other = econ.drop("circle")
    other.save_pretrained("colours")
    assert load("colours").names == ["square", "background"]
    message = r"or shipped weights \(colours\), got no folder colour: did you mean colours\?"
    with pytest.raises(EconError, match=message):
        load("colour")
    with pytest.raises(EconError, match=r"got no folder runs/mine: train a model with"):
        load("runs/mine")


def test_scripts_take_published_weights_in_place_of_a_run(
    econ, tmp_path, monkeypatch, capsys, offline
):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "installed")
    monkeypatch.chdir(tmp_path)
    econ.save_pretrained(tmp_path / "installed/colours")
    write_image(tmp_path / "picture.png", torch.rand(3, 16, 16))
    for i, source in enumerate(["colours", tmp_path / "installed/colours"]):
        script("decompose", source, "picture.png", "--out", f"layers-{i}")
        script("sample", source, "--scene", "background circle", "--n", 2, "--out", f"scenes-{i}")
        script("evaluate", source, "--n", 4)
        assert (tmp_path / "installed/colours/evaluation.json").exists() == (i == 1)
    assert not (tmp_path / "colours").exists()  # which would hide the shipped ones
    assert "ARI-FG" in capsys.readouterr().out


def test_publish_measures_what_it_writes(tmp_path, capsys, offline):
    run, folder = tmp_path / "run", tmp_path / "published"
    script("svi_train", "quick", *TINY_ARGS, "--steps", 2, "--run", run)
    assert "the run" in fails(capsys, "publish", run, run, "--overwrite", "--n", 4)
    with pytest.raises(EconError, match="a folder of its own"):
        load(run).save_pretrained(run)
    assert (run / "checkpoints").exists() and not (run / "README.md").exists()
    script("publish", run, folder, "--n", 4, "--dtype", "float16", "--ood", "--device", "cpu")
    assert "model.safetensors: 0." in capsys.readouterr().out
    figures = json.loads((folder / "evaluation.json").read_text())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: econ-pyro\n")
    for title, report in figures.items():
        assert f"| {title} | {report['metrics']['ari_fg'] or 0:.3f} |" in card or "| - |" in card
    for word in ("float16", "## Licence", *load(run).names, 'econ_pyro.load("published")'):
        assert word in card
    a, b = load(run), load(folder)
    assert a.names == b.names
    for name, tensor in states(a).items():
        torch.testing.assert_close(tensor, states(b)[name], rtol=1e-3, atol=1e-4)


def test_damaged_folders_are_named(econ, tmp_path, offline):
    econ.save_pretrained(tmp_path / "a")
    weights = tmp_path / "a/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EconError, match="whole weights, got .*model.safetensors"):
        load(tmp_path / "a")
    save_file({"model.a": torch.zeros(1)}, weights)
    with pytest.raises(EconError, match="weights of the sizes that are configured"):
        load(tmp_path / "a")
    (tmp_path / "a/experts.json").write_text('{"names": ["a", "a", "b"]}')
    with pytest.raises(EconError, match="3 different names in .*experts.json"):
        load(tmp_path / "a")
    (tmp_path / "a/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EconError, match="a configuration of econ-pyro in .*, got other JSON"):
        load(tmp_path / "a")
    with pytest.raises(EconError, match="a type of weights among .*, got 'int8'"):
        econ.save_pretrained(tmp_path / "b", "int8")
    with pytest.raises(EconError, match="a checkpoint among best, last, got 'first'"):
        load(tmp_path / "a", which="first")


def test_the_hub_needs_its_package(tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EconError, match=r"hf:owner/name, got none.*econ-pyro\[hub\]"):
        Econ.from_pretrained("owner/name")
    with pytest.raises(EconError, match="train a model with .*svi_train"):
        load("runs/quick")  # a run's path with a mistake in it is no name on the hub


@pytest.mark.needs("huggingface_hub")
def test_the_hub_offline_reads_its_cache(econ, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def refuse(*args):
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--name"
    econ.save_pretrained(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    assert Econ.from_pretrained("owner/name").names == econ.names
    assert econ_pyro.load("hf:owner/name").names == econ.names
    assert Econ.from_pretrained("hf:owner/name").names == econ.names
    with pytest.raises(EconError, match="owner/other .*HF_HUB_OFFLINE=1 restricts"):
        load("hf:owner/other")
    with pytest.raises(EconError, match="as OWNER/NAME"):
        load("hf:a/b/c")
