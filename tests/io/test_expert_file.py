"""Experts as parts: chosen, reordered, reused, frozen."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import econ_pyro
from econ_pyro.config import RecipeConfig
from econ_pyro.econ import Econ, load, load_expert
from econ_pyro.errors import EconError
from econ_pyro.evaluation.specialisation import distinct_names
from econ_pyro.io.expert_file import save_expert
from econ_pyro.model_config import PoseLatents, SeededAttention
from econ_pyro.training import checkpoint
from econ_pyro.training.load_balancing import LoadBalancing, Restarts
from helpers.scripts import TINY_ARGS, fails, script
from helpers.trainers import callback, changed, make_trainer, small_expert


def weights(expert):
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in expert.networks.items()
        for name, tensor in network.state_dict().items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def econ(tiny):
    config = changed(tiny, model__expert=small_expert(bias=0.0, shape_bias=0.0))
    econ = Econ(config, names=["circle", "expert-1", "square"])
    econ.model.class_probs.copy_(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]))
    return econ


def test_the_order_of_the_experts_changes_nothing_but_their_numbers(econ):
    x = torch.rand(6, 3, 16, 16)
    order = [2, 0, 1]
    before, after = econ.decompose(x), econ.with_experts(order).decompose(x)
    assert before.k.unique().numel() > 1
    assert torch.equal(torch.tensor(order)[after.k], before.k)
    assert torch.equal(after.region, before.region) and torch.equal(after.z, before.z)


def test_dropping_keeps_the_others_and_their_shares(econ):
    new = econ.drop("circle")
    assert [e.name for e in new.experts] == ["expert-0", "square"]
    assert new.config.model.num_experts == 2 and new.config.names == ("", "square")
    assert equal(weights(new.experts[0]), weights(econ.experts[1]))
    expected = torch.tensor([[2 / 9, 7 / 9], [1.0, 0.0], [0.25, 0.75]])
    torch.testing.assert_close(new.model.class_probs, expected)
    with torch.no_grad():
        new.experts[1].decoder.layers.head.bias.add_(1)  # copies: the old model stays as it was
    assert not equal(weights(new.experts[1]), weights(econ.experts[2]))


def test_adding_experts_of_another_model(econ):
    other = Econ(dataclasses.replace(econ.config, seed=9), names=["star", "circle", "heart"])
    new = econ.add(*other.experts[:2])
    assert new.names == ["circle", "expert-1", "square", "star", "circle-2"]
    assert equal(weights(new.experts[4]), weights(other.experts[1]))
    torch.testing.assert_close(new.model.class_probs.sum(1), torch.ones(3))
    torch.testing.assert_close(new.model.class_probs[0, 3], torch.tensor(0.2 / 1.4))
    assert new.sample(2, scene="square star circle-2", seed=0).image.shape == (2, 3, 16, 16)
    twice = new.with_experts(["star", "star", 0])
    assert twice.names == ["star", "star-2", "circle"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.expert.latents.dim", 3),
        ("model.expert.features", 8),
        ("model.expert.attention.channels", (8, 4)),
        ("model.expert.attention.hidden", 4),
        ("model.expert.attention.patch", 2),
        ("model.expert.latents.kind", PoseLatents()),
        ("model.expert.attention.kind", SeededAttention(channels=(4, 4), hidden=8)),
        ("model.size", 32),
    ],
)
def test_experts_of_other_sizes_are_refused_by_field(econ, name, value):
    path = name.removesuffix(".kind").replace(".", "__")
    other = Econ(changed(econ.config, **{path: value}))
    with pytest.raises(EconError, match=f"{name} .*, as the model has, got .*expert-0: set --"):
        econ.add(other.experts[0])


def test_biases_that_weights_began_with_are_no_size(econ, tiny):
    assert econ.config.model.expert != tiny.model.expert
    econ.add(Econ(tiny).experts[0])


def test_choices_that_make_no_sense(econ):
    with pytest.raises(EconError, match="experts from circle, expert-1, square, got 'heart'"):
        econ.drop("heart")
    with pytest.raises(EconError, match="from 0 to 2, got 7"):
        econ.with_experts([7])
    with pytest.raises(EconError, match="at least 1 for experts, got 0"):
        econ.drop(0, 1, 2)


def test_an_expert_alone_comes_back_from_its_file(econ, tmp_path):
    save_expert(tmp_path / "e.safetensors", econ.experts[2])
    expert = load_expert(tmp_path / "e.safetensors")
    assert equal(weights(expert), weights(econ.experts[2]))
    with safe_open(tmp_path / "e.safetensors", framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"  # what other programs look for
    assert (expert.name, expert.size, expert.config) == ("square", 16, econ.config.model.expert)


def test_files_that_are_no_experts_are_named(econ, tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(EconError, match="an expert's safetensors file.*e.safetensors"):
        load_expert(path)
    save_expert(path, econ.experts[0])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EconError, match="an expert's safetensors file.*e.safetensors"):
        load_expert(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(EconError, match="without .*--resume"):
        load_expert(path)


def test_names_given_stay_and_no_two_are_alike():
    assert distinct_names(["a", "circle-2"], ["circle-2"]) == ["circle-2", "circle-3"]
    assert distinct_names(["a", "a", "b"]) == ["a", "a-2", "b"]
    assert distinct_names(["circle", "circle-2", "b"], ["", "circle"]) == [
        "circle-2", "circle", "b"
    ]  # fmt: skip
    assert distinct_names(["x", "y", "star"], ["star", "heart"]) == ["star", "heart", "star-2"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a", "a"), "3 different names"), (("a\nb",), "printable characters in the config")],
)
def test_names_in_a_configuration_are_checked(tiny, names, message):
    with pytest.raises(EconError, match=message):
        dataclasses.replace(tiny, names=names)


# --- training


def frozen(tiny, **fields):
    recipe = RecipeConfig(load_balancing=1.0, restart_below=0.9, restart_every=2)
    return changed(tiny, **{"recipe": recipe, "train__frozen": 2, **fields})


def test_frozen_experts_are_bit_unchanged_and_still_compete(tiny, tmp_path):
    trainer = make_trainer(frozen(tiny), tmp_path / "run")
    learner = trainer.learner
    ensembles = learner.model.expert_groups()
    before = [[{n: p.clone() for n, p in e[k].state_dict().items()} for e in ensembles]
              for k in range(3)]  # fmt: skip
    trainer.fit()
    for k in range(3):
        for ensemble, old in zip(ensembles, before[k], strict=True):
            assert equal(ensemble[k].state_dict(), old) == (k < 2)
    usage = torch.tensor([row["usage"] for row in trainer.rows]).sum(0)
    assert (usage[:2] > 0).any() and callback(learner, LoadBalancing).bias.abs().min() > 0
    assert len(learner.optim.param_groups[0]["params"]) == sum(
        len(list(e[2].parameters())) for e in ensembles
    )


def test_resuming_keeps_them_frozen(tiny, tmp_path):
    whole = make_trainer(frozen(tiny, train__steps=8), tmp_path / "whole")
    whole.fit()
    make_trainer(frozen(tiny, train__steps=4), tmp_path / "parts").fit()
    resumed = make_trainer(frozen(tiny, train__steps=8), tmp_path / "parts")
    resumed.resume()
    resumed.fit()
    assert equal(whole.learner.model.state_dict(), resumed.learner.model.state_dict())


def test_a_step_that_only_frozen_experts_win_changes_nothing(tiny, tmp_path):
    learner = make_trainer(frozen(tiny), tmp_path / "run").learner
    before = {n: p.clone() for n, p in learner.model.state_dict().items()}
    callback(learner, LoadBalancing).bias = torch.tensor([0.0, 0.0, 1e6])
    step = learner.step(torch.rand(4, 3, 16, 16), None, 0)
    assert step.loss > 0 and (step.k < 2).all()
    assert equal(before, learner.model.state_dict())


def test_a_starved_expert_is_left_if_frozen_and_a_copy_of_a_frozen_one_if_not(tiny, tmp_path):
    config = frozen(tiny, recipe__restart_every=1)
    learner = make_trainer(config, tmp_path / "run").learner
    ensembles = learner.model.expert_groups()
    before = [[p.clone() for e in ensembles for p in e[k].parameters()] for k in range(2)]
    for wins in (
        [[0, 1000, 0], [0, 1000, 0], [0, 0, 1000]],  # expert 0 starves
        [[1000, 0, 0], [1000, 0, 0], [0, 1000, 0]],  # expert 2 does, and 0 is the busiest
    ):
        callback(learner, Restarts).wins = torch.tensor(wins)
        learner.step(torch.rand(4, 3, 16, 16), None, 0)
        for k in range(2):
            now = [p for e in ensembles for p in e[k].parameters()]
            assert all(torch.equal(a, b) for a, b in zip(now, before[k], strict=True))
    copied = [p for e in ensembles for p in e[2].parameters()]
    for a, b in zip(before[0], copied, strict=True):
        assert (a - b).abs().max() <= 0.12 * a.square().mean().sqrt() and b.requires_grad


def test_freezing_all_is_refused(tiny):
    with pytest.raises(EconError, match="0 to 2 train.frozen of 3 experts.*got 3: raise --model"):
        frozen(tiny, train__frozen=3)


def test_the_library_freezes_for_other_loops(econ):
    econ.freeze("circle", 2)
    free = [e.name for e in econ.experts if all(p.requires_grad for p in e.decoder.parameters())]
    assert free == ["expert-1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "old"
    script("svi_train", "quick", *TINY_ARGS, "--steps", 2, "--run", folder)
    return folder


NEW_CLASS = """--model.num-experts 4 --model.num-slots 4 --scenes.objects 3
    --scenes.classes circle square star
    --recipe.restart-every 2 --recipe.restart-below 0.9""".split()


def test_a_fresh_expert_learns_a_new_class_and_the_old_ones_stay(run, tmp_path):
    old = load(run).experts
    files = [str(run / f"experts/expert_{k}.safetensors") for k in range(3)]
    new = tmp_path / "new"
    args = ["quick", *TINY_ARGS, *NEW_CLASS, "--run", new]
    script("svi_train", *args, "--init-experts", files[0] + "," + files[1], files[2], "--freeze",
           "--steps", 5)  # fmt: skip
    script("svi_train", "quick", "--resume", "--run", new, "--steps", 7)
    stored = json.loads((new / "config.json").read_text())["config"]
    assert stored["train"]["frozen"] == 3 and stored["model"]["num_experts"] == 4
    first = Econ(load(new).config).experts[3]
    for which in ("best", "last"):
        experts = load(new, which=which).experts
        assert all(equal(weights(a), weights(b)) for a, b in zip(old, experts[:3], strict=True))
        assert not equal(weights(first), weights(experts[3]))
    names = [e.name for e in experts]
    for a, name in zip(old, names, strict=False):
        assert name == a.name or a.name.startswith("unused")
    assert len(set(names)) == 4
    script("evaluate", new, "--n", 4)
    assert json.loads((new / checkpoint.NAMES).read_text())["names"][:3] == names[:3]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--freeze"], "experts to --freeze, got no --init-experts"),
        (["--init-experts", "{e}", "--freeze", "--model.num-experts", "1"], "0 to 0 train.frozen"),
        (["--init-experts", "{e},{e}", "--model.num-experts", "1"], "up to 1 --init-experts"),
        (
            ["--init-experts", "{e}", "--model.expert.latents.dim", "5"],
            "set --model.expert.latents.dim 3",
        ),
        (["--init-experts", "{e}", "--model.expert.features", "8"], "model.expert.features 8"),
        (
            ["--init-experts", "{e}", "--model.expert.latents.kind", "free"],
            "set --model.expert.latents.kind pose",
        ),
        (["--init-experts", "{e}", "--model.size", "32"], "model.size 32, as the model has"),
        (["--init-experts", "none.safetensors"], "none.safetensors"),
    ],
)
def test_wrong_initial_experts_are_one_clear_line(run, tmp_path, capsys, args, message):
    expert = run / "experts/expert_0.safetensors"
    args = [a.format(e=expert) for a in args]
    error = fails(capsys, "svi_train", "quick", *TINY_ARGS, *args, "--run", tmp_path / "new")
    assert message in error and not (tmp_path / "new").exists()


def test_the_package_offers_them():
    assert econ_pyro.load_expert is load_expert
