"""Values of a configuration are checked before anything is made by them."""

import dataclasses
import json
import re
import resource
import time

import pytest

from econ_pyro import limits
from econ_pyro.config import (
    FORMAT,
    AugmentConfig,
    Config,
    CosineSchedule,
    NoRecipe,
    ObjectiveConfig,
    PlateauSchedule,
    RecipeConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from econ_pyro.econ import Econ, load, load_expert
from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.files.tensor_file import read_tensors, write_tensors
from econ_pyro.infer import scene_model
from econ_pyro.io.expert_file import save_expert
from econ_pyro.model_config import (
    EconConfig,
    ExpertConfig,
    FreeLatents,
    GreedyOptions,
    JointOptions,
    PoseLatents,
    SeededAttention,
    UNetAttention,
)
from econ_pyro.presets import PRESETS
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training.run_config import read_config
from helpers.scripts import TINY_ARGS, fails, script
from helpers.trainers import small_expert

PARTS = [
    ("model.expert.latents", FreeLatents, limits.LATENTS),
    ("model.expert.latents", PoseLatents, limits.LATENTS),
    ("model.expert.attention", UNetAttention, limits.ATTENTION),
    ("model.expert.attention", SeededAttention, limits.ATTENTION),
    ("model.expert", ExpertConfig, limits.EXPERT),
    ("model.competition", GreedyOptions, limits.COMPETITION),
    ("model.competition", JointOptions, limits.COMPETITION),
    ("model", EconConfig, limits.MODEL),
    ("objective", ObjectiveConfig, limits.OBJECTIVE),
    ("train.schedule", PlateauSchedule, limits.SCHEDULE),
    ("train.schedule", CosineSchedule, limits.SCHEDULE),
    ("train", TrainConfig, limits.TRAIN),
    ("recipe", NoRecipe, limits.RECIPE),
    ("recipe", RecipeConfig, limits.RECIPE),
    ("augment", AugmentConfig, limits.AUGMENT),
]


NUMBER = r"\b(int|float|Duration)\b"


def test_every_number_has_bounds():
    numbers = {}
    for group, cls, bounds in PARTS:
        own = {
            f.name
            for f in dataclasses.fields(cls)
            if re.search(r"\b(int|float|Duration)\b", f.type)
        }
        known = numbers.setdefault(group, (set(), bounds))
        known[0].update(own)
    for found, bounds in numbers.values():
        assert found == set(bounds)


def fields():
    for group, cls, _ in [*PARTS, ("scenes", SceneConfig, {}), ("", Config, {})]:
        for field in dataclasses.fields(cls):
            if not re.search("(Config|Options|Latents|Attention|Schedule|Recipe)$", field.type):
                yield group, cls, field.name, field.type


def part_of(values, group):
    for name in group.split(".") if group else ():
        values = values[name]
    return values


def configuration_with(group, cls):
    """A configuration with a part of that class."""
    values = to_dict(Config(model=EconConfig(expert=ExpertConfig(attention=SeededAttention()))))
    if group and "kind" in {f.name for f in dataclasses.fields(cls)}:
        part = part_of(values, group)
        part.clear()
        part.update(to_dict(cls()))
    from_dict(Config, values)
    return values


def test_a_configuration_that_is_older_than_a_part_has_its_defaults():
    values = to_dict(Config())
    assert set(values.pop("augment").values()) == {0.75, 0, None}
    assert values.pop("teaching") == {"kind": "none"}
    assert from_dict(Config, values) == Config()


@pytest.mark.parametrize(("group", "cls", "name", "kind"), list(fields()))
def test_values_of_other_types_are_refused(group, cls, name, kind):
    wrong = ["a", None, [], {}, [["a"]], -1.5, True, float("nan"), float("inf"), 10**40, -(10**40)]
    if "None" in kind:
        wrong.remove(None)
    if kind.startswith("str") or name in ("sprites", "backgrounds"):
        wrong.remove("a")
    if kind == "bool":
        wrong.remove(True)
    if kind.startswith("tuple[str"):
        wrong = [w for w in wrong if w != []]  # no names; classes ask for one
    if "float" in kind and name in ("bias", "shape_bias"):
        wrong.remove(-1.5)
    for value in wrong:
        values = configuration_with(group, cls)
        part_of(values, group)[name] = value
        with pytest.raises(EconError) as error:
            from_dict(Config, values)
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "group",
    ["model", *sorted({g for g, cls, _ in PARTS if "kind" in cls.__dataclass_fields__})],
)
@pytest.mark.parametrize("value", ["a", None, [], 3, True, {"kind": "a"}, {"kind": []}])
def test_parts_of_no_kind_are_refused(group, value):
    values = to_dict(Config())
    *above, name = group.split(".")
    part_of(values, ".".join(above))[name] = value
    with pytest.raises(
        EconError, match=f"an object as config.{group}|one of .* as config.{group}"
    ):
        from_dict(Config, values)


