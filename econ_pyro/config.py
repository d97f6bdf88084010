"""Every option of a run, as frozen dataclasses. ``dataclasses.replace`` makes variants.

Those of the scene model are in :mod:`econ_pyro.model_config`. Field docstrings are the ``--help``
texts of the command line. Written as JSON (format 2) by :func:`to_dict`.
"""

from __future__ import annotations

import dataclasses
import json
import types
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from econ_pyro import limits, naming
from econ_pyro.errors import EconError, describe, printable
from econ_pyro.model_config import (
    KINDS,
    Duration,
    EconConfig,
    SceneModelConfig,
    SeededAttention,
    UNetAttention,
    check_duration,
    check_kind,
)
from econ_pyro.scene_config import SceneConfig

T = TypeVar("T")

FORMAT = 2
"""Of ``config.json``; format 1 had one class for all kinds (``training/format1.py``)."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The learning objective (Eq. 13)."""

    beta: float = 1.0
    """Weight of L_z."""
    gamma: float = 0.5
    """Weight of L_r at the start."""
    gamma_end: float | None = None
    """Weight of L_r after warm-up; gamma throughout if not set."""
    gamma_until: Duration = 1000
    """When the warm-up of gamma ends: training steps, or a share of the run (40%)."""
    smallest_region: int = 0
    """In pixels: nothing is learnt from a layer whose region is smaller. Where scenes have fewer
    objects than layers, experts would learn from empty ones to draw nothing."""

    def __post_init__(self) -> None:
        limits.check_fields(ObjectiveConfig, self, "objective", limits.OBJECTIVE)
        check_duration("objective.gamma-until", self.gamma_until, least=1)


@dataclass(frozen=True)
class PlateauSchedule:
    """The learning rate falls when the validation loss does not (appendix C.3)."""

    kind: Literal["plateau", "cosine"] = "plateau"
    """plateau: the rate falls when the validation loss stagnates; cosine: it falls over the whole
    run, to a hundredth."""
    patience: int = 5
    """Validations without improvement before the rate falls by a factor of sqrt(10)."""
    decreases: int = 5
    """Decreases of the rate after which training stops."""

    def __post_init__(self) -> None:
        limits.check_fields(PlateauSchedule, self, "train.schedule", limits.SCHEDULE)
        check_kind(self, "plateau", "train.schedule")


@dataclass(frozen=True)
class CosineSchedule:
    """The learning rate follows a cosine over the whole run, down to a hundredth."""

    kind: Literal["plateau", "cosine"] = "cosine"
    """plateau: the rate falls when the validation loss stagnates; cosine: it falls over the whole
    run, to a hundredth."""
    warmup: int = 0
    """Training steps over which the rate rises at first."""

    def __post_init__(self) -> None:
        limits.check_fields(CosineSchedule, self, "train.schedule", limits.SCHEDULE)
        check_kind(self, "cosine", "train.schedule")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation (appendix C.3)."""

    steps: int = 30000
    """Training steps at most."""
    minutes: float | None = None
    """Minutes of training at most, over all resumptions; no limit if not set. A run that this
    limit stops depends on the machine's speed and cannot be repeated bit by bit."""
    batch: int = 32
    """Scenes per training step."""
    lr: float = 5e-4
    """Adam's initial learning rate."""
    schedule: PlateauSchedule | CosineSchedule = field(default_factory=PlateauSchedule)
    validate_every: int = 100
    """Training steps between two validations."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    frozen: int = 0
    """Experts, counted from the first, whose weights stay fixed: they compete and win like
    others."""
    train_scenes: int = 50000
    """Number of training scenes."""
    valid_scenes: int = 100
    """Number of validation scenes."""

    def __post_init__(self) -> None:
        limits.check_fields(TrainConfig, self, "train", limits.TRAIN)


@dataclass(frozen=True)
class NoRecipe:
    """The paper's training, with nothing added."""

    kind: Literal["none", "econ"] = "none"
    """none: the paper's training; econ: what this project adds to it."""

    def __post_init__(self) -> None:
        check_kind(self, "none", "recipe")


