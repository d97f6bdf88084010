"""The console command: a subcommand per script, imported only when it is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from econ_pyro import __version__, errors
from econ_pyro.scripts import main as console

SCRIPTS = Path(console.__file__).parent
NO_COMMAND = {"__init__", "main", "train_minimal"}  # train_minimal is there to be read


@pytest.fixture(autouse=True)
def same_argv(monkeypatch):
    """The console command sets ``sys.argv``: put it back."""
    monkeypatch.setattr(sys, "argv", ["pytest"])


def ends(capsys, *args):
    """Exit status of a command that ends the process, and the lines on stderr."""
    with pytest.raises(SystemExit) as stop:
        console.main(list(args))
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


def test_every_script_has_a_command():
    scripts = {path.stem for path in SCRIPTS.glob("*.py")} - NO_COMMAND
    assert set(console.COMMANDS.values()) == scripts
    assert set(console.ALIASES.values()) <= set(console.COMMANDS)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_each_command_with_a_line(capsys, args):
    console.main(args)
    out = capsys.readouterr().out
    assert out.startswith("usage: econ-pyro COMMAND")
    assert max(map(len, out.splitlines())) <= 99
    for name, module in console.COMMANDS.items():
        sentence = ast.get_docstring(ast.parse((SCRIPTS / f"{module}.py").read_text()))
        (line,) = [line for line in out.splitlines() if line.split(",")[0].split()[:1] == [name]]
        said = line.split("  ")[-1].strip()
        assert len(said) >= 10 and "``" not in said
        assert " ".join(sentence.split()).startswith(said)


def test_version(capsys):
    console.main(["--version"])
    assert capsys.readouterr().out == f"econ-pyro {__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("svi_train", "did you mean train?"),
        ("", "econ-pyro --help lists them"),
        ("\x1b[31m", "econ-pyro --help lists them"),
        ("a" * 5000, "econ-pyro --help lists them"),
    ],
    ids=["typo", "module", "empty", "escape", "long"],
)
def test_an_unknown_command_is_one_line(capsys, name, hint):
    status, lines = ends(capsys, name)
    assert status == 2 and len(lines) == 1 and len(lines[0]) < 250
    assert lines[0].startswith("error: expected a command of econ-pyro, got '")
    assert lines[0].endswith(hint) and lines[0].isprintable()


def test_a_command_runs_its_script_with_the_rest(capsys, tmp_path):
    console.main(["make-dataset", str(tmp_path / "d"), "--size", "16", "--n", "4", "--n-valid=2"])
    assert "4 training and 2 validation scenes" in capsys.readouterr().out
    assert sys.argv[0] == "econ-pyro make-dataset"


def test_mistakes_and_help_are_those_of_the_script(capsys, tmp_path):
    status, lines = ends(capsys, "decompose", str(tmp_path / "none"), "a.png", "--out", "o")
    assert status == 2 and len(lines) == 1 and "expected a run's folder" in lines[0]
    with pytest.raises(SystemExit) as stop:
        console.main(["ui", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: econ-pyro composer ")


def test_how_to_go_on_names_the_command_that_was_used(monkeypatch):
    assert errors.command("train") == "python scripts/svi_train.py"
    monkeypatch.setattr(sys, "argv", ["econ-pyro train", "quick"])
    assert errors.command("train") == "econ-pyro train"


def test_help_does_not_import_torch():
    code = "import sys; from econ_pyro.scripts.main import main; main(['--help']); "
    code += "print(sorted({'torch', 'pyro', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_as_a_module():
    command = [sys.executable, "-m", "econ_pyro.scripts.main", "trian"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean train?" in done.stderr
