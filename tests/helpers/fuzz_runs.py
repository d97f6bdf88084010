"""Files of runs for :mod:`helpers.fuzz`: configurations, checkpoints, metrics, weights, experts,
scenes.

Most cases change what fields hold, mostly without the checksum that would find it.
"""

import atexit
import copy
import io
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from econ_pyro.config import FORMAT, to_dict
from econ_pyro.econ import Econ, load, load_expert
from econ_pyro.files.storage import CHECKSUM, write_json
from econ_pyro.io import scene_file
from econ_pyro.io.expert_file import save_expert
from econ_pyro.training import checkpoint, metrics_file
from econ_pyro.training.run_config import read_config
from helpers.fuzz import Target
from helpers.paths import GOLDEN
from helpers.trainers import TINY, make_trainer

NAMES = ["sky", "red ball", "7"]


# --- whole files


@cache
def _run() -> Path:
    """A trained run, made once."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_trainer(TINY, folder, 4).fit()
    recorded = {"preset": "quick", "format": FORMAT, "config": to_dict(TINY), "data": None}
    more = {"fit": "crop", "limit": 100, "commit": None}
    write_json(folder / checkpoint.CONFIG, {**recorded, **more}, True)
    write_json(folder / checkpoint.NAMES, {"names": NAMES, "usage": [0.5, 0.5, 0]}, True)
    save_expert(folder / "expert.safetensors", Econ(TINY, names=NAMES).experts[1])
    Econ(TINY, names=NAMES).save_pretrained(folder / "published")
    return folder


def _copy_run(path: Path) -> None:
    shutil.copytree(_run(), path.parents[path.parts[::-1].index("run") - 1], dirs_exist_ok=True)


def _copy_format1(path: Path) -> None:
    shutil.copytree(FORMAT1, path.parents[path.parts[::-1].index("run") - 1], dirs_exist_ok=True)


def _copy(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        source = _run() / name
        if source.name == "model.safetensors":
            shutil.copytree(source.parent, path.parent, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, path)

    return make


FORMAT1 = GOLDEN / "format-1-run"


def _make_scene(path: Path) -> None:
    layers = [
        {"expert": "red ball", "z": [0.5, -1.0], "dx": 2, "dy": -1.5, "visible": True},
        {"expert": 0, "z": [0.0, 0.0], "background": True, "class": "sky", "scores": [1.0]},
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"version": 1, "width": 16, "height": 16, "layers": layers})


# --- reading


def _load(path: Path) -> None:
    load(path.parent)


def _resume(path: Path) -> None:
    run = path.parent.parent
    load(run, which="last")
    make_trainer(TINY, run, 6).resume()


def _resume_format1(path: Path) -> None:
    run = path.parent.parent
    load(run, which="last")
    make_trainer(read_config(run).config, run, 8).resume()


@cache
def _painter() -> Econ:
    return Econ(TINY, names=NAMES)


def _paint(path: Path) -> None:
    _painter().render(scene_file.read_scene(path, NAMES))


def _rows(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metrics_file.read_rows(path)
    for row in found:
        assert row["step"] >= 0 and (row.get("usage") is None or len(row["usage"]) >= 0)


# --- changes of what fields hold

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 10**9, -(10**9), 2**63, 10**40, 1e308, -0.0, "", "a",
    "x" * 9999, "../x", "\x1b[2J", "\ud800", "\0", [], [1], ["a"], [None] * 300, {}, {"a": 1},
    [[[]]],
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    own = [path] if path else []
    if isinstance(value, dict):
        return own + [p for key, v in value.items() for p in _places(v, (*path, key))]
    if isinstance(value, list):
        return own + [p for i, v in enumerate(value[:8]) for p in _places(v, (*path, i))]
    return own


def _change(value: Any, luck: random.Random, values: list[Any]) -> Any:
    """A copy with another value, none, or one more, at some place."""
    value = copy.deepcopy(value)
    places = _places(value)
    if not places or luck.random() < 0.03:
        return luck.choice(values)
    *above, last = luck.choice(places)
    inner = value
    for key in above:
        inner = inner[key]
    kind = luck.random()
    if kind < 0.15 and isinstance(inner, dict):
        del inner[last]
    elif kind < 0.25 and isinstance(inner, dict):
        inner[luck.choice(["more", "sha256", "", "\x1b", "model.expert"])] = luck.choice(values)
    elif kind < 0.35 and isinstance(inner, list):
        inner.extend([inner[0]] * luck.choice([1, 300]))
    else:
        inner[last] = luck.choice(values)
    return value


def _json(data: bytes, luck: random.Random) -> bytes:
    value = json.loads(data)
    if luck.random() < 0.8:
        value.pop(CHECKSUM, None)  # else the checksum finds all
    text = json.dumps(_change(value, luck, VALUES))
    if luck.random() < 0.1:
        text = text.replace(luck.choice("0123456789"), luck.choice(["NaN", "1e999", "9" * 5000]))
    if luck.random() < 0.05:
        text = text.replace("null", "[" * 5000 + "]" * 5000)
    return text.encode()


def _lines(data: bytes, luck: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    i = luck.randrange(len(lines))
    return b"".join([*lines[:i], _json(lines[i], luck) + b"\n", *lines[i + 1 :]])


def _tensors() -> list[Any]:
    return [
        torch.zeros(()), torch.zeros(3), torch.full((4,), torch.nan), torch.eye(2).to_sparse(),
        torch.zeros(1).expand(10**9), torch.zeros(2, dtype=torch.complex64),
        torch.zeros(5056, dtype=torch.uint8), torch.ones(3, dtype=torch.long),
    ]  # fmt: skip


def _archive(data: bytes, luck: random.Random) -> bytes:
    state = torch.load(io.BytesIO(data), weights_only=True)
    values = [v for v in VALUES if v != "\ud800"] + _tensors()
    out = io.BytesIO()
    torch.save(_change(state, luck, values), out)
    return out.getvalue()


def _safetensors(data: bytes, luck: random.Random) -> bytes:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = header.get("__metadata__", {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(data)
        tensors = load_file(path)
        if luck.random() < 0.8:
            about.pop(CHECKSUM, None)
        name = luck.choice(sorted(tensors))
        kind = luck.randrange(5)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[luck.choice(["more", "model.more", "../x", "decoder.x"])] = torch.zeros(2)
        elif kind == 2:
            whole = [t.clone() for t in _tensors() if not t.is_sparse and t.numel() < 10**6]
            tensors[name] = luck.choice(whole)
        elif kind == 3:
            tensors[name] = torch.full_like(tensors[name], luck.choice([float("nan"), 1e30]))
        elif about:
            texts = [v if isinstance(v, str) else json.dumps(v) for v in VALUES if v != "\ud800"]
            about[luck.choice(sorted(about))] = luck.choice(texts)
        save_file(tensors, path, about)
        return path.read_bytes()


def _target(
    file: str,
    make: Callable[[Path], object],
    read: Callable[[Path], object],
    mutate: Callable[[bytes, random.Random], bytes],
) -> Target:
    def write(folder: Path) -> Path:
        path = folder / file
        make(path)
        return path

    return Target(write, read, mutate=mutate)


TARGETS = {
    "run-config": _target("run/config.json", _copy_run, _load, _json),
    "run-data": _target(
        "run/config.json", _copy_run, lambda path: read_config(path.parent), _json
    ),
    "run-names": _target("run/experts.json", _copy_run, _load, _json),
    "checkpoint": _target("run/checkpoints/last.pt", _copy_run, _resume, _archive),
    "format1-config": _target("run/config.json", _copy_format1, _load, _json),
    "format1-checkpoint": _target(
        "run/checkpoints/last.pt", _copy_format1, _resume_format1, _archive
    ),
    "format1-expert": _target(
        "run/experts/expert_0.safetensors", _copy_format1, load_expert, _safetensors
    ),
    "metrics": _target("metrics.jsonl", _copy("metrics.jsonl"), _rows, _lines),
    "weights": _target(
        "model.safetensors", _copy("published/model.safetensors"), _load, _safetensors
    ),
    "expert": _target("e.safetensors", _copy("expert.safetensors"), load_expert, _safetensors),
    "scene": _target("scene.json", _make_scene, _paint, _json),
}