def test_all_presets_are_within_and_come_back():
    for _, config in PRESETS.values():
        assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model.size", 10**9, "at most 1,024 for model.size, got 1000000000"),
        ("--model.size", 4, "at least 8 for model.size, got 4"),
        ("--model.num-experts", 10000, "at most 256 for model.num-experts"),
        ("--model.num-slots", 0, "at least 1 for model.num-slots"),
        ("--model.expert.latents.dim", 10**9, "at most 256 for model.expert.latents.dim"),
        ("--model.expert.features", -1, "at least 1 for model.expert.features"),
        ("--model.sigma-x", "nan", "a finite number for model.sigma-x"),
        ("--train.lr", "nan", "a finite number for train.lr, got nan"),
        ("--train.lr", "inf", "a finite number for train.lr, got inf"),
        ("--train.lr", 0, "a positive train.lr, got 0"),
        (
            "--train.schedule.kind plateau --train.schedule.patience",
            0,
            "at least 1 for train.schedule.patience",
        ),
        ("--train.batch", 10**9, "at most 65,536 for train.batch"),
        ("--steps", -1, "at least 1 for train.steps, got -1"),
        ("--minutes", -1, "at least 0 for train.minutes"),
        ("--minutes", "nan", "a finite number for train.minutes"),
        ("--train.schedule.warmup", -5, "at least 0 for train.schedule.warmup"),
        ("--objective.beta", -1, "at least 0 for objective.beta"),
        ("--objective.gamma-until", 0, "such as 40%, for objective.gamma-until, got 0"),
        ("--objective.gamma-until", "soon", "such as 40%, for objective.gamma-until, got 'soon'"),
        ("--recipe.restart-until", "-1%", "such as 40%, for recipe.restart-until, got '-1%'"),
        ("--seed", -1, "at least 0 for seed"),
        ("--seed", 2**64, "at most 4,294,967,295 for seed"),
    ],
)
def test_the_command_line_is_checked_too(capsys, tmp_path, option, value, message):
    error = fails(capsys, "svi_train", "quick", *option.split(), value, "--run", tmp_path / "run")
    assert message in error and not (tmp_path / "run").exists()


LARGE = [
    {"features": 1024, "layers": 4},
    {"attention": {"hidden": 8192}},
    {"attention": {"channels": [1024, 1024, 1024]}},
    {"latents": {"dim": 256}},
]


def enlarge(expert, sizes):
    for name, value in sizes.items():
        if isinstance(value, dict):
            enlarge(expert[name], value)
        else:
            expert[name] = value
    return expert


@pytest.mark.parametrize("sizes", LARGE)
@pytest.mark.parametrize("kind", ["published", "expert"])
def test_large_networks_beside_small_weights_are_not_built(tiny, tmp_path, sizes, kind):
    econ = Econ(tiny)
    path = tmp_path / "e.safetensors"
    if kind == "published":
        econ.save_pretrained(tmp_path)
        value = storage.read_json(tmp_path / "config.json")
        enlarge(value["config"]["model"]["expert"], sizes)
        storage.write_json(tmp_path / "config.json", value)
    else:
        save_expert(path, econ.experts[0])
        about, tensors = read_tensors(path, "")
        expert = enlarge(json.loads(about["expert"]), sizes)
        write_tensors(path, tensors, {**about, "expert": json.dumps(expert)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(EconError, match="weights of the sizes that are configured, got others"):
        load(tmp_path) if kind == "published" else load_expert(path)
    assert time.process_time() - began < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_networks_larger_than_any_are_not_built(tiny):
    expert = small_expert(features=1024, hidden=8192)
    model = dataclasses.replace(tiny.model, num_experts=256, expert=expert)
    with pytest.raises(EconError, match=r"networks of at most 536,870,912 numbers.*256 experts"):
        Econ(dataclasses.replace(tiny, model=model))


def test_what_experts_ask_for_is_what_their_networks_hold(tiny):
    for config in (tiny, *(config for _, config in PRESETS.values())):
        state, like = scene_model.build(config).state_dict(), scene_model.weights_like(config)
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in like.items()}
        assert {n: t.dtype for n, t in state.items()} == {n: t.dtype for n, t in like.items()}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", 3, "a path or null as data"),
        ("data", "", "a path or null as data"),
        ("data", ["a"], "a path or null as data"),
        ("fit", "stretch", "one of crop, resize as fit"),
        ("fit", ["crop"], "one of crop, resize as fit"),
        ("resample", "cubic", "one of auto, nearest, area as resample"),
        ("limit", 0, "1 to 1,000,000,000 as limit"),
        ("limit", True, "1 to 1,000,000,000 as limit"),
        ("limit", "many", "1 to 1,000,000,000 as limit"),
        ("config", [], "a configuration of econ-pyro"),
    ],
)
def test_what_a_run_was_trained_on_is_checked(tiny, tmp_path, field, value, message):
    whole = {"format": FORMAT, "config": to_dict(tiny), "data": None, "fit": "crop", "limit": 100}
    storage.write_json(tmp_path / "config.json", whole)
    assert read_config(tmp_path) == (tiny, None, "crop", 100, (), "auto")
    storage.write_json(tmp_path / "config.json", {**whole, field: value})
    with pytest.raises(EconError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("script_name", ["evaluate", "publish", "decompose", "sample", "figures"])
def test_scripts_refuse_a_wrong_config_in_one_line(tiny, tmp_path, capsys, script_name):
    run = tmp_path / "run"
    Econ(tiny).save_pretrained(run)
    value = storage.read_json(run / "config.json")
    value["config"]["train"]["lr"] = "quick"
    storage.write_json(run / "config.json", value)
    out = tmp_path / "out"
    args = {
        "evaluate": [run], "publish": [run, out], "sample": [run, "--out", out],
        "decompose": [run, run, "--out", out],
        "figures": ["--out", out, "--unique", run, "--random", "None", "--single", "None"],
    }[script_name]  # fmt: skip
    error = fails(capsys, script_name, *args)
    assert "a number for train.lr, got 'quick'" in error and "config.json" in error
    assert not out.exists()


def test_a_resumed_run_is_checked_before_its_networks_are_built(tmp_path, capsys):
    run = tmp_path / "run"
    script("svi_train", "quick", *TINY_ARGS, "--steps", 2, "--run", run)
    value = storage.read_json(run / "config.json")
    value["config"]["model"]["expert"]["attention"]["hidden"] = 64
    storage.write_json(run / "config.json", value)
    error = fails(capsys, "svi_train", "quick", "--resume", "--run", run)
    assert "weights of the sizes that are configured" in error
