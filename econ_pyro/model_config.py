"""Options of the scene model: latents, networks of an expert, competition.

Where a part exists in several kinds, each kind is a class with a field ``kind``, so that only
options that mean something for the chosen kind exist. Field docstrings are the ``--help`` texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from econ_pyro import limits
from econ_pyro.errors import EconError, describe

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
        check_kind(self, "free", "model.expert.latents")

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
    largest: float | None = None
    """Size of the largest objects, where a size of 1 is a radius of about 0.15 of the image's
    side: experts draw nothing larger, but for what fills the image at any size. If not set, there
    is no limit."""
    angle: bool = False
    """Two latents are the direction in which the object is turned, which is searched for: the
    guide takes the angle at which the expert's own shape fits the region best. For objects that
    are turned; shape_dim has to be the number of the pose's latents."""
    shape_dim: int | None = None
    """If set, shapes depend only on that many latents, the first ones, and appearances on all: 2
    makes shapes differ in position alone (3 with size). If not set, shapes depend on all latents
    (the paper); they then also learn the dents that nearer objects leave."""

    def __post_init__(self) -> None:
        limits.check_fields(PoseLatents, self, "model.expert.latents", limits.LATENTS)
        check_kind(self, "pose", "model.expert.latents")
        least = self.pose_dim + 1
        if self.dim < least:
            hint = "raise model.expert.latents.dim"
            raise EconError(f"at least {least} latents, {least - 1} of them a pose",
                            str(self.dim), hint)  # fmt: skip
        least = self.pose_dim
        if self.angle and self.shape_dim != least:
            expected = f"{least} for model.expert.latents.shape-dim, the pose, with latents.angle"
            raise EconError(expected, str(self.shape_dim))
        if self.shape_dim is not None and not least <= self.shape_dim <= self.dim:
            hint = "with latents.size, the size is one of them" if self.size else ""
            name = "model.expert.latents.shape-dim"
            raise EconError(f"{least} to {self.dim} for {name}", str(self.shape_dim), hint)

    @property
    def pose_dim(self) -> int:
        """How many of the latents, the first ones, are the pose."""
        return 2 + self.size + 2 * self.angle

    @property
    def one_shape(self) -> bool:
        """Whether an expert's shapes differ in their pose alone."""
        return self.shape_dim == self.pose_dim

    @property
    def searched(self) -> bool:
        """Whether poses are searched for, to decompose images: not those of position alone."""
        return self.one_shape and self.pose_dim > 2


@dataclass(frozen=True)
class _UNet:
    """The U-Net of every kind of attention."""

    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the U-Net's down blocks."""
    patch: int = 1
    """Side of the squares of pixels that the U-Net folds into channels (space to depth); 1 is the
    paper. 2 makes a step of quick a fifth faster; colours near the background's separate less
    well."""
    hidden: int = 128
    """Units of the U-Net's two inner fully connected layers."""

    def __post_init__(self) -> None:
        limits.check_fields(type(self), self, "model.expert.attention", limits.ATTENTION)
        check_kind(self, _kind_of(self), "model.expert.attention")
        if not 1 <= len(self.channels) <= limits.EXPERT["layers"][1]:
            expected = "1 to 10 values for model.expert.attention.channels"
            raise EconError(expected, str(len(self.channels)))


@dataclass(frozen=True)
class UNetAttention(_UNet):
    """The paper's attention network (appendix C.2.2): image and scope to the expert's region."""

    kind: Literal["unet", "seeded"] = "unet"
    """unet: the paper's network decides alone; seeded: regions grow from a seed pixel over similar
    ones."""
    bias: float = -3.0
    """Initial logit of the attention. A negative one lets the last layer explain everything at
    first, so that objects are carved out front to back. 0 is the paper."""


