"""Every option of a run, as frozen dataclasses. ``dataclasses.replace`` makes variants.

Field docstrings are the ``--help`` texts of the command line. Where a part exists in several
kinds (latents, attention, competition, schedule of the rate), each kind is a class with a field
``kind``, so that only options that mean something for the chosen kind exist. Written as JSON
(format 2) by :func:`to_dict`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from econ_pyro import limits, naming
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

T = TypeVar("T")

FORMAT = 2
"""Of ``config.json``; format 1 had one class for all kinds (``training/format1.py``)."""

Duration = int | str
"""Training steps, or a share of the run, such as ``"40%"`` (``training/schedules.py``)."""


@dataclass(frozen=True)
class FreeLatents:
    """Latents that mean whatever training makes of them (the paper)."""

    kind: Literal["free", "pose"] = "free"
    """free: the paper's latents; pose: the first ones are the object's position and size."""
    dim: int = 5
    """Dimensions L of an object's latent z."""

    def __post_init__(self) -> None:
        limits.check_fields(FreeLatents, self, "model.expert.latents", limits.LATENTS)
        _check_kind(self, "free", "model.expert.latents")

    @property
    def pose_dim(self) -> int:
        """How many of the latents, the first ones, are the pose."""
        return 0


@dataclass(frozen=True)
class PoseLatents:
    """Object-centred latents, of which the first two are a position.

    The encoder finds it near the region's centre of mass, and the decoder draws around it: an
    object learnt once is the same anywhere.
    """

    kind: Literal["free", "pose"] = "pose"
    """free: the paper's latents; pose: the first ones are the object's position and size."""
    dim: int = 5
    """Dimensions L of an object's latent z, the pose included."""
    reach: float = 1.0
    """How far positions may be from the centre of the image, whose edges are at 1. Samples of the
    prior lie within it: less than 1 keeps whole objects in the image."""
    size: bool = False
    """The third latent is a size, which the encoder finds from the region's spread. For objects of
    one class that differ in size; without it, experts tend to divide them by size."""
    shape_dim: int | None = None
    """If set, shapes depend only on that many latents, the first ones, and appearances on all: 2
    makes shapes differ in position alone (3 with size). If not set, shapes depend on all latents
    (the paper); they then also learn the dents that nearer objects leave."""

    def __post_init__(self) -> None:
        limits.check_fields(PoseLatents, self, "model.expert.latents", limits.LATENTS)
        _check_kind(self, "pose", "model.expert.latents")
        least = self.pose_dim + 1
        if self.dim < least:
            hint = "raise model.expert.latents.dim"
            raise EconError(f"at least {least} latents, {least - 1} of them a pose",
                            str(self.dim), hint)  # fmt: skip
        least = self.pose_dim
        if self.shape_dim is not None and not least <= self.shape_dim <= self.dim:
            hint = "with latents.size, the size is one of them" if self.size else ""
            name = "model.expert.latents.shape-dim"
            raise EconError(f"{least} to {self.dim} for {name}", str(self.shape_dim), hint)

    @property
    def pose_dim(self) -> int:
        """How many of the latents, the first ones, are the pose."""
        return 2 + self.size

    @property
    def one_shape(self) -> bool:
        """Whether an expert's shapes differ in position alone."""
        return not self.size and self.shape_dim == self.pose_dim


@dataclass(frozen=True)
class UNetAttention:
    """The paper's attention network (appendix C.2.2): image and scope to the expert's region."""

    kind: Literal["unet", "seeded"] = "unet"
    """unet: the paper's network decides alone; seeded: regions grow from a seed pixel over similar
    ones."""
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the U-Net's down blocks."""
    patch: int = 1
    """Side of the squares of pixels that the U-Net folds into channels (space to depth); 1 is the
    paper. 2 makes a step of quick a fifth faster; colours near the background's separate less
    well."""
    hidden: int = 128
    """Units of the U-Net's two inner fully connected layers."""
    bias: float = -3.0
    """Initial logit of the attention. A negative one lets the last layer explain everything at
    first, so that objects are carved out front to back. 0 is the paper."""

    def __post_init__(self) -> None:
        limits.check_fields(UNetAttention, self, "model.expert.attention", limits.ATTENTION)
        _check_kind(self, "unet", "model.expert.attention")
        _check_channels(self.channels)


