"""The README's examples run: shell lines on a tiny run, Python blocks as they stand."""

import glob
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_scripts import TINY, script

from econ_pyro.data.readers.numpy_files import save_npz
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.io.layer_files import write_image
from econ_pyro.scene_config import SceneConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python scripts/(\w+)\.py (.*)$", README, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with pictures, scenes and a tiny run, called as the README has them."""
    monkeypatch.chdir(tmp_path)
    made = GeneratedScenes(SceneConfig(), 0, 20, "train")
    save_npz("spriteworld.npz", made.scenes(torch.arange(20)), made.classes)
    for i in range(3):
        write_image(Path(f"pictures/{i}.png"), torch.rand(3, 40, 40))
    tiny = [a.replace("3", "4") if before == "--model.experts" else a
            for before, a in zip(["", *TINY], TINY, strict=False)]  # fmt: skip
    script("svi_train", "quick", *tiny, "--steps", 2, "--run", "runs/quick")
    return tiny


def test_readme_commands_run(here):
    assert len(COMMANDS) >= 8
    for name, line in COMMANDS:
        if name == "composer":  # serves until it is stopped: tests/test_page.py
            continue
        args = shlex.split(line.replace("runs/quick-seed-0", "runs/quick"))
        if name == "svi_train" and "--resume" in args:
            args[args.index("--steps") + 1] = "3"
        elif name == "svi_train":
            args = [path for a in args for path in (sorted(glob.glob(a)) or [a])]  # as a shell
            args = [args[0], *here, *args[1:], "--model.size", "16"]  # the last counts
            args += ["--steps", "1", "--overwrite"]
            if "runs/quick" in args:
                args[args.index("runs/quick")] = "runs/other"
        elif name == "make_dataset":
            args[args.index("--n") + 1] = "12"
            args += ["--size", "16", "--n-valid", "4"]
        elif name in ("evaluate", "publish"):
            args += ["--n", "4"]
        elif name == "export_onnx":
            args += ["--steps-per-scene", "1"]
        script(name, *args)


def test_readme_python_runs(here):
    assert len(BLOCKS) == 5
    wanted = {"to_arviz": "arviz_base", "import Sprite": "spriteworld"}  # needs Python 3.11; old
    for block in BLOCKS:
        if any(use in block and find_spec(package) is None for use, package in wanted.items()):
            continue
        exec(compile(block, "README.md", "exec"), {})


def test_files_that_the_readme_names_exist():
    for path in re.findall(r"`((?:econ_pyro|models|guides)/\w+\.py)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