@dataclass(frozen=True)
class SeededAttention(_UNet):
    """Regions grow from a seed, the most salient pixel that is left, over similar pixels.

    Similar in colour, position and learnt features. Objects separate from the first step, and all
    experts compete for the same ones.
    """

    kind: Literal["unet", "seeded"] = "seeded"
    """unet: the paper's network decides alone; seeded: regions grow from a seed pixel over similar
    ones."""
    colour_weight: float = 1.0
    """Weight of colour among a pixel's features. A region ends at a ninth of a channel divided by
    this weight: 1 for objects of one colour each, 0.2 for objects of several."""
    place_weight: float = 0.35
    """Initial weight of position: the distance across the image, where black to white counts
    colour_weight."""
    learnt: int = 4
    """Number of learnt features of a pixel, beside its colour and place."""
    chromaticity: bool = False
    """Compare colours relative to their brightest channel, so that the light and dark sides of an
    object are alike: for shaded objects of saturated colours, on black."""
    connected: bool = False
    """Regions are connected: for objects of like colours that never overlap, with a small
    place_weight."""
    salience: Literal["colour", "features"] = "colour"
    """A seed is a pixel that differs from what is left in colour, or in all of its features: for
    textures, with features that group."""
    shifts: int = 0
    """Number of mean shifts: regions grow from the mean features of the region that grows from the
    seed, not from the seed's own. For noise and textures."""
    pretrained: str = ""
    """Further features: the patch tokens of a frozen vision transformer that was trained without
    labels. hf:OWNER/NAME on the Hugging Face hub, with @REVISION if it is to stay the same, or a
    folder (extra: features); none if empty."""
    pretrained_weight: float = 0.15
    """Weight of these. A region ends where they differ by a ninth of their standard deviation over
    the training images, divided by this weight."""
    pretrained_dim: int = 8
    """Number of their principal components that count."""


@dataclass(frozen=True)
class ExpertConfig:
    """The networks of one expert (appendix C.2)."""

    latents: FreeLatents | PoseLatents = field(default_factory=FreeLatents)
    layers: int = 3
    """Blocks of the encoder and of the decoder."""
    features: int = 32
    """Feature maps of each block of the encoder and of the decoder."""
    shape_bias: float = -3.0
    """Initial logit of the shape. 0 is the paper; with attention of kind unet, change both biases
    together."""
    attention: UNetAttention | SeededAttention = field(default_factory=UNetAttention)
    kaiming: bool = False
    """Start the decoder's convolutions with He initialisation, with which shapes are learnt in a
    fraction of the steps. The paper names none; torch's own lets what is drawn, and its gradients,
    fade with depth. Decoders of pose latents always start with it."""

    def __post_init__(self) -> None:
        limits.check_fields(ExpertConfig, self, "model.expert", limits.EXPERT)

    @property
    def multiple(self) -> int:
        """Of how many pixels an image's side has to be a multiple."""
        down = self.attention.patch * 2 ** (len(self.attention.channels) - 1)
        return math.lcm(down, 2**self.layers)


@dataclass(frozen=True)
class _Competition:
    """What all kinds of competition have."""

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
    refine_rounds: int = 1
    """How often to do so; from the second time on, a spare layer goes to what the others explain
    worst."""
    refine_steps: int = 0
    """Each time, the latents of all layers take so many steps up the gradient of the likelihood,
    which encoders see one layer of at a time: for shapes and colours that vary."""
    refine_division: bool = False
    """Then divide the two objects most alike in colour that touch anew, from several starts, and
    keep what is likeliest: for objects of one colour that touch."""
    refine_merging: bool = False
    """At last leave to the background the layers that are like it in the features by which
    attention groups pixels: for grounds in light and shadow, or textured ones."""
    outliers: float = 0.0
    """Share of the pixels that are like nothing that a layer draws, such as outlines and texture;
    refining then leaves them to the layer whose shape has them."""
    background_noise: bool = False
    """Refining estimates the noise of the background in each image: for objects of several colours
    on a ground of one, from which their edges hardly differ."""
    layer_covariance: float = 0.0
    """If above 0, refining estimates the covariance of the colours of each layer's pixels in each
    image, as if some more pixels had this standard deviation, in units of white: for objects and
    grounds with patterns; with background_noise, for objects alone."""
    covariance_floor: float = 0.02
    """Standard deviation that is added to these covariances in any direction of colours, in units
    of white. With model.sigma-x, a layer without a pattern counts as it does without them: for
    images of which some have patterns, or are corrupted."""
    refine_twice: bool = False
    """With layer_covariance, also refine from layers that were refined without it first, and keep
    in each image what makes it likelier: finds more objects, in 2.3 times the time."""
    feature_weight: float = 0.0
    """How much refining counts the features by which attention groups pixels, beside colours: for
    attention that has learnt to, and objects that are not drawn in their colours."""

    def __post_init__(self) -> None:
        group = "model.competition"
        limits.check_fields(type(self), self, group, limits.COMPETITION)
        check_kind(self, _kind_of(self), group)
        check_duration(f"{group}.temperature-until", self.temperature_until, least=1)
        if self.temperature == 0 and self.temperature_end is not None:
            raise EconError(f"a {group}.temperature above 0, as it is to change", "0")


