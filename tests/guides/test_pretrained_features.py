"""Features of a pretrained network: what they are, what is stored, that regions follow."""

import dataclasses
import json
import shutil
import socket
import sys

import pytest
import torch

import econ_pyro
from econ_pyro.config import AugmentConfig, RecipeConfig, from_dict, to_dict
from econ_pyro.core.selection import Selection
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.evaluation.baselines import untrained
from econ_pyro.guides.pretrained_features import PretrainedFeatures
from econ_pyro.guides.region_growing import NEAR
from econ_pyro.io.expert_file import save_expert
from econ_pyro.io.onnx_export import export_onnx
from econ_pyro.model_config import ExpertConfig, SeededAttention
from econ_pyro.training import checkpoint, grouping
from helpers.scripts import TINY_ARGS, fails, script
from helpers.trainers import changed, equal, make_trainer, seeded_tiny, without_clock

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def save(folder, seed=0, kind="vit", change=lambda network: None, **options):
    """A tiny network of random weights, in a folder as on the hub."""
    import transformers as t

    t.utils.logging.disable_progress_bar()
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2} | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "vit":
            config = t.ViTConfig(**{"image_size": 32, "patch_size": 4} | fields)
            network = t.ViTModel(config, add_pooling_layer=False)
        else:
            config = t.Dinov2Config(**{"image_size": 24, "patch_size": 8} | fields)
            network = t.Dinov2Model(config)
        for p in network.parameters():  # far from the initial weights, whose tokens are all alike
            torch.nn.init.normal_(p, std=0.3)
    change(network)
    network.save_pretrained(folder)
    values = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save(tmp_path_factory.mktemp("other"), seed=1)


def config_of(folder, **fields):
    return seeded_tiny(pretrained=str(folder), pretrained_dim=3, **fields)


def attention_of(folder, **fields):
    return SeededAttention(pretrained=str(folder), **{"pretrained_dim": 3} | fields)


def resized(side, target):
    """Weights of bilinear resampling along one axis, ``(target, side)``."""
    weights = torch.zeros(target, side, dtype=torch.float64)
    for i in range(target):
        at = min(max((i + 0.5) * side / target - 0.5, 0), side - 1)
        low = int(at)
        weights[i, low] += 1 - (at - low)
        weights[i, min(low + 1, side - 1)] += at - low
    return weights


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("kind", "patch"), [("vit", 4), ("dinov2", 8)])
def test_features_are_those_of_a_plain_computation(tmp_path, kind, patch):
    import transformers as t

    save(tmp_path / "n", kind=kind)
    images = torch.rand(6, 3, 24, 24, dtype=torch.float64)
    features = PretrainedFeatures(attention_of(tmp_path / "n", pretrained_weight=0.7), 24)
    share = features.fit(images)
    phi = features.double()(images)
    assert phi.shape == (6, 3, 24, 24) and phi.dtype == torch.float64

    plain = t.AutoModel.from_pretrained(tmp_path / "n", dtype=torch.float64).eval()
    to_pixels, larger = resized(6, 24), resized(24, 6 * patch)
    mean, std = (torch.tensor(a).double()[:, None, None] for a in (MEAN, STD))
    options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    tokens = torch.zeros(6, 6, 6, 16, dtype=torch.float64)
    for b in range(6):
        seen = (torch.einsum("ih,chw,jw->cij", larger, images[b], larger) - mean) / std
        with torch.no_grad():
            found = plain(seen[None], **options).last_hidden_state[0]
        assert found.shape == (37, 16)  # and one for the whole image
        for row in range(6):
            for column in range(6):
                tokens[b, row, column] = found[1 + 6 * row + column]
    flat = tokens.flatten(0, 2)
    _, spread, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    scale = (spread[:3].square().sum() / len(flat)).sqrt()
    projected = 0.7 / scale * (tokens - flat.mean(0)) @ axes[:3].mT
    expected = torch.einsum("ih,bhwd,jw->bdij", to_pixels, projected, to_pixels)
    sign = (phi * expected).sum((0, 2, 3), keepdim=True).sign()  # of an axis: either one
    torch.testing.assert_close(phi * sign, expected, rtol=1e-3, atol=1e-4)
    assert share == pytest.approx((spread[:3].square().sum() / spread.square().sum()).item())
    # a patch is a standard deviation from the mean: more than regions reach, at the usual weight
    rms = (projected / 0.7).square().sum(-1).mean().sqrt()
    assert rms.item() == pytest.approx(1) and SeededAttention().pretrained_weight ** 2 > NEAR


@pytest.fixture
def econ(folder, images):
    econ = Econ(config_of(folder))
    assert "3 principal components" in econ.initialise(lambda n: images.float())
    return econ


