"""Every knob of a run, as frozen dataclasses. ``dataclasses.replace`` makes variants.

Field docstrings are the ``--help`` texts of the command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from econ_pyro import limits, naming
from econ_pyro.errors import EconError, describe, printable
from econ_pyro.scene_config import SceneConfig

T = TypeVar("T")


@dataclass(frozen=True)
class ExpertConfig:
    """Sizes of the networks of one expert (appendix C.2)."""

    latent: int = 5
    """Dimensions L of an object's latent z."""
    layers: int = 3
    """Blocks of the encoder and of the decoder."""
    features: int = 32
    """Feature maps of each block of the encoder and of the decoder."""
    centred: bool = False
    """The first two latents are a place, which the encoder finds about the region's centre, in a
    window around it, and the decoder draws about it: an object once learnt is the same anywhere.
    The paper's networks have to learn each place."""
    reach: float = 1.0
    """With centred, how far places may be from the middle of the image, where its edges are at 1.
    Samples lie anywhere within it: less than 1 where whole objects are to be in the image."""
    scaled: bool = False
    """With centred, the third latent is a size, which the encoder finds from the region's spread,
    and the decoder draws at that size: an object once learnt is the same however large. For
    objects of one class that differ in size; without, experts tend to share them out by size."""
    shape_latents: int | None = None
    """If set, an object's shape depends on that many of its latents, the first ones, and only its
    appearance on all: 2 with centred are shapes that differ in place alone, drawn once and moved
    there (3 with scaled, in size too), more let outlines vary. Free shapes (the paper) also learn
    the bites that nearer objects take."""
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the attention U-Net's down blocks."""
    patch: int = 1
    """Side of the squares of pixels that the attention U-Net takes for one pixel each, of as many
    more channels (space to depth). What comes out is of single pixels again. In patches of 2 a
    step of quick takes a fifth less time, and flat colours come apart as well, but colours near
    the background's and objects of several colours less well. 1 is the paper."""
    hidden: int = 128
    """Units of the U-Net's two inner fully connected layers."""
    attention_bias: float = -3.0
    """Initial logit of the attention: negative lets the last step explain everything at first,
    so that objects are carved out front to back. 0 is the paper."""
    seeded: bool = False
    """Regions grow from a seed, the most salient pixel of what is left or of what other regions
    leave, over what is like it in colour, place and learnt features. Objects of any colours come
    apart from the first step, and all experts compete for the same one; attention_bias plays no
    part then."""
    colour_weight: float = 1.0
    """With seeds, what colours count among the features that say what a pixel belongs with. A
    region ends at a ninth of a channel over this: 1 for objects of one colour each, 0.2 for
    objects of several."""
    place_weight: float = 0.35
    """With seeds, what the image's width counts at first, where black to white counts
    colour_weight."""
    shape_bias: float = -3.0
    """Initial logit of the shape; goes with attention_bias. 0 is the paper."""

    def __post_init__(self) -> None:
        limits.check_fields(ExpertConfig, self, "expert", limits.EXPERT)
        if not 1 <= len(self.channels) <= limits.EXPERT["layers"][1]:
            raise EconError("1 to 10 expert.channels", str(len(self.channels)))
        if self.scaled and not self.centred:
            raise EconError("expert.centred, as expert.scaled is set", "expert.no-centred")
        least = self.given + 1  # something of its own
        if self.latent < least:
            raise EconError(f"at least {least} latents", str(self.latent), "raise expert.latent")
        least = max(self.given, 1)
        if self.shape_latents is not None and not least <= self.shape_latents <= self.latent:
            hint = "with expert.scaled, a size is one of them" if self.scaled else ""
            raise EconError(
                f"{least} to {self.latent} expert.shape-latents", str(self.shape_latents), hint
            )

    @property
    def given(self) -> int:
        """How many of the latents, the first ones, are a place and a size."""
        return 2 * self.centred + self.scaled

    @property
    def multiple(self) -> int:
        """Of how many pixels an image's side has to be a multiple."""
        return math.lcm(self.patch * 2 ** (len(self.channels) - 1), 2**self.layers)

    @property
    def one_shape(self) -> bool:
        """Whether an expert's shapes differ in place alone: shapes see nothing else."""
        return self.centred and not self.scaled and self.shape_latents == self.given