@dataclass(frozen=True)
class GreedyOptions(_Competition):
    """Section 5.2: front to back, each winner drawn before the next layer competes."""

    kind: Literal["greedy", "savings", "joint"] = "greedy"
    """greedy: the paper's, layer by layer; savings: the same, for what a region saves in place of
    what it costs; joint: for all layers at once, given their seeds."""


@dataclass(frozen=True)
class SavingsOptions(_Competition):
    """Front to back, for the nats that a region saves against leaving it to the last layer."""

    kind: Literal["greedy", "savings", "joint"] = "savings"
    """greedy: the paper's, layer by layer; savings: the same, for what a region saves in place of
    what it costs; joint: for all layers at once, given their seeds."""
    lookahead: bool = True
    """Count what later layers could still save, too, so that what is in front goes first."""


@dataclass(frozen=True)
class JointOptions(_Competition):
    """The experts compete for all layers of an image at once, whose regions grow from seeds."""

    kind: Literal["greedy", "savings", "joint"] = "joint"
    """greedy: the paper's, layer by layer; savings: the same, for what a region saves in place of
    what it costs; joint: for all layers at once, given their seeds."""
    depth_order_from: Duration | None = None
    """When layers begin to stand in the order that makes the image likeliest, given what the
    experts draw. Before it, and always if not set, the most salient layer comes first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth_order_from is not None:
            check_duration("model.competition.depth-order-from", self.depth_order_from)


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
    light: float = 0.0
    """Standard deviation of each pixel's brightness, relative to what is drawn: objects may be
    shaded or bevelled. 0: pixels are independent of it (Eq. 5)."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    competition: GreedyOptions | SavingsOptions | JointOptions = field(
        default_factory=GreedyOptions
    )

    def __post_init__(self) -> None:
        limits.check_fields(EconConfig, self, "model", limits.MODEL)
        check_multiple(self.size, self.expert.multiple, "layers or channels, or a smaller patch")
        if self.competition.kind == "joint" and self.expert.attention.kind != "seeded":
            raise EconError(
                "model.expert.attention.kind seeded, which model.competition.kind joint needs",
                self.expert.attention.kind,
                "add --model.expert.attention.kind seeded, or --model.competition.kind greedy or "
                "savings",
            )
        for wanted, option, without in (
            (self.competition.refine_merging, "refine-merging", "no-refine-merging"),
            (self.competition.feature_weight, "feature-weight", "feature-weight 0"),
        ):
            if wanted and self.expert.attention.kind != "seeded":
                raise EconError(
                    "model.expert.attention.kind seeded, whose features "
                    f"model.competition.{option} compares",
                    self.expert.attention.kind,
                    f"add --model.competition.{without}",
                )


