"""What ``scripts/table1.py`` measures: the four rows of the paper's Table 1, of many runs.

Each measurement is stored beside what it is of, and is not repeated while that is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from econ_pyro.evaluation import (
    coherent_scenes,
    controlled_recombination,
    decompose_reconstruct,
    inference_cost,
)
from econ_pyro.evaluation.coherent_scenes import Gallery, open_gallery
from econ_pyro.evaluation.efficientnet import is_installed
from econ_pyro.evaluation.evaluate import evaluate, held_out, write_names
from econ_pyro.evaluation.scene_judge import SceneJudge, train_judge
from econ_pyro.evaluation.system_table import MISSING, Row, Scores, markdown
from econ_pyro.files import storage
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import checkpoint, child_runs
from econ_pyro.viz import figures

Part = Literal["decompose", "coherent", "recombine", "inference"]
PARTS: tuple[Part, ...] = get_args(Part)
TITLES: dict[Part, tuple[str, Mapping[str, str]]] = {
    "decompose": ("Decompose and reconstruct", decompose_reconstruct.COLUMNS),
    "coherent": ("Generate coherent scenes", coherent_scenes.COLUMNS),
    "recombine": ("Recombine controllably", controlled_recombination.COLUMNS),
    "inference": ("Efficient inference", inference_cost.COLUMNS),
}
"""Titles of the parts and of their scores."""
STRIP = 8
"""Scenes of a strip."""
MEASURED = "table1-measured.json"
"""File of measurements in the folder of a run; those of references are beside the tables."""


@dataclass(frozen=True)
class Numbers:
    """How much is measured."""

    scenes: int = 1000
    """Held-out scenes that are decomposed."""
    samples: int = 2000
    """Samples of each prior."""
    requests: int = 500
    """Requests, and swaps."""
    clustered: int = 1250
    """Training images whose slots are clustered, for systems without classes."""
    rounds: int = 5
    """Timed turns of inference."""


@dataclass(frozen=True)
class RunFolder:
    """A run that has weights."""

    system: str
    budget: str
    seed: int
    path: Path
    scenes: SceneConfig
    """Distribution of its scenes."""
    slots: int
    """Number of its layers."""


class Measurements:
    """Measures runs and references.

    Args:
        out: folder of the tables.
        parts: what to measure.
        numbers: how much.
        load: opens the model of a run.
    """

    def __init__(
        self,
        out: Path,
        parts: Sequence[Part],
        numbers: Numbers,
        load: Callable[[Path], SceneModel],
    ) -> None:
        self._out, self._parts, self._numbers = out, parts, numbers
        self._load = load
        self._references = _Store(out / MEASURED)
        self._judge: Callable[[SceneConfig], SceneJudge] = cache(train_judge)
        self._gallery: Callable[[SceneConfig], Gallery] = cache(
            lambda scenes: open_gallery(scenes, self._judge(scenes), numbers.samples)
        )

    def tables(self, runs: Sequence[RunFolder], planned: int) -> tuple[str, list[dict[str, Any]]]:
        """Tables of all runs, as Markdown and as values for JSON.

        Args:
            runs: of any systems, budgets, seeds and scenes.
            planned: number of seeds that were asked for.
        """
        text, groups = list[str](), list[dict[str, Any]]()
        for scenes in dict.fromkeys(run.scenes for run in runs):
            own, title = [run for run in runs if run.scenes == scenes], title_of(scenes)
            group: dict[str, Any] = {"scenes": title}
            for part in self._parts:
                rows = self._rows(part, scenes, own, planned)
                name, columns = TITLES[part]
                table = markdown(rows, columns, counted=part == "decompose")
                text.append(f"### {name}: {title}\n\n{table}\n")
                group[part] = [row.as_json() for row in rows]
            groups.append(group)
        return "\n".join(text), groups

    def draw_strips(self, runs: Sequence[RunFolder]) -> list[Path]:
        """Draw the same held-out scenes as one run of each system and budget decomposes them.

        Returns:
            Paths of the PNG files, in the folder ``strips`` beside the tables.
        """
        first: dict[tuple[str, str, SceneConfig], RunFolder] = {}
        for run in runs:
            first.setdefault((run.system, run.budget, run.scenes), run)
        paths = []
        for run in first.values():
            model, images = self._load(run.path), held_out(run.scenes, STRIP)
            found = model.decompose(images.images(torch.arange(STRIP)))
            path = self._out / "strips" / f"{run.path.name}-{run.budget}.png"
            path.parent.mkdir(exist_ok=True)
            paths.append(figures.decomposition_grid(found, model.names, path, STRIP))
        return paths

    def _rows(
        self, part: Part, scenes: SceneConfig, runs: Sequence[RunFolder], planned: int
    ) -> list[Row]:
        if part == "inference":
            return self._inference(scenes, runs)
        rows = self._reference_rows(part, scenes, max(run.slots for run in runs))
        for system, budget in dict.fromkeys((run.system, run.budget) for run in runs):
            own = [run for run in runs if (run.system, run.budget) == (system, budget)]
            scores = {run.seed: self._of_run(part, run) for run in own}
            rows.append(Row(system, budget, scores, planned))
        return rows

    def _of_run(self, part: Part, run: RunFolder) -> Scores:
        steps = checkpoint.read_metrics(run.path / checkpoint.METRICS)[-1]["step"]
        asked = {"steps": steps, **self._asked(part)}
        store = _Store(run.path / MEASURED)
        scores = store.get(part, asked, lambda: self._measured(part, run))
        if part != "decompose":
            return scores
        return {**scores, "minutes": child_runs.minutes_of(run.path), "steps": steps}

    def _measured(self, part: Part, run: RunFolder) -> Scores:
        model, n = self._load(run.path), self._number(part)
        if part == "decompose":
            report = evaluate(model, held_out(run.scenes, n))
            write_names(run.path, report, model.names)
            return decompose_reconstruct.scores_of(report)
        self._name(run, model)
        if part == "coherent":
            return coherent_scenes.measure(model, self._gallery(run.scenes))
        judge = self._judge(run.scenes)
        clustered = self._numbers.clustered
        return controlled_recombination.measure(model, judge, run.scenes, n, clustered)

    def _name(self, run: RunFolder, model: SceneModel) -> None:
        """Name the experts of a run by what they won of held-out scenes."""
        self._of_run("decompose", run)
        model.names = self._load(run.path).names

    def _reference_rows(self, part: Part, scenes: SceneConfig, slots: int) -> list[Row]:
        asked = {"slots": slots, **self._asked(part)}
        measure: dict[Part, Callable[[], list[Row]]] = {
            "decompose": partial(
                decompose_reconstruct.references, scenes, self._numbers.scenes, slots
            ),
            "coherent": lambda: coherent_scenes.references(self._gallery(scenes)),
            "recombine": lambda: controlled_recombination.references(
                self._judge(scenes), scenes, self._numbers.requests
            ),
        }
        found = self._references.get(
            f"{part}: {title_of(scenes)}",
            asked,
            lambda: {row.system: row.runs[0] for row in measure[part]()},
        )
        return [Row(name, runs={0: scores}) for name, scores in found.items()]

    def _inference(self, scenes: SceneConfig, runs: Sequence[RunFolder]) -> list[Row]:
        """One run of each system, all in turns; nothing is stored."""
        first = {run.system: run for run in reversed(runs)}
        models = {name: self._load(run.path) for name, run in reversed(first.items())}
        images = held_out(scenes, max(inference_cost.BATCHES))
        found = inference_cost.measure(
            models,
            images.images(torch.arange(len(images))),
            torch.device("cpu"),
            self._numbers.rounds,
        )
        return [Row(name, MISSING, {first[name].seed: found[name]}, 1) for name in found]

    def _asked(self, part: Part) -> dict[str, Any]:
        """What a measurement depends on, beside what it is of."""
        further: dict[Part, dict[str, Any]] = {
            "coherent": {"features": is_installed()},
            "recombine": {"clustered": self._numbers.clustered},
        }
        return {"n": self._number(part), **further.get(part, {})}

    def _number(self, part: Part) -> int:
        numbers = self._numbers
        each = {"decompose": numbers.scenes, "coherent": numbers.samples}
        return each.get(part, numbers.requests)


class _Store:
    """Measurements by name, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(
        self, name: str, asked: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """A measurement, made now unless it is stored for the same ``asked``."""
        found = self._read().get(name)
        if not isinstance(found, dict) or found.get("asked") != asked:
            found = {"asked": dict(asked), "scores": dict(measure())}
            # measured meanwhile, too
            storage.write_json(self._path, {**self._read(), name: found}, checksum=True)
        return found["scores"]

    def _read(self) -> dict[str, Any]:
        return storage.read_json(self._path) if self._path.exists() else {}


def title_of(scenes: SceneConfig) -> str:
    """The kind of scenes, their size, and where objects are if not anywhere."""
    size = f", {scenes.size} x {scenes.size} pixels"
    places = f", objects at {scenes.places} x {scenes.places} places" if scenes.places else ""
    return f"{scenes.kind}{size}{places}"