@dataclass(frozen=True)
class RecipeConfig:
    """What this project adds to the paper's training, each part off by default."""

    kind: Literal["none", "econ"] = "econ"
    """none: the paper's training; econ: what this project adds to it."""
    load_balancing: float = 0.0
    """Load-balancing rate, in nats per step. Experts that win more than 1/K of the layers are
    penalised in the training competition; experts that win less are favoured. Layers under 2% of
    the image do not count."""
    load_balancing_limit: float = 30.0
    """Largest load-balancing bias in nats."""
    load_balancing_until: Duration = 3000
    """When load balancing ends: training steps, or a share of the run (40%)."""
    restart_below: float = 0.0
    """Replace an expert that won less than this share of an even share of the objects' layers
    since the last check by a noisy copy of the busiest; 0 never does. The expert that wins the
    most last layers, the background's, is exempt."""
    restart_every: int = 500
    """Training steps between two checks for starved experts."""
    restart_until: Duration = 5000
    """When restarts end: training steps, or a share of the run (40%)."""
    constant_colour_until: Duration = 0
    """Until when each layer's appearance is one constant colour, so that no layer can explain
    objects of different colours: training steps, or a share of the run (40%)."""
    grouping_images: int = 0
    """Before training, teach attention which pixels belong together, by so many training images as
    they look with the corruptions of augment; 0: attention learns from the ELBO alone. For
    attention of kind seeded."""
    grouping_from: Literal["colour", "textures", "cutouts"] = "colour"
    """What that is learnt from. colour: objects that growth over like colours finds; textures:
    leaves at random places, each of which has the texture of a small square of an image; cutouts:
    objects that nothing touches on a ground of one colour, cut out and put together anew."""
    grouping_steps: int = 3000
    """Gradient steps of that, of 8 images each."""
    grouping_fixed_until: Duration = 0
    """Until when attention keeps what it has learnt so, as the ELBO would soon unlearn it:
    training steps, or a share of the run (40%)."""
    self_training_images: int = 0
    """After that, teach attention by what refinement makes of so many training images, beside
    what grouping_from says; 0: do not."""
    self_training_rounds: int = 1
    """How many times, each with what attention has learnt before."""
    self_training_steps: int = 2500
    """Gradient steps of each time, of 8 images each."""
    shape_clusters: int = 0
    """Before training, take so many images apart, cluster the shapes of the objects that are
    whole, whatever the place, size and angle that decoders have, and start each expert with one of
    them, the last with the background; 0: experts start alike. For experts with shape_dim.
    With grouping_from cutouts, the objects that were cut out are clustered in place of these."""
    clusters_shaded: float = 0.0
    """Weight of shading in those clusters, beside shape: solids of different classes may have much
    the same outline. Experts then start with the clusters' shading, in any colour. 0: shape
    alone."""
    clusters_coloured: float = 0.0
    """Weight of colours in those clusters, beside shape, for classes that have colours of their
    own. Experts then start with the appearance of the clusters' objects. 0: shape alone."""
    shapes_fixed_until: Duration = 0
    """Until when the experts keep the shapes that they started with, and the appearance if they
    have it from clusters, while encoders learn to find the objects: training steps, or a share of
    the run (40%)."""
    occlusion: float = 0.0
    """Share of the layers of which the encoder sees only a part in training: another layer of the
    image is put in front, and the encoder has to infer the whole."""
    whitening: bool = False
    """After each validation, rescale the latents (but the pose) so that those of its scenes have
    mean 0 and variance 1. No drawing changes; L_z becomes as small as an affine map allows, and
    samples of the prior resemble what was seen."""

    def __post_init__(self) -> None:
        limits.check_fields(RecipeConfig, self, "recipe", limits.RECIPE)
        check_kind(self, "econ", "recipe")
        for name in (
            "load_balancing", "restart", "constant_colour", "grouping_fixed", "shapes_fixed"
        ):  # fmt: skip
            until = getattr(self, f"{name}_until")
            check_duration(f"recipe.{name.replace('_', '-')}-until", until)


