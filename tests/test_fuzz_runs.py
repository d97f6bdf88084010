"""Some of the damaged and hostile files of ``fuzz_runs.py``: one clear error, or read."""

import fuzz_runs
import pytest


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    fuzz_runs.forget()


@pytest.mark.parametrize("name", fuzz_runs.TARGETS)
def test_a_whole_file_is_read(name, tmp_path):
    target = fuzz_runs.TARGETS[name]
    path = tmp_path / target.file
    target.make(path)
    target.read(path)


@pytest.mark.parametrize("name", fuzz_runs.TARGETS)
def test_a_mutated_file_is_read_or_refused(name, tmp_path):
    outcomes = [fuzz_runs.attempt(name, seed, tmp_path / str(seed)) for seed in range(5000, 5019)]
    if name != "metrics":  # of which damaged lines are left out
        assert outcomes.count("refused") > 5