@dataclass(frozen=True)
class MonetConfig(SceneModelConfig):
    """MONet: slots by recurrent attention, and one VAE for all of them (Burgess et al., 2019)."""

    kind: Literal["monet"] = "monet"
    """Which scene model."""
    num_slots: int = 4
    """Number of slots T, the background's included."""
    sigma: float = 0.11
    """Standard deviation of the pixels of every slot but the first."""
    sigma_background: float = 0.09
    """The same of the first slot, meant for the background."""
    latent_dim: int = 16
    """Dimensions L of a slot's latent."""
    layers: int = 3
    """Blocks of the encoder and of the decoder."""
    features: int = 32
    """Feature maps of each block of the encoder and of the decoder."""
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the attention network's down blocks."""
    hidden: int = 128
    """Units of the attention network's two inner fully connected layers."""

    def __post_init__(self) -> None:
        limits.check_fields(MonetConfig, self, "model", limits.MONET)
        check_kind(self, "monet", "model")
        check_multiple(self.size, self.networks.multiple, "layers or channels")

    @property
    def networks(self) -> ExpertConfig:
        """Sizes of encoder, decoder and attention network, which are of the kinds of ECON's."""
        attention = UNetAttention(self.channels, hidden=self.hidden, bias=0.0)
        latents = FreeLatents(dim=self.latent_dim)
        return ExpertConfig(latents, self.layers, self.features, 0.0, attention)


@dataclass(frozen=True)
class GecoConfig:
    """GECO: the weight of the KL follows a bound on the error (Rezende and Viola, 2018)."""

    goal: float = 0.0033
    """Error L_x to reach, in nats per pixel and channel. Of a good reconstruction it is the
    squared error divided by 2 sigma^2."""
    start: float = 1.0
    """Weight of the KL at first. Validations use objective.beta instead, which does not change;
    twice the goal is the weight at which a Gaussian of the goal's error would have 1."""
    rate: float = 1e-5
    """How fast the weight changes, per nat of an image of 64 x 64 pixels above or below the goal
    and per training step."""
    speed_up: float = 10.0
    """Factor of the rate while the goal is reached."""
    smoothing: float = 0.99
    """Weight of the past in the moving average of the error."""
    smallest: float = 1e-10
    """Weight below which that of the KL does not fall. In short runs it would not come back."""

    def __post_init__(self) -> None:
        limits.check_fields(GecoConfig, self, "model.geco", limits.GECO)


@dataclass(frozen=True)
class GenesisConfig(SceneModelConfig):
    """GENESIS: masks from autoregressive latents, then components (Engelcke et al., 2020)."""

    kind: Literal["genesis"] = "genesis"
    """Which scene model."""
    num_slots: int = 4
    """Number of slots T, the background's included."""
    sigma: float = 0.7
    """Standard deviation of the pixels."""
    mask_dim: int = 64
    """Dimensions of a slot's mask latent."""
    component_dim: int = 16
    """Dimensions of a slot's component latent, which makes its appearance."""
    layers: int = 3
    """Blocks of the component encoder and decoder."""
    features: int = 32
    """Feature maps of each block of the component encoder and decoder."""
    channels: tuple[int, ...] = (32, 32, 64, 64, 64)
    """Channels of the mask encoder's gated convolutions; the second and fourth halve the image.
    The mask decoder has the same in reverse."""
    hidden: int = 256
    """Units of the recurrent networks of masks and of the component prior's two inner layers."""
    informative: bool = False
    """Start with posterior means that differ between images, and with scales of 0.14. Published:
    scales near 1, and means that hardly differ."""
    geco: GecoConfig = field(default_factory=GecoConfig)

    def __post_init__(self) -> None:
        limits.check_fields(GenesisConfig, self, "model", limits.GENESIS)
        check_kind(self, "genesis", "model")
        if not 4 <= len(self.channels) <= limits.EXPERT["layers"][1]:
            raise EconError("4 to 10 values for model.channels", str(len(self.channels)))
        check_multiple(self.size, math.lcm(4, self.networks.multiple), "layers")

    @property
    def networks(self) -> ExpertConfig:
        """Sizes of the component encoder and decoder, which are of the kinds of ECON's."""
        latents = FreeLatents(dim=self.component_dim)
        return ExpertConfig(latents, self.layers, self.features, 0.0, UNetAttention(channels=(1,)))