@pytest.fixture
def passes(monkeypatch, econ):
    """Numbers of images that the network sees at a time."""
    found, forward = [], econ.guide.pretrained.forward
    monkeypatch.setattr(
        econ.guide.pretrained, "forward", lambda x: [found.append(len(x)), forward(x)][1]
    )
    return found


@pytest.mark.needs("transformers")
def test_the_network_sees_each_image_once_for_all_experts(econ, passes, images):
    x, k = images.float(), torch.tensor([[0, 1, 2]]).expand(5, -1)
    s = torch.ones(5, 1, 16, 16)
    seeds, r = econ.guide.candidates(x, s, 2)
    assert passes == [5]
    last = econ.guide.pixel_features(x)
    econ.guide.attend(x, s, k[:, 0])
    assert passes == [5, 5, 5]
    rest, nothing = torch.full((5, 1), -1), torch.zeros(0)
    given = Selection(k, nothing, torch.cat([seeds, rest], 1), nothing, nothing)
    econ.guide.regions(x, k, given)
    assert passes == [5, 5, 5, 5]
    features = econ.guide._logits_of_all(x, s)
    both = econ.guide.with_pretrained(features, x)
    own = econ.guide.pretrained(x)
    assert torch.equal(both[:, :, :-3], features)
    assert all(torch.equal(both[:, e, -3:], own) for e in range(3))
    torch.testing.assert_close(last, both.mean(1))


@pytest.mark.needs("transformers")
def test_the_network_is_neither_trained_nor_stored(econ, images):
    names = {n for n in econ.state_dict() if "pretrained" in n}
    assert names == {f"guide.pretrained.{n}" for n in ("mean", "components", "scale", "checksum")}
    assert not [n for n, _ in econ.named_parameters() if "pretrained" in n]
    (network,) = econ.guide.pretrained._network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    econ.train()
    assert not network.training
    terms = econ.loss_terms(images.float())
    terms.x.sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert any(p.grad is not None for p in econ.guide.attentions.parameters())
    assert not econ.guide.pretrained(images.float().requires_grad_()).requires_grad


def stripes(size, rows, columns):
    """Vertical stripes, and in a rectangle horizontal ones, of the same two greys."""
    i = torch.arange(size)
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[rows, columns] = True
    x = torch.where(inside, (i % 2)[:, None], (i % 2)[None]) * 0.4 + 0.3
    return x.expand(1, 3, -1, -1).clone(), inside


def as_filters(network):
    """Tokens that tell the direction of stripes: patches are filtered, and nothing else."""
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network.layernorm.weight.fill_(1)
        sign = torch.tensor([1.0, -1, 1, -1])
        filters = network.embeddings.patch_embeddings.projection.weight  # (D, 3, rows, columns)
        filters[0::2] = sign[:, None]
        filters[1::2] = sign


@pytest.mark.needs("transformers")
def test_regions_follow_textures_that_colours_do_not_tell_apart(tmp_path):
    save(tmp_path / "n", change=as_filters, num_hidden_layers=0)
    x, inside = stripes(32, slice(4, 16), slice(8, 28))
    fields = {"salience": "features", "colour_weight": 0.0, "place_weight": 0.0}

    def grown(**more):
        config = changed(config_of(tmp_path / "n", **fields, **more), model__size=32)
        econ = Econ(config)
        for network in econ.guide.attentions:
            torch.nn.init.zeros_(network.head.weight)
        econ.initialise(lambda n: x)
        seeds, r = econ.guide.candidates(x, torch.ones(1, 1, 32, 32), 1)
        return seeds[0, 0], r[0, 0, 0, 0] > 0.5

    def overlap(a, b):
        return ((a & b).sum() / (a | b).sum()).item()

    seed, region = grown()
    assert inside.flatten()[seed] and overlap(region, inside) > 0.7
    assert overlap(region, inside.T) < 0.5
    assert grown(pretrained_weight=0.0)[1].all()  # nothing tells anything apart


@pytest.mark.needs("transformers")
def test_grouping_is_learnt_with_features_of_the_corrupted_images(folder, tmp_path, monkeypatch):
    recipe = RecipeConfig(grouping_images=16, grouping_steps=3)
    config = dataclasses.replace(
        config_of(folder), recipe=recipe, augment=AugmentConfig(share=1.0, noise=0.2)
    )
    seen, looked, augment = [], [], grouping.augment

    def watched(*args):
        seen.append(augment(*args).seen)
        return augment(*args)._replace(seen=seen[-1])

    monkeypatch.setattr(grouping, "augment", watched)
    trainer = make_trainer(config, tmp_path / "run")
    features = trainer.learner.model.guide.pretrained
    forward = features.forward
    monkeypatch.setattr(features, "forward", lambda x: [looked.append(x), forward(x)][1])
    done = trainer.initialise()
    assert "fitted to 32 images" in done and "attention learnt to group" in done
    assert len(seen) == 3 and all(map(torch.equal, seen, looked))


