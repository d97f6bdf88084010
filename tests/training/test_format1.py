"""Files of format 1: ``tests/golden/format-1-run`` was trained by econ-pyro 0.1.

``tests/golden/format-1-weights`` is what that version published as ``single-expert``.
What that version found with the run, and computed when it resumed it, is in ``format-1.json``.
On the processor that computed it, losses after ten resumed steps agree to seven digits.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from econ_pyro.config import FORMAT, Config, from_dict, to_dict
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import load, load_expert
from econ_pyro.errors import EconError
from econ_pyro.evaluation.evaluate import TEST_SEED, evaluate
from econ_pyro.io import pretrained
from econ_pyro.training import checkpoint
from econ_pyro.training.format1 import upgraded_config
from econ_pyro.training.run_config import read_config
from helpers.paths import GOLDEN
from helpers.scripts import script

RUN, WEIGHTS = GOLDEN / "format-1-run", GOLDEN / "format-1-weights"
FOUND = json.loads((GOLDEN / "format-1.json").read_text())
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(RUN, tmp_path / "run")


def size_of(tensors):
    return sum(t.double().abs().sum().item() for t in tensors)


def edit(run, **changes):
    """Change options of the run, each by its name in format 1 with ``__`` between groups."""
    path = run / checkpoint.CONFIG
    stored = json.loads(path.read_text())
    stored.pop("sha256", None)
    for name, value in changes.items():
        *groups, field = name.split("__")
        part = stored["config"]
        for group in groups:
            part = part[group]
        part[field] = value
    path.write_text(json.dumps(stored))


def test_published_weights_are_those_that_are_shipped():
    assert "format" not in json.loads((WEIGHTS / checkpoint.CONFIG).read_text())
    old, new = load(WEIGHTS), load("single-expert")
    assert old.config == new.config and old.names == new.names
    weights = new.state_dict()
    assert old.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in old.state_dict().items())
    assert old.extra_state() == new.extra_state()


@pytest.mark.parametrize("name", pretrained.shipped())
def test_shipped_weights_are_of_the_present_format(name):
    stored = json.loads((pretrained.SHIPPED / name / checkpoint.CONFIG).read_text())
    assert stored["format"] == FORMAT
    found = to_dict(from_dict(Config, stored["config"]))
    assert within(stored["config"], found) == stored["config"]  # options since have defaults


def within(known, values):
    """The part of nested values that has known names."""
    if not isinstance(known, dict):
        return values
    return {name: within(value, values[name]) for name, value in known.items()}


def test_each_option_is_where_it_belongs():
    config = read_config(RUN).config
    model, expert = config.model, config.model.expert
    assert (model.num_experts, model.num_slots, model.size) == (2, 3, 16)
    assert (expert.latents.kind, expert.latents.dim, expert.latents.reach) == ("pose", 5, 0.7)
    assert (expert.latents.size, expert.latents.shape_dim) == (False, 2)
    attention = expert.attention
    assert (attention.kind, attention.channels, attention.patch) == ("seeded", (2, 2), 2)
    assert (attention.hidden, attention.colour_weight, attention.place_weight) == (2, 1.0, 0.35)
    competition = model.competition
    assert (competition.kind, competition.lam, competition.refine) == ("joint", 1.0, True)
    assert (competition.temperature, competition.temperature_end) == (2.0, 1.0)
    assert (competition.temperature_until, competition.depth_order_from) == (10, 2)
    objective, recipe, train = config.objective, config.recipe, config.train
    assert (objective.gamma, objective.gamma_end, objective.gamma_until) == (0.5, 1.0, 1200)
    assert (recipe.load_balancing, recipe.load_balancing_limit) == (3.0, 300.0)
    assert (recipe.load_balancing_until, recipe.occlusion, recipe.whitening) == (700, 0.5, True)
    assert (recipe.restart_below, recipe.restart_every, recipe.restart_until) == (0.9, 4, 5000)
    assert recipe.constant_colour_until == 0
    assert (train.schedule.kind, train.schedule.patience, train.schedule.decreases) == (
        "plateau",
        5,
        5,
    )
    assert (train.steps, train.batch, train.lr) == (6, 4, 2e-3)
    assert not config.gt_masks and not config.amp and config.cuda_graphs


def test_flags_of_the_paper_become_its_kinds():
    """Options that only the other kind has were ignored, and are left out."""
    values = json.loads((RUN / checkpoint.CONFIG).read_text())["config"]
    values["model"]["expert"].update(centred=False, seeded=False, shape_latents=None)
    values["train"].update(schedule="cosine", warmup=7)
    config = from_dict(Config, upgraded_config(values, None, "config.json"))
    expert = config.model.expert
    assert (expert.latents.kind, expert.latents.dim) == ("free", 5)
    assert (expert.attention.kind, expert.attention.bias) == ("unet", -3.0)
    assert config.model.competition.kind == "greedy"
    assert (config.train.schedule.kind, config.train.schedule.warmup) == ("cosine", 7)


def test_what_has_no_counterpart_is_refused(run):
    edit(run, model__expert__centred=False)  # with shape_latents 2
    with pytest.raises(EconError, match="econ-pyro 0.1 reads it"):
        read_config(run)
    edit(run, model__expert__centred=True, train__schedule="linear")
    with pytest.raises(EconError, match="one of plateau, cosine as config.train.schedule.kind"):
        read_config(run)
    edit(run, train__schedule="cosine", **{"model.expert": 3})
    with pytest.raises(EconError, match="fields of format 1, got unknown model.expert"):
        read_config(run)
    stored = json.loads((run / checkpoint.CONFIG).read_text())
    (run / checkpoint.CONFIG).write_text(json.dumps({**stored, "format": 3}))
    with pytest.raises(EconError, match=r"format 1 or 2 in .*config.json, got 3"):
        read_config(run)


@pytest.mark.parametrize("which", ["best", "last"])
def test_it_loads_and_decomposes_as_before(which):
    econ, wanted = load(RUN, which=which), FOUND[which]
    assert econ.names == FOUND["names"]
    scenes = GeneratedScenes(econ.config.scenes, TEST_SEED, 4, "valid")
    d = econ.decompose(scenes.images(torch.arange(4)))
    assert d.k.tolist() == wanted["k"]
    found = {
        "z": d.z,
        "area": d.area,
        "mean": d.mean.mean((2, 3, 4)),
        "terms": torch.stack(list(d.terms), -1),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], err_msg=name, **CLOSE)


def test_an_experts_file_loads():
    expert, wanted = load_expert(RUN / "experts/expert_1.safetensors"), FOUND["expert"]
    assert (expert.name, expert.size) == (wanted["name"], wanted["size"])
    config = load(RUN).config.model
    assert (expert.config, expert.size) == (config.expert, config.size)
    states = [network.state_dict() for network in expert.networks.values()]
    weights = size_of(tensor for state in states for tensor in state.values())
    assert weights == pytest.approx(wanted["weights"], rel=1e-6)
    own = load(RUN).experts[1]
    for part, network in own.networks.items():
        state = expert.networks[part].state_dict()
        assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())


def test_it_is_measured_as_before(run):
    econ = load(run)
    metrics = evaluate(econ, GeneratedScenes(econ.config.scenes, TEST_SEED, 16, "valid"))
    found, wanted = metrics.summary(), FOUND["metrics"]
    for name in ("ari", "ari_fg", "amodal_iou", "visible_iou", "ooa", "mse", "x", "z", "r"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-4), name
    script("evaluate", run, "--n", 4, "--device", "cpu")
    assert json.loads((run / "evaluation.json").read_text())["held-out"]["metrics"]["scenes"] == 4


@pytest.mark.parametrize("kind", ["resumed", "resumed-cosine"])
def test_it_resumes_as_before(run, kind):
    """With everything that a callback keeps, and with most of it switched off."""
    if kind == "resumed-cosine":
        edit(run, train__schedule="cosine", train__restart_below=0.0, objective__balance=0.0)
    script("svi_train", "quick", "--steps", 16, "--run", run, "--resume", "--device", "cpu")
    rows, wanted = checkpoint.read_metrics(run / checkpoint.METRICS), FOUND[kind]
    assert [row["step"] for row in rows] == list(range(2, 17, 2))
    for row, before in zip(rows, wanted["rows"], strict=True):
        for name, value in before.items():
            np.testing.assert_allclose(row[name], value, err_msg=name, **CLOSE)
    state = checkpoint.load_checkpoint(run / checkpoint.LAST)
    assert size_of(state["weights"].values()) == pytest.approx(wanted["weights"], rel=1e-4)
    assert state["format"] == 2
    # from here on it is a run of the present format, but for its configuration
    script("svi_train", "quick", "--steps", 18, "--run", run, "--resume", "--device", "cpu")
    assert checkpoint.load_checkpoint(run / checkpoint.LAST)["step"] == 18