@dataclass(frozen=True)
class GenesisV2Config(SceneModelConfig):
    """GENESIS-V2: masks grow from random seed pixels over embeddings (Engelcke et al., 2021)."""

    kind: Literal["genesis-v2"] = "genesis-v2"
    """Which scene model."""
    num_slots: int = 4
    """Number of slots T, the background's included."""
    size: int = 32
    """Height and width of the image in pixels: a multiple of 16."""
    sigma: float = 0.7
    """Standard deviation of the pixels."""
    latent_dim: int = 64
    """Dimensions L of a slot's latent."""
    features: int = 64
    """Features of a pixel, and feature maps of the decoder."""
    embedding_dim: int = 8
    """Dimensions of a pixel's embedding, in which distances make masks; two are its position's."""
    colour_weight: float = 0.0
    """Initial weight of a pixel's colour in the next three dimensions of its embedding. With 0,
    masks grow over positions alone at first."""
    spread: float = 1.0
    """How far slots reach at first: with 1, half of the way to the next one's centre."""
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Output channels of the U-Net's down blocks."""
    hidden: int = 256
    """Units of the prior's recurrent network and of the inner fully connected layers."""
    informative: bool = False
    """Start with posterior means that differ between images, and with scales of 0.14. Published:
    scales near 1, and means that hardly differ."""
    geco: GecoConfig = field(default_factory=GecoConfig)

    def __post_init__(self) -> None:
        limits.check_fields(GenesisV2Config, self, "model", limits.GENESIS_V2)
        check_kind(self, "genesis-v2", "model")
        check_multiple(self.size, math.lcm(16, self.networks.multiple), "channels")

    @property
    def networks(self) -> ExpertConfig:
        """Sizes of the U-Net, which is of the kind of ECON's attention."""
        attention = UNetAttention(self.channels, hidden=self.hidden)
        return ExpertConfig(
            FreeLatents(dim=self.latent_dim), 1, self.features, attention=attention
        )


@dataclass(frozen=True)
class SlotAttentionConfig(SceneModelConfig):
    """Slot Attention: slots compete for pixels by iterated attention (Locatello et al., 2020)."""

    kind: Literal["slot-attention"] = "slot-attention"
    """Which scene model."""
    num_slots: int = 4
    """Number of slots T, the background's included."""
    sigma: float = 0.1
    """Standard deviation of the pixels, the unit of the squared error."""
    latent_dim: int = 64
    """Dimensions L of a slot."""
    layers: int = 4
    """Blocks of the encoder and of the decoder."""
    features: int = 64
    """Features of a pixel, and feature maps of each block of the encoder and of the decoder."""
    hidden: int = 128
    """Units of the inner layer of the perceptron that follows each iteration's recurrent unit."""
    iterations: int = 3
    """Iterations of attention."""

    def __post_init__(self) -> None:
        limits.check_fields(SlotAttentionConfig, self, "model", limits.SLOT_ATTENTION)
        check_kind(self, "slot-attention", "model")

    @property
    def networks(self) -> ExpertConfig:
        """Sizes of the decoder, which is of the kind of ECON's."""
        latents = FreeLatents(dim=self.latent_dim)
        return ExpertConfig(latents, self.layers, self.features, 0.0, UNetAttention(channels=(1,)))


@dataclass(frozen=True)
class IodineConfig(SceneModelConfig):
    """IODINE: posteriors of all slots, refined together round by round (Greff et al., 2019)."""

    kind: Literal["iodine"] = "iodine"
    """Which scene model."""
    num_slots: int = 4
    """Number of slots T, the background's included."""
    likelihood: Literal["gaussian", "logistic"] = "gaussian"
    """Density of the pixels: the paper's Gaussian, or the logistic of the authors' code."""
    sigma: float = 0.1
    """Standard deviation of the Gaussian, or scale of the logistic."""
    rounds: int = 5
    """Rounds R in which the posterior is refined."""
    latent_dim: int = 16
    """Dimensions L of a slot's latent."""
    layers: int = 3
    """Convolutions of the decoder and of the refinement network."""
    features: int = 32
    """Feature maps of each convolution."""
    hidden: int = 128
    """Units of the refinement network's recurrent layer and of the layer before it."""

    def __post_init__(self) -> None:
        limits.check_fields(IodineConfig, self, "model", limits.IODINE)
        check_kind(self, "iodine", "model")
        check_multiple(self.size, self.networks.multiple, "layers")

    @property
    def networks(self) -> ExpertConfig:
        """Sizes of the decoder, which is of the kind of ECON's."""
        latents = FreeLatents(dim=self.latent_dim)
        return ExpertConfig(latents, self.layers, self.features, 0.0, UNetAttention(channels=(1,)))


