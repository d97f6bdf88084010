"""Scripts, run in this process on a tiny configuration."""

import importlib

import pytest

from econ_pyro import cli
from econ_pyro.files import storage
from econ_pyro.viz.training_curves import training_curves

TINY_ARGS = """--model.size 16 --scenes.size 16 --model.num-experts 3 --model.num-slots 3
    --scenes.objects 2 --model.expert.latents.dim 3 --model.expert.layers 2
    --model.expert.features 4 --model.expert.attention.channels 4 4
    --model.expert.attention.hidden 8 --train.batch 4 --train.validate-every 2
    --train.valid-scenes 8 --train.schedule.kind plateau --device cpu --no-amp""".split()
DRAWN: dict[object, bytes] = {}
"""Files of training curves, by the kind of run."""


def script(name, *args):
    """Run a script's main in this process, as ``python scripts/name.py`` would."""
    module = importlib.import_module(f"econ_pyro.scripts.{name}")
    with pytest.MonkeyPatch.context() as patch:
        if name == "svi_train":
            patch.setattr(module, "training_curves", curves)
        module.main([str(a) for a in args])


def curves(rows, path, names):
    """Curves that are drawn once for all runs of a kind: else half of a tiny run's time.

    Of a kind are those with as many experts and the same columns, in one row or in several; names
    are alike if they have nothing but letters, digits and spaces.
    """
    columns = {name for row in rows for name, value in row.items() if value is not None}
    odd = tuple("" if name.replace(" ", "").isalnum() else name for name in names)
    kind = odd, min(len(rows), 2), frozenset(columns)
    if kind not in DRAWN:
        DRAWN[kind] = training_curves(rows, path, names).read_bytes()
    storage.write_atomically(path, lambda part: part.write_bytes(DRAWN[kind]))


def fails(capsys, name, *args):
    """The single line on stderr of a script that ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: script(name, *args))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in "".join(lines)
    return errors[0]