@dataclass(frozen=True)
class SeededAttention:
    """Regions grow from a seed, the most salient pixel that is left, over similar pixels.

    Similar in colour, position and learnt features. Objects separate from the first step, and all
    experts compete for the same ones.
    """

    kind: Literal["unet", "seeded"] = "seeded"
    """unet: the paper's network decides alone; seeded: regions grow from a seed pixel over similar
    ones."""
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the U-Net's down blocks."""
    patch: int = 1
    """Side of the squares of pixels that the U-Net folds into channels (space to depth); 1 is the
    paper. 2 makes a step of quick a fifth faster; colours near the background's separate less
    well."""
    hidden: int = 128
    """Units of the U-Net's two inner fully connected layers."""
    colour_weight: float = 1.0
    """Weight of colour among a pixel's features. A region ends at a ninth of a channel divided by
    this weight: 1 for objects of one colour each, 0.2 for objects of several."""
    place_weight: float = 0.35
    """Initial weight of position: the distance across the image, where black to white counts
    colour_weight."""

    def __post_init__(self) -> None:
        limits.check_fields(SeededAttention, self, "model.expert.attention", limits.ATTENTION)
        _check_kind(self, "seeded", "model.expert.attention")
        _check_channels(self.channels)


@dataclass(frozen=True)
class ExpertConfig:
    """The networks of one expert (appendix C.2)."""

    latents: FreeLatents | PoseLatents = field(default_factory=FreeLatents)
    layers: int = 3
    """Blocks of the encoder and of the decoder."""
    features: int = 32
    """Feature maps of each block of the encoder and of the decoder."""
    shape_bias: float = -3.0
    """Initial logit of the shape; goes with attention.bias. 0 is the paper."""
    attention: UNetAttention | SeededAttention = field(default_factory=UNetAttention)

    def __post_init__(self) -> None:
        limits.check_fields(ExpertConfig, self, "model.expert", limits.EXPERT)

    @property
    def multiple(self) -> int:
        """Of how many pixels an image's side has to be a multiple."""
        down = self.attention.patch * 2 ** (len(self.attention.channels) - 1)
        return math.lcm(down, 2**self.layers)


@dataclass(frozen=True)
class GreedyCompetition:
    """Section 5.2: front to back, each winner drawn before the next layer is looked at."""

    kind: Literal["greedy", "joint"] = "greedy"
    """greedy: the paper's, layer by layer; joint: for all layers at once, given their seeds."""
    lam: float = 1.0
    """Weight lambda of L_x in the competition; L_r has weight 1."""
    temperature: float = 10.0
    """Temperature in nats; 1 is the paper, 0 always selects the best expert."""
    temperature_end: float | None = None
    """Temperature after annealing, above 0; temperature throughout if not set."""
    temperature_until: Duration = 1000
    """When annealing ends: training steps, or a share of the run (40%)."""
    refine: bool = False
    """After the competition, decomposing puts the layers in their likeliest order and each pixel
    into the layer where it is likeliest. Training is unaffected."""

    def __post_init__(self) -> None:
        _check_competition(GreedyCompetition, self)


@dataclass(frozen=True)
class JointCompetition:
    """The experts compete for all layers of an image at once, whose regions grow from seeds."""

    kind: Literal["greedy", "joint"] = "joint"
    """greedy: the paper's, layer by layer; joint: for all layers at once, given their seeds."""
    lam: float = 1.0
    """Weight lambda of L_x in the competition; L_r has weight 1."""
    temperature: float = 10.0
    """Temperature in nats; 1 is the paper, 0 always selects the best expert."""
    temperature_end: float | None = None
    """Temperature after annealing, above 0; temperature throughout if not set."""
    temperature_until: Duration = 1000
    """When annealing ends: training steps, or a share of the run (40%)."""
    depth_order_from: Duration | None = None
    """When layers begin to stand in the order that makes the image likeliest, given what the
    experts draw. Before it, and always if not set, the most salient layer comes first."""
    refine: bool = False
    """After the competition, decomposing puts the layers in their likeliest order and each pixel
    into the layer where it is likeliest. Training is unaffected."""

    def __post_init__(self) -> None:
        _check_competition(JointCompetition, self)


@dataclass(frozen=True)
class SceneModelConfig:
    """What every scene model has; each kind of model has a class of its own beneath."""

    num_slots: int = 4
    """Number of layers T of an image, the background included."""
    size: int = 32
    """Height and width of the image in pixels."""