@pytest.mark.needs("transformers")
def test_a_run_resumes_bit_equal(folder, tmp_path):
    config = config_of(folder, shifts=1)
    for name, until in (("whole", 4), ("part", 2)):
        trainer = make_trainer(config, tmp_path / name, 4)
        trainer.initialise()
        trainer.fit(stop=lambda trainer=trainer, until=until: trainer.step == until)
        assert trainer.step == until
    resumed = make_trainer(config, tmp_path / "part", 4)
    resumed.resume()
    resumed.fit()
    states = [
        without_clock(checkpoint.load_checkpoint(tmp_path / run / checkpoint.LAST))
        for run in ("whole", "part")
    ]
    assert states[0]["step"] == 4 and equal(*states)


@pytest.mark.needs("transformers")
def test_commands_take_features_and_refuse_another_network(folder, other, tmp_path, capsys):
    network, run = shutil.copytree(folder, tmp_path / "network"), tmp_path / "run"
    args = ["svi_train", "quick", *TINY_ARGS, "--features", network, "--steps", 4]
    script(*args, "--run", run, "--until", 2)
    assert f"8 principal components of {network} fitted to 256 images" in capsys.readouterr().out
    again = ["svi_train", "quick", "--run", run, "--resume", "--until", 2]
    script(*again, "--features", network)
    line = fails(capsys, *again, "--features", other)
    assert f"the features of the run in {run}, {network}, got --features {other}" in line
    line = fails(capsys, *args, "--init-experts", "expert.safetensors", "--run", tmp_path / "new")
    assert "a model without pretrained features, for --init-experts" in line
    econ = econ_pyro.load(run)
    assert econ.config.model.expert.attention.pretrained == str(network)
    assert econ.decompose(torch.rand(2, 3, 16, 16)).region.shape == (2, 3, 1, 16, 16)
    econ.save_pretrained(tmp_path / "weights", "float16")
    assert "econ-pyro[features]" in (tmp_path / "weights/README.md").read_text()
    loaded = econ_pyro.load(tmp_path / "weights").guide.pretrained
    assert equal(loaded.state_dict(), econ.guide.pretrained.state_dict())
    shutil.copy(other / "model.safetensors", network)
    for source in (run, tmp_path / "weights"):
        with pytest.raises(EconError, match="fitted with, got other weights in"):
            econ_pyro.load(source)
    assert "fitted with, got other weights in" in fails(capsys, *again)
    shutil.rmtree(network)
    assert f"got no folder {network}" in fails(capsys, "evaluate", run)


@pytest.mark.needs("transformers")
def test_experts_keep_what_their_features_were_fitted_to(econ, tmp_path):
    x = torch.rand(2, 3, 16, 16)
    save_expert(tmp_path / "e.safetensors", econ.experts[0])
    expert = econ_pyro.load_expert(tmp_path / "e.safetensors")
    same = econ.drop(0).with_experts([expert, *econ.experts[1:]])
    assert equal(same.guide.state_dict(), econ.guide.state_dict())
    assert torch.equal(same.decompose(x).region, econ.decompose(x).region)
    assert econ.sample(2, seed=0).image.shape == x.shape
    assert untrained(econ).decompose(x).region.shape == (2, 3, 1, 16, 16)
    with pytest.raises(EconError, match="expert.attention.pretrained"):
        Econ(seeded_tiny()).put(0, expert)
    with pytest.raises(EconError, match="a model without pretrained features, to export"):
        export_onnx(econ, tmp_path)


@pytest.mark.needs("transformers")
def test_features_that_are_not_fitted_are_refused(folder, images):
    with pytest.raises(EconError, match="fitted to training images, got new weights"):
        Econ(config_of(folder)).decompose(images.float())
    with pytest.raises(EconError, match="images that differ, .* everywhere in 3 of them"):
        PretrainedFeatures(attention_of(folder), 4).fit(torch.full((3, 3, 4, 4), 0.5))


def text_model(folder):
    import transformers as t

    config = t.BertConfig(hidden_size=16, num_hidden_layers=0, num_attention_heads=2)
    t.BertModel(config).save_pretrained(folder)


def convolutions(folder):
    import transformers as t

    config = t.ConvNextConfig(hidden_sizes=[4, 4], depths=[1, 1], num_stages=2)
    t.ConvNextModel(config).save_pretrained(folder)


def hierarchy(folder):
    import transformers as t

    config = t.SwinConfig(image_size=32, patch_size=4, embed_dim=4, depths=[1, 1],
                          num_heads=[1, 1], window_size=2)  # fmt: skip
    t.SwinModel(config).save_pretrained(folder)