@dataclass(frozen=True)
class NoTeaching:
    """Attention learns from the ELBO alone (the paper)."""

    kind: Literal["none", "e-step"] = "none"
    """none: attention learns from the ELBO alone; e-step: it is taught the regions that are
    optimal for what the layers draw."""

    def __post_init__(self) -> None:
        check_kind(self, "none", "teaching")


@dataclass(frozen=True)
class TeachingConfig:
    """Attention is taught the regions of the E-step: KL(r* || s a) beside the ELBO."""

    kind: Literal["none", "e-step"] = "e-step"
    """none: attention learns from the ELBO alone; e-step: it is taught the regions that are
    optimal for what the layers draw."""
    weight: float = 1.0
    """Weight of KL(r* || s a)."""
    start: Duration = "5%"
    """When teaching begins: training steps, or a share of the run. Layers have to draw something
    first."""
    seeds_until: Duration = "35%"
    """Until when the teacher's regions grow from seed pixels over like colours: training steps, or
    a share of the run. From then on the model teaches itself; 0: from the beginning."""
    rounds: int = 2
    """Rounds of refinement of the layers from which the model teaches itself; from the second on,
    a spare layer goes to what the others explain worst."""
    recomposed: float = 0.0
    """Share of the images that attention is taught on which are new scenes, put together from the
    layers of a batch: of more objects, and of several of one class."""
    recoloured: float = 0.0
    """Share of the objects in new scenes whose colours are changed: less different from the
    background, or to the other side of it. Where colours tell classes apart, leave it at 0."""
    leftovers: float = 0.0
    """Share of the images that attention is taught on in which objects that were taken leave a
    part of themselves in the scope, which no expert is to propose."""
    colour_weight: float = 1.0
    """Weight of colour in the growth of regions from seed pixels. A region ends at a ninth of a
    channel divided by this weight."""
    place_weight: float = 0.35
    """Weight of position in the same: the distance across the image, where black to white counts
    colour_weight."""

    def __post_init__(self) -> None:
        limits.check_fields(TeachingConfig, self, "teaching", limits.TEACHING)
        check_kind(self, "e-step", "teaching")
        for name in ("start", "seeds_until"):
            check_duration(f"teaching.{name.replace('_', '-')}", getattr(self, name))