@dataclass(frozen=True)
class EconConfig(SceneModelConfig):
    """ECON: K experts that compete for the layers of an image."""

    kind: Literal["econ"] = "econ"
    """Which scene model."""
    num_experts: int = 4
    """Number of experts K."""
    num_slots: int = 4
    """Number of layers T of an image, the background included."""
    size: int = 32
    """Height and width of the image in pixels: a multiple of 8."""
    sigma_x: float = 0.1
    """Standard deviation of the pixel likelihood (Eq. 5)."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    competition: GreedyCompetition | JointCompetition = field(default_factory=GreedyCompetition)

    def __post_init__(self) -> None:
        limits.check_fields(EconConfig, self, "model", limits.MODEL)
        multiple = self.expert.multiple
        if self.size % multiple:
            raise EconError(
                f"an image size that is a multiple of {multiple}",
                str(self.size),
                "networks halve images, and fold patches of them: change --model.size, or use "
                "fewer layers or channels, or a smaller patch",
            )
        if self.competition.kind == "joint" and self.expert.attention.kind != "seeded":
            raise EconError(
                "model.expert.attention.kind seeded, which model.competition.kind joint needs",
                self.expert.attention.kind,
                "add --model.competition.kind greedy",
            )


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

    def __post_init__(self) -> None:
        limits.check_fields(ObjectiveConfig, self, "objective", limits.OBJECTIVE)
        _check_duration("objective.gamma-until", self.gamma_until, least=1)


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
        _check_kind(self, "plateau", "train.schedule")


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
        _check_kind(self, "cosine", "train.schedule")


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
class RecipeConfig:
    """What this project adds to the paper's training; all of it is off by default."""

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
    occlusion: float = 0.0
    """Share of the layers of which the encoder sees only a part in training: another layer of the
    image is put in front, and the encoder has to infer the whole."""
    whitening: bool = False
    """After each validation, rescale the latents (but the pose) so that those of its scenes have
    mean 0 and variance 1. No drawing changes; L_z becomes as small as an affine map allows, and
    samples of the prior resemble what was seen."""

    def __post_init__(self) -> None:
        limits.check_fields(RecipeConfig, self, "recipe", limits.RECIPE)
        for name in ("load_balancing_until", "restart_until", "constant_colour_until"):
            _check_duration(f"recipe.{name.replace('_', '-')}", getattr(self, name))


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    scenes: SceneConfig = field(default_factory=SceneConfig)
    model: SceneModelConfig = field(default_factory=EconConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    gt_masks: bool = False
    """Give the true visible regions instead of attention (the paper's Fig. 5)."""
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
        experts = getattr(self.model, "num_experts", 1)
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
                naming.shown(repr(", ".join(given))),
            )
        naming.check_names(given, "the configuration")


KINDS: dict[str, type[SceneModelConfig]] = {"econ": EconConfig}
"""Configurations of scene models by kind; ``econ_pyro.infer.scene_model.register`` adds to it."""


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
        raise EconError(f"an object as {where}", limits.shown(values))
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise EconError(
            f"the fields of this version in {where}",
            f"unknown {naming.shown(', '.join(sorted(map(str, unknown))))}",
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
        raise EconError(f"one of {', '.join(named)} as {where}.kind", limits.shown(kind))
    return named[kind]


def kinds_of(cls: type, name: str) -> list[type]:
    """The classes of a part that exists in several kinds; none of another field."""
    hint = get_type_hints(cls).get(name)
    if hint is SceneModelConfig:
        return list(KINDS.values())
    if get_origin(hint) not in (Union, types.UnionType):
        return []
    return [option for option in get_args(hint) if dataclasses.is_dataclass(option)]


def _part(cls: type, name: str, value: Any, where: str) -> type | None:
    """The dataclass that a field's value is to become; None where it is no dataclass."""
    classes = kinds_of(cls, name)
    if not classes:
        hint = get_type_hints(cls)[name]
        return hint if dataclasses.is_dataclass(hint) else None
    if not isinstance(value, dict):
        raise EconError(f"an object as {where}", limits.shown(value))
    first = classes[0].__dataclass_fields__["kind"].default  # type: ignore[attr-defined]
    return of_kind(classes, value.get("kind", first), where)


def _check_kind(config: Any, kind: str, group: str) -> None:
    if config.kind != kind:
        raise EconError(f"{group}.kind {kind} in a configuration of that kind", config.kind)


def _check_channels(channels: tuple[int, ...]) -> None:
    if not 1 <= len(channels) <= limits.EXPERT["layers"][1]:
        raise EconError("1 to 10 values for model.expert.attention.channels", str(len(channels)))


def _check_competition(cls: type, config: Any) -> None:
    group = "model.competition"
    limits.check_fields(cls, config, group, limits.COMPETITION)
    _check_kind(config, cls.__dataclass_fields__["kind"].default, group)  # type: ignore[attr-defined]
    _check_duration(f"{group}.temperature-until", config.temperature_until, least=1)
    if getattr(config, "depth_order_from", None) is not None:
        _check_duration(f"{group}.depth-order-from", config.depth_order_from)
    if config.temperature == 0 and config.temperature_end is not None:
        raise EconError(f"a {group}.temperature above 0, as it is to change", "0")


def _check_duration(name: str, value: Duration, least: int = 0) -> None:
    """Check training steps or a share of the run.

    Raises:
        EconError: it is neither.
    """
    expected = f"training steps or a share of the run, such as 40%, for {name}"
    if isinstance(value, int):
        if not least <= value <= limits.MOST:
            raise EconError(expected, limits.shown(value))
        return
    try:
        share = float(value.removesuffix("%")) if value.endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1000 or (least and not share):
        raise EconError(expected, limits.shown(value))