@dataclass(frozen=True)
class ModelConfig:
    """The scene model: how many experts, how many layers, which likelihood."""

    experts: int = 4
    """Number of experts K."""
    steps: int = 4
    """Number of layers T, the background included."""
    size: int = 32
    """Height and width of the image in pixels: a multiple of 8."""
    sigma_x: float = 0.1
    """Standard deviation of the pixel likelihood (Eq. 5)."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)

    def __post_init__(self) -> None:
        limits.check_fields(ModelConfig, self, "model", limits.MODEL)
        multiple = self.expert.multiple
        if self.size % multiple:
            raise EconError(
                f"an image size that is a multiple of {multiple}",
                str(self.size),
                "networks halve images, and take patches of them: change --model.size, or use "
                "fewer layers or channels, or a smaller patch",
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Learning objective (Eq. 13) and competition (section 5.2)."""

    beta: float = 1.0
    """Weight of L_z in Eq. 13."""
    gamma: float = 0.5
    """Weight of L_r in Eq. 13 at the start."""
    gamma_end: float | None = None
    """Weight of L_r after warm-up; gamma throughout if not set."""
    gamma_steps: int = 1000
    """Training steps over which gamma moves linearly to gamma_end."""
    lam: float = 1.0
    """Weight lambda of L_x in the competition; L_r has weight 1."""
    order_from: int | None = None
    """With seeds, training step from which the layers stand in the order that makes the image
    likeliest, given how the experts draw them, when the experts compete for each. Before it, and
    always if not set, the most salient comes first."""
    temperature: float = 10.0
    """Temperature of the competition in nats; 1 is the paper, 0 always takes the best."""
    temperature_end: float | None = None
    """Temperature after annealing, above 0; temperature throughout if not set."""
    temperature_steps: int = 1000
    """Training steps over which the temperature moves geometrically to temperature_end."""
    balance: float = 0.0
    """Handicap in the training's competition: nats a step that an expert loses for each even share
    by which it wins more than an even share, and gains for each by which it wins less: a price.
    Layers of less than 2% of the image do not count as won."""
    balance_limit: float = 30.0
    """Largest handicap in nats."""
    balance_until: int = 3000
    """Training step from which there are no handicaps any more."""
    occlude: float = 0.0
    """Share of the layers of which the encoder sees only a part in training, another layer of the
    image having been put in front of it, and from which it has to find the whole."""
    units: bool = False
    """After each validation, latents (but places) get units in which those of its scenes have mean
    0 and variance 1, which changes no drawing and makes L_z the least that it can be so: samples
    of the prior are then like what was seen."""
    refine: bool = False
    """Decomposing goes on from what the competition found: layers in their likeliest order, each
    pixel in the layer where it is likeliest. Training is the same."""

    def __post_init__(self) -> None:
        limits.check_fields(ObjectiveConfig, self, "objective", limits.OBJECTIVE)
        if not 0 <= self.occlude <= 1:
            raise EconError("a share from 0 to 1 as objective.occlude", str(self.occlude))
        if self.temperature < 0 or (self.temperature == 0 and self.temperature_end is not None):
            raise EconError(
                "an objective.temperature of 0 or more, above 0 where it is to change",
                str(self.temperature),
            )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation (appendix C.3)."""

    steps: int = 30000
    """Training steps at the most."""
    minutes: float | None = None
    """Wall-clock minutes of training at the most, over all resumptions; no limit if not set. A
    run that this stops is not bit-exactly repeatable: it depends on the machine's speed."""
    batch: int = 32
    """Scenes in a training step."""
    lr: float = 5e-4
    """Adam's initial learning rate."""
    schedule: Literal["plateau", "cosine"] = "plateau"
    """plateau: the rate falls when the validation loss does not; cosine: it falls over the given
    number of steps, to a hundredth."""
    warmup: int = 0
    """Training steps over which the rate rises at first (cosine)."""
    validate_every: int = 100
    """Training steps between two evaluations of the validation loss."""
    patience: int = 5
    """Evaluations without improvement before the rate falls by a factor of sqrt(10)."""
    decreases: int = 5
    """Decreases of the rate after which training stops."""
    tries: int = 1
    """Beginnings, each from weights of its own; training goes on from the one of the smallest
    validation loss. Schedules count from the beginning of each; the paper took the best of 512
    whole runs."""
    try_steps: int = 300
    """Training steps of each beginning, where there are several."""
    flat_until: int = 0
    """Training step until which the appearance of a layer is one colour, so that no layer can
    explain objects of different colours, nor the background take one over."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    restart_below: float = 0.0
    """Restart an expert that won less than this share of an even share of the objects' steps over
    the last restart_every training steps, as a noisy copy of the busiest; 0 never does. (The
    expert that wins most last steps, the background's, is left out.)"""
    restart_every: int = 500
    """Training steps between two looks at starved experts."""
    restart_until: int = 5000
    """Last training step at which an expert is restarted."""
    frozen: int = 0
    """Experts, counted from the first, that training leaves as they are: they compete and win
    like others."""
    train_scenes: int = 50000
    """Number of training scenes."""
    valid_scenes: int = 100
    """Number of validation scenes."""

    def __post_init__(self) -> None:
        limits.check_fields(TrainConfig, self, "train", limits.TRAIN)


@dataclass(frozen=True)
class Config:
    """All of a run."""

    scenes: SceneConfig = field(default_factory=SceneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    true_regions: bool = False
    """Give the true visible regions instead of attention (the paper's Fig. 5)."""
    seed: int = 0
    """Seed of the weights, of the noise and of the scenes."""
    amp: bool = True
    """Run the networks in bfloat16 where the processor has it."""
    graphs: bool = True
    """On a GPU, replay the steps of training from CUDA graphs."""
    compile: bool = False
    """Compile the steps: a minute or two at first, then faster steps. For long runs."""
    names: tuple[str, ...] = ()
    """Names of the first experts, kept as they are; evaluation names the others (and an empty
    name) by the class that they win most."""

    def __post_init__(self) -> None:
        limits.check_fields(Config, self, "", limits.RUN)
        experts = self.model.experts
        if not 0 <= self.train.frozen < experts:
            raise EconError(
                f"0 to {experts - 1} train.frozen of {experts} experts, so that one can learn",
                str(self.train.frozen),
                "raise --model.experts",
            )
        given = [name for name in self.names if name]
        if len(self.names) > experts or len(set(given)) < len(given):
            raise EconError(
                f"up to {experts} different names for {experts} experts",
                describe(", ".join(given)),
            )
        naming.check_names(given, "the configuration")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON-able dictionaries."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
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
            f"unknown {printable(', '.join(sorted(unknown)), 100)}",
            "it was written by another version of econ-pyro",
        )
    hints = get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value, f"{where}.{name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except EconError as error:
        raise EconError(error.expected, f"{error.got} in {where}", error.hint) from None
