"""The notebooks in ``docs/notebooks`` run from top to bottom, and are stored without outputs."""

import json
import os

import pytest

from helpers.paths import ROOT

FOLDER = ROOT / "docs/notebooks"
FIGURES = {
    "model-as-a-pyro-program": 9,
    "competition-step-by-step": 7,
    "your-own-pictures": 5,
    "compose-and-edit-scenes": 8,
}
"""How many figures each notebook shows."""
NOT_OURS = "TqdmWarning: IProgress not found"  # Pyro imports it; ipywidgets is optional


def test_all_notebooks_are_listed():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == FIGURES.keys()
    page = (FOLDER / "index.md").read_text()
    assert all(f"({name}.ipynb)" in page for name in FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_notebooks_are_stored_without_outputs(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 20_000
    stored = json.loads(text)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    for cell in stored["cells"]:
        assert cell["metadata"] == {} and not cell.get("outputs") and "attachments" not in cell
        assert cell.get("execution_count") is None


@pytest.mark.needs("nbclient", "nbformat", "ipykernel")
@pytest.mark.parametrize("name", FIGURES)
def test_notebooks_run(name, tmp_path):
    import nbclient
    import nbformat

    folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR")
    env = os.environ | {"OMP_NUM_THREADS": "1"} | {folder: str(tmp_path) for folder in folders}
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    here = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=here)
    client.execute(env=env)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[name]
    warnings = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert all(NOT_OURS in text for text in warnings), warnings
