"""What the code gives, to be kept while it is moved: a command writes it anew.

    PYTHONPATH=tests python -m helpers.golden

``tests/test_golden.py`` holds to these files a change that should leave results alone; one that
should change them writes them again, and says so in the commit.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyro
import torch

import econ_pyro
from econ_pyro import presets
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import Config, TeachingConfig
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.evaluation.evaluate import TEST_SEED, as_json, evaluate
from econ_pyro.infer import scene_model
from econ_pyro.training import checkpoint
from econ_pyro.training.learner import Learner
from econ_pyro.training.trainer import Trainer
from helpers.paths import GOLDEN
from helpers.trainers import changed

WEIGHTS = ("quick", "random-colours", "single-expert")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SIZE, BATCH, STEPS = 16, 4, 10
SIZES = {"multi-dsprites": 32, "tetrominoes": 32}
"""Of presets whose scenes cannot be that small; their batches are half as large."""
SCENES, SCORED = 64, 200
SLOW = {"learnt-random-colours": 16}
"""Weights that refine in six rounds, and how many scenes are enough of them."""
# these presets have other numbers than their neighbour, but no other code
ALIKE = (
    "paper-unique-colours-swapped",
    "paper-unique-colours-tuned",
    "paper-random-colours",
    "multi-dsprites-coloured",
    "turned-random-colours",
    "clevr-like",
    "emoji",
    "mnist",
    "freedoom",
)
# chains of Gibbs sampling amplify rounding
CHAINS = ("mrbm", "mrbm-softmax", "mrbm-16")
LOSSES = tuple(name for name in presets.PRESETS if name not in (*ALIKE, *CHAINS))
LATE = 1000
"""The second half of the steps are of this age: schedules are over, layers are in order."""


def small(preset: str) -> Config:
    """A preset of small images and batches, in full precision."""
    config, size = presets.PRESETS[preset][1], SIZES.get(preset, SIZE)
    batch = BATCH // 2 if preset in SIZES else BATCH
    return dataclasses.replace(
        config,
        amp=False,
        scenes=dataclasses.replace(config.scenes, size=size),
        model=dataclasses.replace(config.model, size=size),
        train=dataclasses.replace(
            config.train, batch=batch, minutes=None, train_scenes=64, valid_scenes=16
        ),
    )


def losses(preset: str, dtype: torch.dtype) -> list[float]:
    """Losses of a preset's first steps, the second half of them as if they came late.

    In float32 there are no late ones: it is the same code, and rounding adds up.
    """
    config = small(preset)
    batch, steps = config.train.batch, STEPS if dtype == torch.float64 else STEPS // 2
    model, device = scene_model.build(config).to(dtype), torch.device("cpu")
    learner = Learner(config, model, device, ProcessGroup())
    source = GeneratedScenes(config.scenes, config.seed, STEPS * batch)
    pyro.set_rng_seed(1)
    taught = isinstance(config.teaching, TeachingConfig)
    late = config.train.steps - STEPS if taught else LATE  # when the model teaches itself
    found = []
    for step in range(steps):
        scenes = source.scenes(torch.arange(batch) + step * batch)
        regions = scenes.layers(config.model.num_slots).to(dtype) if config.gt_masks else None
        age = step if step < STEPS // 2 else late + step
        found.append(learner.step(scenes.image.to(dtype), regions, age).loss.item())
    return found


def resumed() -> dict[str, object]:
    """Rows of metrics and sums of the weights of a run that was stopped and resumed."""
    # the preset's schedules are shares of the run, so that a run of 8 steps that goes on to 12 is
    # not the same as one of 12: here they are in steps
    config = changed(
        small("quick"),
        objective__gamma_until=1200,
        model__competition__temperature_until=1200,
        model__competition__depth_order_from=75,
        recipe__load_balancing_until=700,
        train__steps=12,
        train__validate_every=4,
    )

    def trainer(run: Path, steps: int) -> Trainer:
        train = dataclasses.replace(config.train, steps=steps)
        econ = Econ(config)
        sources = [
            GeneratedScenes(config.scenes, config.seed, n, split)
            for split, n in (("train", train.train_scenes), ("valid", train.valid_scenes))
        ]
        pyro.set_rng_seed(config.seed)
        device = torch.device("cpu")
        whole = dataclasses.replace(config, train=train)
        return Trainer(whole, econ, *sources, run, device)

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        trainer(run, 8).fit()
        second = trainer(run, 12)
        second.resume()
        second.fit()
        rows = checkpoint.read_metrics(run / checkpoint.METRICS)
    state = second.learner.model.state_dict()
    keep = ("step", "loss", "valid_loss", "x", "z", "r", "lr", "gamma", "temperature", "usage")
    return {
        "rows": [{name: row[name] for name in keep} for row in rows],
        "weights": {name: float(v.double().abs().sum()) for name, v in state.items()},
    }


@cache
def shipped(name: str) -> tuple[Econ, GeneratedScenes]:
    """Weights that come with the package, and held-out scenes."""
    econ = econ_pyro.load(name)
    return econ, GeneratedScenes(econ.config.scenes, TEST_SEED, SCORED, "valid")


def decomposition(name: str) -> dict[str, np.ndarray]:
    """What shipped weights find in held-out scenes."""
    econ, source = shipped(name)
    scenes = source.scenes(torch.arange(SLOW.get(name, SCENES)))
    true = scenes.layers(econ.config.model.num_slots) if econ.config.gt_masks else None
    d = econ.decompose(scenes.image, evidence=true)
    return {
        "k": d.k.numpy().astype(np.int8),
        "z": d.z.numpy().astype(np.float32),
        "segmentation": d.segmentation.numpy().astype(np.int8),
        "shape": d.shape.mean((2, 3, 4)).numpy().astype(np.float32),
        "terms": torch.stack(list(d.terms), -1).numpy().astype(np.float32),
    }


def scores(name: str, n: int = SCORED) -> dict[str, object]:
    """What ``evaluate.py`` measures of shipped weights."""
    econ, source = shipped(name)
    some = GeneratedScenes(econ.config.scenes, TEST_SEED, n, "valid") if n != SCORED else source
    return as_json(evaluate(econ, some, gt_masks=econ.config.gt_masks))


def main() -> None:
    """Write the files."""
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    found = {
        preset: {name: losses(preset, dtype) for name, dtype in DTYPES.items()}
        for preset in LOSSES
    }
    _write("losses.json", found)
    _write("resumed.json", resumed())
    _write("scores.json", {name: scores(name) for name in WEIGHTS})
    for name in (*WEIGHTS, *SLOW):
        np.savez_compressed(GOLDEN / f"{name}.npz", **decomposition(name))


def _write(name: str, value: object) -> None:
    (GOLDEN / name).write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