def without(part):
    def make(folder):
        from safetensors.torch import load_file, save_file

        save(folder)
        kept = {n: w for n, w in load_file(folder / "model.safetensors").items() if part not in n}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return make


def edited(name, **fields):
    def make(folder):
        stored = json.loads((save(folder) / name).read_text()) | fields
        (folder / name).write_text(json.dumps(stored))

    return make


def no_config(folder):
    (save(folder) / "config.json").unlink()


def no_safetensors(folder):
    torch.save({}, save(folder) / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def damaged(folder):
    path = save(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("make", "message"), [
    (text_model, r"vision transformer, .* got .*\(bert, which has no patch tokens\)"),
    (convolutions, r"got .*\(convnext, which has no patch tokens\)"),
    (hierarchy, r"got .*\(output \(1, 4, 8\) for 16x16\)"),
    (without("layer.1."), r"got .*\(weights without layers.1"),
    (no_config, "OWNER/NAME, or a folder with config.json, as model.expert.attention.pretrained"),
    (no_safetensors, "a vision transformer, in safetensors, .*: such as hf:facebook/dinov2-small"),
    (damaged, "a vision transformer, in safetensors, that transformers can load"),
    (edited("config.json", model_type="?", auto_map={"AutoConfig": "a.B"}), "rs can load, as"),
    (edited("config.json", num_channels=1), "transformers can load"),
    (edited("preprocessor_config.json", image_std=[1, 1, 0]), "three numbers as image_std in "),
    (edited("preprocessor_config.json", image_mean="a"), "three numbers as image_mean in "),
])  # fmt: skip
def test_what_is_no_such_network_is_one_clear_line(tmp_path, make, message):
    make(tmp_path / "n")
    with pytest.raises(EconError, match=message) as error:
        PretrainedFeatures(attention_of(tmp_path / "n"), 16).fit(torch.rand(2, 3, 16, 16))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.needs("transformers")
def test_loading_is_silent_and_draws_no_random_numbers(folder, monkeypatch):
    import transformers as t

    logging, load, states = t.utils.logging, t.AutoModel.from_pretrained, []

    def state():
        states.append((logging.get_verbosity(), logging.is_progress_bar_enabled()))

    monkeypatch.setattr(
        t.AutoModel, "from_pretrained", lambda *a, **k: [state(), load(*a, **k)][1]
    )
    logging.enable_progress_bar()
    state()
    kept = torch.get_rng_state()
    PretrainedFeatures(attention_of(folder), 16).fit(torch.eye(16).expand(2, 3, -1, -1))
    assert torch.equal(torch.get_rng_state(), kept)  # resumed runs draw what unbroken ones draw
    state()
    assert states == [states[0], (logging.ERROR, False), states[0]] and states[0][1]
    logging.disable_progress_bar()
    with pytest.raises(EconError, match="at most 16 for model.expert.attention.pretrained-dim"):
        PretrainedFeatures(attention_of(folder, pretrained_dim=17), 16)


@pytest.mark.needs("transformers", "huggingface_hub")
def test_networks_come_from_the_hub_or_its_cache(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    def refuse(*args):
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit, cached = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--owner--name"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/v1").write_text(commit)
    x = torch.rand(2, 3, 16, 16)
    for name in ("hf:owner/name@v1", f"hf:owner/name@{commit}", folder):
        features = PretrainedFeatures(attention_of(name), 16)
        features.fit(x)
        assert torch.equal(features(x), features(x))
    for name in ("hf:owner/name", "hf:owner/other", "hf:a/b/c", "hf:"):
        with pytest.raises(EconError, match="hub, or in its cache, as OWNER/NAME, got "):
            PretrainedFeatures(attention_of(name), 16)


def test_what_is_needed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    run = ["--run", tmp_path / "r"]
    line = fails(capsys, "svi_train", "quick", *TINY_ARGS, "--features", "hf:owner/name", *run)
    assert "got none installed: pip install 'econ-pyro[features]'" in line
    for preset, got in (("learnt-random-colours", "unet"), ("monet", "a model without it")):
        line = fails(capsys, "svi_train", preset, "--features", "hf:owner/name", *run)
        assert f"kind seeded, for --features, got {got}" in line
    assert not (tmp_path / "r").exists()


def test_configurations_from_before_have_none():
    values = to_dict(ExpertConfig(attention=SeededAttention()))
    for name in ("pretrained", "pretrained_weight", "pretrained_dim"):
        del values["attention"][name]
    attention = from_dict(ExpertConfig, values).attention
    assert attention == SeededAttention() and not attention.pretrained
    assert Econ(seeded_tiny()).guide.pretrained is None
