"""Hundreds of damaged and hostile files, the same ones each time; more: :mod:`helpers.fuzz`."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import fuzz, fuzz_damage

CASES = 240


@pytest.mark.parametrize("name", fuzz.targets())
def test_what_is_not_damaged_is_read(name, tmp_path):
    target = fuzz.targets()[name]
    target.read(target.make(tmp_path))


def test_whatever_is_read_is_read_or_refused():
    names = list(fuzz.targets())
    done = fuzz.run(fuzz.cases(names, CASES), seed=0)
    assert len(done) == CASES
    assert [case for case in done if case[2] not in ("read", "refused")] == []
    for outcome in ("read", "refused"):  # damage that nobody notices, or that ends all, is none
        assert sum(case[2] == outcome for case in done) > CASES / 20


BROKEN = """
import json, os, resource, signal, time
from helpers.fuzz import Target
from econ_pyro.errors import EconError

def make(folder):
    (folder / "a").write_bytes(b"abc")
    return folder / "a"

def raises(path): raise KeyError("x")
def dies(path): os.kill(os.getpid(), signal.SIGSEGV)
def hangs(path): time.sleep(1000)
def grows(path): bytearray(os.urandom(1)) * (1 << 28)
def refuses(path): raise EconError("this", "that")
def reads(path): pass

TARGETS = {f.__name__: Target(make, f) for f in (reads, raises, dies, refuses, grows, hangs)}
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """The fuzz itself in a folder with readers that do all that readers must not do."""
    folder = tmp_path / "helpers"
    folder.mkdir()
    for name in ("__init__.py", "fuzz.py", "fuzz_damage.py"):
        text = (fuzz.HERE / name).read_text()
        text = text.replace("SECONDS = 60", "SECONDS = 4").replace("1 << 30", "1 << 27")
        (folder / name).write_text(text)
    (folder / "fuzz_broken.py").write_text(BROKEN)
    monkeypatch.setattr(fuzz, "HERE", folder)
    monkeypatch.setattr(fuzz, "SECONDS", 4)


def test_the_fuzz_notices(broken):
    names = ["raises", "dies", "reads", "grows", "refuses", "hangs", "reads"]
    said = []
    done = fuzz.run([(name, 0) for name in names], 0, said.append)
    outcomes = [outcome for _, _, outcome, _ in done]
    assert outcomes == ["KeyError", "crash", "read", "memory", "refused", "hang", "read"]
    assert len(said) == 4 and said[1].startswith("dies:0 of seed 0: crash: exit status -11")


def test_cases_are_repeated_by_seed_and_number(tmp_path):
    target = fuzz.targets()["npy"]

    def damaged(seed: int) -> bytes:
        folder = Path(tmp_path, str(len(list(tmp_path.iterdir()))))
        folder.mkdir()
        path = fuzz_damage.damage(target, folder, np.random.default_rng(seed))
        return path.read_bytes()

    assert damaged(3) == damaged(3) != damaged(4)
    value = {"a": [1, {"b": None}], "c": 0.5}
    texts = {
        fuzz_damage._json(json.dumps(value).encode(), np.random.default_rng(i)) for i in range(40)
    }
    assert len(texts) > 25
