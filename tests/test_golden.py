"""What the code gave when it was last meant to change; :mod:`helpers.golden` writes it anew."""

import json

import numpy as np
import pytest

from econ_pyro import presets
from helpers import golden
from helpers.paths import GOLDEN

ALMOST = 0.998  # of the pixels and layers: where two are equally likely, rounding decides


def stored(name):
    return json.loads((GOLDEN / name).read_text())


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("preset", golden.LOSSES)
def test_first_losses_of_a_preset(preset, dtype):
    latents = getattr(getattr(presets.PRESETS[preset][1].model, "expert", None), "latents", None)
    if getattr(latents, "angle", False) and dtype == "float32":
        pytest.skip("where two angles fit almost alike, rounding decides")
    close = 1e-9 if dtype == "float64" else 2e-3
    found = golden.losses(preset, golden.DTYPES[dtype])
    np.testing.assert_allclose(found, stored("losses.json")[preset][dtype], rtol=close)


def test_a_resumed_run():
    found, wanted = golden.resumed(), stored("resumed.json")
    assert [row["step"] for row in found["rows"]] == [4, 8, 12]
    for row, expected in zip(found["rows"], wanted["rows"], strict=True):
        assert row.keys() == expected.keys()
        for name in row:
            np.testing.assert_allclose(row[name], expected[name], rtol=2e-3, err_msg=name)
    assert found["weights"].keys() == wanted["weights"].keys()
    for name, value in wanted["weights"].items():
        np.testing.assert_allclose(found["weights"][name], value, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", (*golden.WEIGHTS, *golden.SLOW))
def test_decompositions_by_shipped_weights(name):
    found = golden.decomposition(name)
    with np.load(GOLDEN / f"{name}.npz") as wanted:
        assert sorted(found) == sorted(wanted)
        same = found["k"] == wanted["k"]
        assert same.mean() > ALMOST
        assert (found["segmentation"] == wanted["segmentation"]).mean() > ALMOST
        for part in ("z", "shape", "terms"):
            close = np.isclose(found[part], wanted[part], rtol=1e-3, atol=2e-3)
            assert close[same].mean() > ALMOST, part


@pytest.mark.parametrize("name", golden.WEIGHTS)
def test_scores_of_shipped_weights(name):
    found, wanted = golden.scores(name), stored("scores.json")[name]
    assert found.keys() == wanted.keys()
    for score, value in wanted["metrics"].items():
        np.testing.assert_allclose(
            found["metrics"][score], value, rtol=2e-3, atol=2e-3, err_msg=score
        )