@dataclass(frozen=True)
class AugmentConfig:
    """Corruptions of the images that networks see in training, each off if not set.

    :func:`econ_pyro.core.corruptions.augment` applies them.
    """

    share: float = 0.75
    """Share of the images that are corrupted: each kind that is set is applied to them with
    probability 1/4, contrast and grey with 1/2, at a strength that is uniform up to the one
    given."""
    start: Duration = 0
    """When corruption begins: training steps, or a share of the run (40%)."""
    grey: float | None = None
    """Largest share of the objects that lose their colour, at another brightness; off if not
    set."""
    texture: float | None = None
    """Largest amplitude of stripes, checkers or noise laid over each region; off if not set."""
    shading: float | None = None
    """Largest relative amplitude of a gradient of brightness in each region; off if not set."""
    outline: float | None = None
    """Largest opacity of a black or white contour around each object; off if not set."""
    contrast: float | None = None
    """Smallest factor of the contrast; off if not set. Unlike the others, it changes what is to be
    explained, too: colours of less contrast are other colours."""
    blur: float | None = None
    """Largest standard deviation of a Gaussian blur, in pixels; off if not set."""
    noise: float | None = None
    """Largest standard deviation of Gaussian noise; off if not set."""
    jpeg: int | None = None
    """Lowest quality of JPEG compression, 1 to 100; off if not set."""

    def __post_init__(self) -> None:
        limits.check_fields(AugmentConfig, self, "augment", limits.AUGMENT)
        check_duration("augment.start", self.start)

    @property
    def kinds(self) -> list[str]:
        """The kinds that are set."""
        return [k for k in limits.CORRUPTIONS if getattr(self, k, None) is not None]


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    scenes: SceneConfig = field(default_factory=SceneConfig)
    model: SceneModelConfig = field(default_factory=EconConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recipe: NoRecipe | RecipeConfig = field(default_factory=NoRecipe)
    teaching: NoTeaching | TeachingConfig = field(default_factory=NoTeaching)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    gt_masks: bool = False
    """Train with true regions in place of attention (the paper's Fig. 5)."""
    seed: int = 0
    """Seed of the weights, of the noise and of the scenes."""
    amp: bool = True
    """Run the networks in bfloat16 where the processor has it."""
    cuda_graphs: bool = True
    """On a GPU, replay training steps from CUDA graphs."""
    compile: bool = False
    """Compile the steps with torch's inductor: a minute or two at first, then faster steps."""
    names: tuple[str, ...] = ()
    """Names of the first experts, kept as they are; evaluation names the others (and an empty
    name) by the class that they win most."""

    def __post_init__(self) -> None:
        limits.check_fields(Config, self, "", limits.RUN)
        experts = experts_of(self)
        if not 0 <= self.train.frozen < experts:
            raise EconError(
                f"0 to {experts - 1} train.frozen of {experts} experts, so that one can learn",
                str(self.train.frozen),
                "raise --model.num-experts",
            )
        given = [name for name in self.names if name]
        if len(self.names) > experts or len(set(given)) < len(given):
            raise EconError(
                f"up to {experts} different names for {experts} experts",
                printable(repr(", ".join(given))),
            )
        naming.check_names(given, "the configuration")
        self._check_teaching()
        self._check_clusters()
        self._check_grouping()

    def _check_grouping(self) -> None:
        recipe = additions(self)
        if not recipe.grouping_images:
            if recipe.self_training_images:
                raise EconError(
                    "recipe.grouping-images, which comes before recipe.self-training-images",
                    "0",
                    "set it, as presets such as textured do, or --recipe.self-training-images 0",
                )
            return
        attention = getattr(getattr(self.model, "expert", None), "attention", None)
        if not isinstance(attention, SeededAttention):
            raise EconError(
                "model.expert.attention.kind seeded, which recipe.grouping-images teaches",
                getattr(attention, "kind", "a model without it"),
                "add --recipe.grouping-images 0",
            )
        competition = getattr(self.model, "competition", None)
        if recipe.self_training_images and not getattr(competition, "refine", False):
            raise EconError(
                "model.competition.refine, of which recipe.self-training-images learns",
                "no-refine",
                "add --model.competition.refine or --recipe.self-training-images 0",
            )

    def _check_clusters(self) -> None:
        recipe = additions(self)
        if not recipe.shape_clusters:
            return
        if recipe.clusters_shaded and recipe.clusters_coloured:
            raise EconError(
                "recipe.clusters-shaded or recipe.clusters-coloured",
                "both",
                "colours show shading, too: set one of them to 0",
            )
        latents = getattr(getattr(self.model, "expert", None), "latents", None)
        if getattr(latents, "shape_dim", None) is None:
            raise EconError(
                "experts whose shapes depend on latents of their own, which recipe.shape-clusters "
                "starts",
                "model.expert.latents.shape-dim None",
                "set it to the number of the pose's latents or more, or --recipe.shape-clusters 0",
            )
        if self.gt_masks or experts_of(self) < 2:
            raise EconError(
                "2 experts or more and no true regions, for recipe.shape-clusters",
                "gt-masks" if self.gt_masks else "1 expert",
                "add --recipe.shape-clusters 0",
            )

    def _check_teaching(self) -> None:
        if not isinstance(self.teaching, TeachingConfig):
            if self.augment.kinds and self.augment.share and not additions(self).grouping_images:
                kinds = ", ".join(f"augment.{kind}" for kind in self.augment.kinds)
                raise EconError(
                    "teaching.kind e-step or recipe.grouping-images, without which nothing uses "
                    f"{kinds}",
                    f"teaching.kind {self.teaching.kind}",
                    "add --teaching.kind e-step (as presets with learnt- have it), or "
                    "--augment.share 0",
                )
            return
        attention = getattr(getattr(self.model, "expert", None), "attention", None)
        if attention is None:
            raise EconError(
                "a model of kind econ, whose attention teaching.kind e-step teaches",
                f"one of kind {getattr(self.model, 'kind', '?')}",
                "leave out --teaching.kind",
            )
        if not isinstance(attention, UNetAttention):
            raise EconError(
                "model.expert.attention.kind unet, which teaching.kind e-step teaches",
                attention.kind,
                "add --model.expert.attention.kind unet --model.competition.kind savings",
            )
        if self.gt_masks:
            raise EconError(
                "attention that proposes regions, as teaching.kind e-step teaches it",
                "gt-masks",
                "leave one of them out",
            )


def experts_of(config: Config) -> int:
    """Number of experts K; 1 of a model without."""
    return getattr(config.model, "num_experts", 1)


def additions(config: Config) -> RecipeConfig:
    """What the run adds to the paper's training; all of it off where there is no recipe."""
    return config.recipe if isinstance(config.recipe, RecipeConfig) else RecipeConfig()


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON-able dictionaries."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """A configuration from what :func:`to_dict` made.

    Args:
        cls: the dataclass.
        values: its fields; those left out take their defaults.
        where: name of the place, for error messages.

    Raises:
        EconError: a field is unknown, so the file comes from another version, or its value is
            of another type or out of bounds.
    """
    if not isinstance(values, dict):
        raise EconError(f"an object as {where}", describe(values))
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise EconError(
            f"the fields of this version in {where}",
            f"unknown {printable(', '.join(sorted(map(str, unknown))))}",
            "it was written by another version of econ-pyro",
        )
    built = {}
    for name, value in values.items():
        part = _part(cls, name, value, f"{where}.{name}")
        if part is not None:
            value = from_dict(part, value, f"{where}.{name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except EconError as error:
        raise EconError(error.expected, f"{error.got} in {where}", error.hint) from None


def of_kind(options: Any, kind: Any, where: str) -> type:
    """The class of a kind, by the default of each class's field ``kind``.

    Args:
        options: the classes.
        kind: what came.
        where: name of the part, for the error message.

    Raises:
        EconError: there is no such kind.
    """
    named = {cls.__dataclass_fields__["kind"].default: cls for cls in options}
    if not isinstance(kind, str) or kind not in named:
        raise EconError(f"one of {', '.join(named)} as {where}.kind", describe(kind))
    return named[kind]


def kinds_of(cls: type, name: str) -> list[type]:
    """The classes of a part that exists in several kinds; none of another field."""
    hint = limits.hints_of(cls).get(name)
    if hint is SceneModelConfig:
        return list(KINDS.values())
    if get_origin(hint) not in (Union, types.UnionType):
        return []
    options = [option for option in get_args(hint) if isinstance(option, type)]
    return [option for option in options if dataclasses.is_dataclass(option)]


def parts_of(cls: type, name: str) -> list[type]:
    """The classes that a field may have as a part; none of a field that is a value."""
    if kinds := kinds_of(cls, name):
        return kinds
    hint = limits.hints_of(cls).get(name)
    return [hint] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []


def _part(cls: type, name: str, value: Any, where: str) -> type | None:
    """The dataclass that a field's value is to become; None where it is no dataclass."""
    classes = parts_of(cls, name)
    if not classes:
        return None
    if not kinds_of(cls, name):
        return classes[0]
    if not isinstance(value, dict):
        raise EconError(f"an object as {where}", describe(value))
    first = classes[0].__dataclass_fields__["kind"].default  # type: ignore[attr-defined]
    return of_kind(classes, value.get("kind", first), where)
