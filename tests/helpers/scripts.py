"""Scripts, run in this process on a tiny configuration."""

import importlib

import pytest

from econ_pyro import cli

TINY_ARGS = """--model.size 16 --scenes.size 16 --model.num-experts 3 --model.num-slots 3
    --scenes.objects 2 --model.expert.latents.dim 3 --model.expert.layers 2
    --model.expert.features 4 --model.expert.attention.channels 4 4
    --model.expert.attention.hidden 8 --train.batch 4 --train.validate-every 2
    --train.valid-scenes 8 --train.schedule.kind plateau --device cpu --no-amp""".split()


def script(name, *args):
    """Run a script's main in this process, as ``python scripts/name.py`` would."""
    importlib.import_module(f"econ_pyro.scripts.{name}").main([str(a) for a in args])


def fails(capsys, name, *args):
    """The single line on stderr of a script that ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: script(name, *args))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in "".join(lines)
    return errors[0]
