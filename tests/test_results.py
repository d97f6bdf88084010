"""Tables of the documentation are those of the runs whose scores are kept in ``results``."""

import pytest

from helpers.paths import ROOT
from helpers.scripts import script

FOLDERS = sorted(path for path in (ROOT / "results").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_tables_are_those_of_the_runs(folder, capsys):
    own = folder / "variants.json"
    script("ablate", own if own.exists() else folder.name, "--read", "--out", folder)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    documented = (ROOT / "docs/results.md").read_text().splitlines()
    assert len(rows) > 1 and not [row for row in rows if row not in documented]


def test_there_are_results():
    assert FOLDERS
