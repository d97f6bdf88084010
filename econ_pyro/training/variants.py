"""Variants of a preset that are trained beside each other: ablations, and ladders of changes.

Variants are a JSON file::

    {"preset": "quick",
     "options": "--steps 500",
     "cumulative": false,
     "variants": {
       "all of it": "",
       "no whitening": "--recipe.no-whitening",
       "no occluded examples": "--recipe.occlusion 0"}}

Options are those of ``svi_train.py``. ``options`` are common to all variants. With ``cumulative``,
each variant has the options of all variants before it as well. Where an option is given twice, the
later one counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from econ_pyro import presets
from econ_pyro.errors import EconError, describe, did_you_mean
from econ_pyro.files import untrusted
from econ_pyro.files.folder_names import safe_name
from econ_pyro.training.child_runs import words_of
from econ_pyro.training.space_file import preset_of

MAX_VARIANTS = 100


@dataclass(frozen=True)
class Variants:
    """A preset, and options of variants by name."""

    preset: str
    variants: Mapping[str, tuple[str, ...]]
    """Options of each, the common ones included."""

    @staticmethod
    def folder(name: str) -> str:
        """A variant's name, as part of a folder's name."""
        return safe_name(re.sub(r"[^\w.-]+", "-", name.lower()).strip("-"))


# ``paper-*`` at the size of ``quick``
_SMALL = (
    "--model.expert.features 16 --model.expert.attention.channels 16 32 32 32 --train.batch 16"
)
_PUBLISHED = {
    "as published": "",
    "Adam with 2e-3, cosine": "--train.lr 2e-3 --train.schedule.kind cosine",
}
# with the published two latents, the background's expert cannot encode a colour of three channels
_THIRD_LATENT = {"three latents": "--model.expert.latents.dim 3"}
_LADDER = {
    "He initialisation": "--model.expert.kaiming",
    "beta 1, gamma 0.5 to 1": "--objective.beta 1 --objective.gamma 0.5 --objective.gamma-end 1 "
    "--objective.gamma-until 60%",
    "temperature 2 to 1": "--model.competition.lam 1 --model.competition.temperature 2 "
    "--model.competition.temperature-end 1 --model.competition.temperature-until 60%",
    "attention and shapes start near 0": "--model.expert.attention.bias -3 "
    "--model.expert.shape-bias -3",
    "competition for savings": "--model.competition.kind savings",
    "load balancing and restarts": "--recipe.kind econ --recipe.load-balancing 3 "
    "--recipe.load-balancing-limit 300 --recipe.load-balancing-until 35% "
    "--recipe.restart-below 0.2 --recipe.restart-until 100%",
    "occluded examples, whitening": "--recipe.occlusion 0.5 --recipe.whitening",
    "refined regions": "--model.competition.refine --model.competition.refine-rounds 3",
    "taught attention, no seeds": "--teaching.kind e-step --teaching.start 0 "
    "--teaching.seeds-until 0 --teaching.recomposed 0.5",
    "decoders about a place": "--model.expert.latents.kind pose --model.expert.latents.dim 5 "
    "--model.expert.latents.reach 0.7 --model.expert.latents.shape-dim 2 --model.expert.layers 3 "
    "--model.expert.no-kaiming",
    "seeds as the first teacher": "--teaching.start 5% --teaching.seeds-until 60%",
}
BUILT_IN: dict[str, dict[str, Any]] = {
    f"ladder-{data}": {
        "preset": f"paper-{data}",
        "options": f"{_SMALL} --train.steps {steps}",
        "cumulative": True,
        "variants": {**_PUBLISHED, **further, **_LADDER},
    }
    for data, steps, further in (
        ("unique-colours", 1000, _THIRD_LATENT), ("random-colours", 2000, {})
    )
}  # fmt: skip
"""From the paper's presets, with networks and batches of the size of ``quick``, to learnt
attention. The last variant of unique colours is ``learnt-unique-colours``. That of random colours
has clean images, fewer steps and none of the lessons that ``learnt-random-colours`` adds."""


def read_variants(name: str) -> Variants:
    """Variants by their name in :data:`BUILT_IN` or by the path of their file.

    Raises:
        EconError: there are none, or they are damaged.
    """
    if name in BUILT_IN:
        return parse(BUILT_IN[name], name)
    if not name.endswith(".json"):
        hint = did_you_mean(name, BUILT_IN) or "docs/guides/training.md explains such files"
        raise EconError(f"a .json file or one of {', '.join(BUILT_IN)}, as variants", name, hint)
    hint = "see docs/guides/training.md"
    return parse(untrusted.read_json(Path(name), "variants of a preset", hint=hint), name)


def parse(value: Any, where: str) -> Variants:
    """Variants from the content of their file.

    Args:
        value: the content.
        where: name of the file, for error messages.

    Raises:
        EconError: a field is missing, unknown or of another kind.
    """
    preset = preset_of(value, where, {"variants"}, {"options", "cumulative"})
    cumulative = value.get("cumulative", False)
    if type(cumulative) is not bool:
        raise EconError(f"true or false as cumulative in {where}", describe(cumulative))
    given = value["variants"]
    if not isinstance(given, dict) or not 1 <= len(given) <= MAX_VARIANTS:
        expected = f"an object of 1 to {MAX_VARIANTS} variants in {where}"
        raise EconError(expected, describe(given))
    common, found = words_of(value.get("options", ""), where), dict[str, tuple[str, ...]]()
    folders = dict[str, str]()
    for name, options in given.items():
        folder = Variants.folder(name)
        if not name.isprintable() or "|" in name:
            expected = f"names of variants in {where} on one line and without |, for a table"
            raise EconError(expected, describe(name))
        if folder in folders:
            expected = f"names of variants in {where} that give folders of different names"
            raise EconError(expected, f"{folder} of {folders[folder]!r} and of {name!r}")
        folders[folder] = name
        found[name] = (*common, *words_of(options, f"{name!r} of {where}"))
        if cumulative:
            common = list(found[name])
    return Variants(presets.in_full(preset), found)