@dataclass(frozen=True)
class _Mrbm(SceneModelConfig):
    """What both variants of the masked RBM have."""

    num_slots: int = 4
    """Number of layers T, the background included, at most 7."""
    size: int = 32
    """Height and width of the image in pixels."""
    sigma: float = 0.2
    """Standard deviation of an appearance's pixels given its hidden units."""
    appearance_units: int = 32
    """Hidden units of each layer's appearance."""
    shape_units: int = 128
    """Hidden units of each layer's shape; of mrbm-softmax, of the mask of all layers."""
    sweeps: int = 5
    """Gibbs sweeps that complete the layers of an image in training."""
    cd_steps: int = 1
    """Gibbs sweeps of contrastive divergence in each RBM."""
    infer_sweeps: int = 50
    """Gibbs sweeps of decomposing; means are over the second half."""
    sample_sweeps: int = 500
    """Gibbs sweeps of each RBM for a sample of the prior."""

    def __post_init__(self) -> None:
        limits.check_fields(type(self), self, "model", limits.MRBM)
        check_kind(self, _kind_of(self), "model")


@dataclass(frozen=True)
class MrbmConfig(_Mrbm):
    """M-RBM: layers of RBMs that occlude one another (Le Roux et al., 2011)."""

    kind: Literal["mrbm"] = "mrbm"
    """Which scene model."""


@dataclass(frozen=True)
class SoftmaxMrbmConfig(_Mrbm):
    """M-RBM without occlusion: one RBM draws a layer for each pixel (Le Roux et al., 2011)."""

    kind: Literal["mrbm-softmax"] = "mrbm-softmax"
    """Which scene model."""


KINDS: dict[str, type[SceneModelConfig]] = {
    "econ": EconConfig, "monet": MonetConfig, "genesis": GenesisConfig,
    "genesis-v2": GenesisV2Config,
    "slot-attention": SlotAttentionConfig, "iodine": IodineConfig,
    "mrbm": MrbmConfig, "mrbm-softmax": SoftmaxMrbmConfig,
}  # fmt: skip
"""Configurations of scene models by kind; ``econ_pyro.infer.scene_model.register`` adds to it."""


def _kind_of(config: Any) -> str:
    """The kind that a configuration's class stands for."""
    return type(config).__dataclass_fields__["kind"].default


def check_kind(config: Any, kind: str, group: str) -> None:
    """Check that the field ``kind`` is that of the class.

    Raises:
        EconError: it is another.
    """
    if config.kind != kind:
        raise EconError(f"{group}.kind {kind} in a configuration of that kind", config.kind)


def check_multiple(size: int, multiple: int, fewer: str) -> None:
    """Check that networks can halve an image as often as they do.

    Args:
        size: height and width of the image in pixels.
        multiple: of which it has to be one.
        fewer: options that lower the multiple, for the error message.

    Raises:
        EconError: the size is not a multiple.
    """
    if size % multiple:
        raise EconError(
            f"an image size that is a multiple of {multiple}",
            str(size),
            "networks halve images, and may fold patches of them: change --model.size, or use "
            f"fewer {fewer}",
        )


def check_duration(name: str, value: Duration, least: int = 0) -> None:
    """Check training steps or a share of the run.

    Raises:
        EconError: it is neither.
    """
    expected = f"training steps or a share of the run, such as 40%, for {name}"
    if isinstance(value, int):
        if not least <= value <= limits.MAX_COUNT:
            raise EconError(expected, describe(value))
        return
    try:
        share = float(value.removesuffix("%")) if value.endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1000 or (least and not share):
        raise EconError(expected, describe(value))
