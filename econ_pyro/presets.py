"""Named configurations: the paper's experiments, and a small one for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from econ_pyro.config import (
    AugmentConfig,
    Config,
    CosineSchedule,
    NoTeaching,
    ObjectiveConfig,
    RecipeConfig,
    TeachingConfig,
    TrainConfig,
)
from econ_pyro.model_config import (
    EconConfig,
    ExpertConfig,
    FreeLatents,
    GecoConfig,
    GenesisConfig,
    GenesisV2Config,
    GreedyOptions,
    IodineConfig,
    JointOptions,
    MonetConfig,
    MrbmConfig,
    PoseLatents,
    SavingsOptions,
    SeededAttention,
    SlotAttentionConfig,
    SoftmaxMrbmConfig,
    UNetAttention,
)
from econ_pyro.scene_config import SCENE_SETS, SceneConfig

# shapes of one class differ in position alone here
_LATENTS = PoseLatents(reach=0.7, shape_dim=2)
_ATTENTION = SeededAttention(channels=(16, 32, 32, 32))
_EXPERT = ExpertConfig(latents=_LATENTS, features=16, attention=_ATTENTION)
_COMPETITION = JointOptions(
    lam=1.0,
    temperature=2.0,
    temperature_end=1.0,
    temperature_until=1200,
    depth_order_from=75,
    refine=True,
)
_SMALL = EconConfig(expert=_EXPERT, competition=_COMPETITION)
# colours far from the background's separate at half the resolution as well
_HALF = SeededAttention(channels=(16, 32, 32), patch=2)
_OBJECTIVE = ObjectiveConfig(beta=1.0, gamma=0.5, gamma_end=1.0, gamma_until=1200)
_RECIPE = RecipeConfig(
    load_balancing=3.0,
    load_balancing_limit=300.0,
    load_balancing_until=700,
    restart_below=0.2,
    restart_until="100%",
    occlusion=0.5,
    whitening=True,
)
_TRAIN = TrainConfig(steps=1000, batch=16, lr=2e-3, schedule=CosineSchedule())
_UNIQUE = Config(model=_SMALL, objective=_OBJECTIVE, train=_TRAIN, recipe=_RECIPE)
# cut short by its minutes, quick still completes its schedules
_QUICK_RECIPE = replace(_RECIPE, load_balancing_until="70%")
_QUICK = Config(
    model=replace(
        _SMALL,
        expert=replace(_EXPERT, attention=_HALF),
        competition=replace(_COMPETITION, temperature_until="120%", depth_order_from="7.5%"),
    ),
    objective=replace(_OBJECTIVE, gamma_until="120%"),
    train=replace(_TRAIN, minutes=20.0),
    recipe=_QUICK_RECIPE,
)

_SAVINGS = SavingsOptions(
    lam=1.0,
    temperature=2.0,
    temperature_end=1.0,
    temperature_until="60%",
    refine=True,
    refine_rounds=3,
)
_TAUGHT = EconConfig(
    expert=replace(_EXPERT, attention=UNetAttention(channels=(16, 32, 32, 32))),
    competition=_SAVINGS,
)
_TEACHING = TeachingConfig(seeds_until="60%", recomposed=0.5)
_LEARNT = Config(
    model=_TAUGHT,
    objective=replace(_OBJECTIVE, gamma_until="60%"),
    train=replace(_TRAIN, steps=1000),
    recipe=replace(_RECIPE, load_balancing_until="35%"),
    teaching=_TEACHING,
)
_CORRUPTED = AugmentConfig(
    start="20%",
    texture=0.25,
    shading=0.3,
    outline=1.0,
    contrast=0.1,
    blur=1.0,
    noise=0.12,
    jpeg=40,
)
# experts are apart before training: little has to keep them so
_FROM_CLUSTERS = replace(
    _QUICK_RECIPE,
    load_balancing=1.0,
    load_balancing_limit=60.0,
    load_balancing_until="60%",
    restart_below=0.0,
    shape_clusters=400,
    shapes_fixed_until="80%",
)
# turned and of several sizes
_TURNED_MODEL = EconConfig(
    size=64,
    num_slots=6,
    sigma_x=0.05,  # sprites have exact colours, some of them near others
    expert=replace(
        _EXPERT,
        latents=PoseLatents(dim=8, reach=0.85, size=True, angle=True, shape_dim=5),
        attention=replace(_HALF, colour_weight=2.0),
    ),
    competition=replace(_COMPETITION, temperature_until="120%", depth_order_from=0),
)
_SLOWLY = replace(_TRAIN, batch=8, minutes=30.0, lr=5e-4, schedule=CosineSchedule(warmup=50))
_TURNED = replace(
    _QUICK,
    model=_TURNED_MODEL,
    objective=replace(_OBJECTIVE, gamma_until="120%", smallest_region=20),
    train=replace(_SLOWLY, steps=700),
    recipe=_FROM_CLUSTERS,
)

# attention groups by features that it has learnt, more than by colours and places
_GROUPING = replace(_ATTENTION, place_weight=0.05, learnt=8, salience="features", shifts=3)
# and refinement counts these features, too
_BY_FEATURES = replace(
    _COMPETITION,
    temperature_until="120%",
    refine_rounds=3,
    refine_steps=10,
    feature_weight=0.5,
)
# attention learns from objects cut out of the images, and experts start as clusters of them
_CUT_EXPERT = replace(
    _EXPERT,
    latents=PoseLatents(dim=6, reach=0.7, shape_dim=2),
    attention=replace(_GROUPING, colour_weight=0.25),
)
_CUT_MODEL = replace(
    _SMALL,
    sigma_x=0.2,
    competition=replace(_BY_FEATURES, background_noise=True, layer_covariance=0.2),
    expert=_CUT_EXPERT,
)
_CUT_RECIPE = replace(
    _FROM_CLUSTERS,
    grouping_images=6000,
    grouping_from="cutouts",
    grouping_steps=9000,
    grouping_fixed_until="100%",
    clusters_coloured=1.0,
)
_CUT_OUT = Config(
    scenes=SceneConfig(background="grey", object_size=(0.4375, 0.4375)),
    model=_CUT_MODEL,
    objective=replace(_OBJECTIVE, gamma_until="120%"),
    train=_TRAIN,
    recipe=_CUT_RECIPE,
)

# patterns on patterns: attention learns to group from leaves with textures out of the images
_LEAVES = replace(_GROUPING, channels=(32, 48, 48, 48), colour_weight=0.1, connected=True)
_TEXTURED_EXPERT = replace(
    _EXPERT, latents=PoseLatents(dim=6, reach=0.85, size=True, shape_dim=3), attention=_LEAVES
)
_LEAVES_RECIPE = replace(
    _FROM_CLUSTERS,
    grouping_images=1500,
    grouping_from="textures",
    grouping_steps=20000,
    grouping_fixed_until="100%",
    shape_clusters=4000,
    shapes_fixed_until="100%",
)
_TEXTURED_MODEL = replace(
    _TURNED_MODEL,
    size=32,
    num_slots=4,
    sigma_x=0.15,  # of two colours
    competition=replace(
        _BY_FEATURES, depth_order_from=0, refine_merging=True, layer_covariance=0.05
    ),
    expert=_TEXTURED_EXPERT,
)
_TEXTURED = replace(
    _TURNED,
    scenes=SCENE_SETS["textured"],
    model=_TEXTURED_MODEL,
    objective=replace(_TURNED.objective, smallest_region=8),
    train=replace(_TURNED.train, steps=400, minutes=60.0),
    recipe=_LEAVES_RECIPE,
)

# of quick's width: 16 feature maps, 16-32-32-32 channels of attention
_MONET = MonetConfig(
    sigma=0.18, sigma_background=0.15, latent_dim=8, features=16, channels=(16, 32, 32, 32)
)
# Half of the paper's channels. Of the paper's sigma, 0.7, blends of slots cost hardly more than
# one slot at each pixel, and its GECO takes more steps than these to come back from weights near
# zero. The goal is a squared error of 0.001.
_GENESIS_GECO = GecoConfig(goal=0.0125, start=0.5, smallest=0.2)
_GENESIS = GenesisConfig(
    sigma=0.2,
    informative=True,
    mask_dim=32,
    component_dim=8,
    features=16,
    channels=(16, 16, 32, 32, 32),
    hidden=128,
    geco=_GENESIS_GECO,
)
# grown over places alone at first, as published, slots were still shared out after 800 steps
_GENESIS_V2 = GenesisV2Config(
    sigma=0.2,
    informative=True,
    colour_weight=8.0,
    spread=5.0,
    latent_dim=32,
    features=32,
    channels=(16, 32, 32, 32),
    hidden=128,
    geco=_GENESIS_GECO,
)
_IODINE = IodineConfig(rounds=3, latent_dim=8, features=16, hidden=64)
_GECO = ObjectiveConfig(beta=0.5)  # of validations
_SLOTS = TrainConfig(steps=20000, batch=16, lr=3e-4)
_FEW = TrainConfig(
    steps=4000, batch=16, lr=1e-3, schedule=CosineSchedule(warmup=100), validate_every=250
)
# half of the paper's widths or less
_SLOT_ATTENTION = SlotAttentionConfig(latent_dim=32, layers=3, features=16, hidden=64)
_WARM = replace(_SLOTS, lr=4e-4, schedule=CosineSchedule(warmup=1000))
_REFINED = replace(_SLOTS, lr=5e-4, clip=5.0)
_CD = TrainConfig(steps=10000, batch=16, lr=2e-3, schedule=CosineSchedule(), validate_every=500)
_MRBM = Config(model=MrbmConfig(), objective=ObjectiveConfig(1.0, 1.0), train=_CD)


def _paper(latents: int, layers: int, beta: float, gamma: float, lam: float) -> Config:
    """A configuration as published: attention and shapes start at one half."""
    expert = ExpertConfig(
        latents=FreeLatents(dim=latents),
        layers=layers,
        shape_bias=0.0,
        attention=UNetAttention(bias=0.0),
    )
    competition = GreedyOptions(lam=lam, temperature=1.0)
    model = EconConfig(expert=expert, competition=competition)
    return Config(model=model, objective=ObjectiveConfig(beta, gamma))


# the rung "refined regions" of the ladder in training/variants.py, for more steps
_TUNED = replace(
    _LEARNT,
    model=replace(
        _TAUGHT,
        expert=ExpertConfig(
            latents=FreeLatents(dim=3),  # the background's colour has as many
            layers=4,
            features=16,
            attention=_TAUGHT.expert.attention,
            kaiming=True,
        ),
    ),
    train=replace(_TRAIN, steps=6000),
    teaching=NoTeaching(),
)


PRESETS: dict[str, tuple[str, Config]] = {
    "quick": (
        "unique-colours in at most 20 minutes on two CPU cores, attention at half the resolution.",
        _QUICK,
    ),
    "unique-colours": ("The paper's Fig. 1: circles red, squares green, triangles blue.", _UNIQUE),
    "random-colours": (
        "The paper's Figs. 4, 6 and 7: objects of random colours.",
        replace(_UNIQUE, scenes=SceneConfig(kind="random-colours")),
    ),
    "learnt-unique-colours": (
        "unique-colours with attention that is taught by the E-step; seeds teach at first only.",
        _LEARNT,
    ),
    "learnt-random-colours": (
        "random-colours with attention that is taught by the E-step, on corrupted pictures too.",
        replace(
            _LEARNT,
            scenes=SceneConfig(kind="random-colours"),
            model=replace(
                _TAUGHT,
                competition=replace(
                    _SAVINGS,
                    refine_rounds=6,
                    outliers=0.002,
                    # what is not even in colour is a pattern, unless two objects are likelier
                    layer_covariance=0.01,
                    covariance_floor=0.04,
                    refine_twice=True,
                ),
            ),
            train=replace(_LEARNT.train, steps=3500),
            # a step with seeds takes a quarter of the time of one without
            teaching=replace(_TEACHING, seeds_until="80%", recoloured=0.5, leftovers=0.4),
            augment=_CORRUPTED,
        ),
    ),
    "sprites": (
        "Objects of several colours, with --scenes.sprites or --data.",
        replace(
            _UNIQUE,
            scenes=SceneConfig(background="grey", object_size=(0.4375, 0.4375)),
            model=replace(
                _SMALL,
                # an object's own variation in colour must cost less than another object's shape
                sigma_x=0.25,
                expert=replace(
                    _EXPERT,
                    latents=replace(_LATENTS, dim=6),
                    attention=replace(_ATTENTION, colour_weight=0.2, place_weight=0.2),
                ),
            ),
        ),
    ),
    "emoji": (
        "Objects of several colours on a ground of one, with --scenes.sprites or --data.",
        _CUT_OUT,
    ),
    "mnist": (
        "Handwritten digits, with --scenes.sprites or --data: many looks of each class.",
        replace(
            _CUT_OUT,
            scenes=SceneConfig(kind="random-colours", object_size=(0.5, 0.625)),
            model=replace(
                _CUT_MODEL,
                sigma_x=0.15,
                # shapes are too blurred to tell strokes apart, which features can
                competition=replace(
                    _CUT_MODEL.competition,
                    background_noise=False,
                    layer_covariance=0.0,
                    feature_weight=1.0,
                ),
                expert=replace(_CUT_EXPERT, latents=PoseLatents(dim=8, reach=0.7, shape_dim=5)),
            ),
            recipe=replace(
                _CUT_RECIPE,
                grouping_steps=14000,
                clusters_coloured=0.0,
                shapes_fixed_until=0,
                # shapes that change can be of two classes
                load_balancing=_RECIPE.load_balancing,
                load_balancing_limit=_RECIPE.load_balancing_limit,
                load_balancing_until="70%",
                restart_below=_RECIPE.restart_below,
            ),
        ),
    ),
    "multi-dsprites": (
        "Turned sprites of several sizes on grey; classes part by shape.",
        replace(_TURNED, scenes=SCENE_SETS["multi-dsprites"]),
    ),
    "multi-dsprites-coloured": (
        "The same on any colour, of fewer sprites.",
        replace(
            _TURNED,
            scenes=SCENE_SETS["multi-dsprites-coloured"],
            model=replace(_TURNED_MODEL, num_slots=5),
        ),
    ),
    "turned-random-colours": (
        "random-colours with objects turned and of several sizes; classes part by shape.",
        replace(
            _TURNED,
            scenes=SceneConfig(kind="random-colours", object_size=(0.2625, 0.525), rotate=True),
            model=replace(_TURNED_MODEL, size=32, num_slots=4),
            objective=replace(_TURNED.objective, smallest_region=8),
            recipe=replace(_FROM_CLUSTERS, shape_clusters=1000),  # few objects are whole
        ),
    ),
    "tetrominoes": (
        "Three bevelled pieces of seven classes, turned.",
        replace(
            _UNIQUE,
            scenes=SCENE_SETS["tetrominoes"],
            model=replace(
                _SMALL,
                num_experts=8,
                size=40,
                light=0.4,  # the bevel
                # pieces of one colour that touch are one region at first
                competition=replace(_COMPETITION, refine_rounds=3, refine_division=True),
                expert=replace(
                    _EXPERT,
                    latents=PoseLatents(dim=8, reach=0.7, angle=True, shape_dim=4),
                    attention=replace(
                        _ATTENTION, chromaticity=True, place_weight=0.05, connected=True
                    ),
                ),
            ),
            train=_SLOWLY,
            recipe=_FROM_CLUSTERS,
        ),
    ),
    "clevr-like": (
        "Shaded solids with shadows on grey; attention learns to group what has no colour.",
        replace(
            _TURNED,
            scenes=SCENE_SETS["clevr-like"],
            model=replace(
                _TURNED_MODEL,
                num_slots=7,
                light=0.2,
                competition=replace(
                    _TURNED_MODEL.competition, refine_rounds=2, refine_merging=True
                ),
                expert=replace(
                    _TURNED_MODEL.expert,
                    # the last four are shades: the ground is no plane of one brightness
                    latents=PoseLatents(dim=10, reach=0.85, size=True, largest=1.5, shape_dim=3),
                    attention=replace(
                        _HALF,
                        colour_weight=0.25,
                        place_weight=0.05,
                        learnt=8,
                        chromaticity=True,
                        connected=True,
                    ),
                ),
            ),
            train=replace(_TURNED.train, steps=400, lr=1e-3),
            recipe=replace(
                _FROM_CLUSTERS,
                grouping_images=1200,
                grouping_steps=2400,
                grouping_fixed_until="100%",
                shape_clusters=300,
                clusters_shaded=2.0,
                shapes_fixed_until="100%",
            ),
            augment=AugmentConfig(share=1.0, grey=1.0),
        ),
    ),
    "textured": (
        "Patterns on patterns; attention learns to group textures from leaves cut out of images.",
        _TEXTURED,
    ),
    "freedoom": (
        "Creatures of many looks on textures, with --scenes.sprites and --scenes.backgrounds.",
        replace(
            _TEXTURED,
            scenes=SceneConfig(size=64, background="any", object_size=(0.4, 0.55)),
            model=replace(
                _TEXTURED_MODEL,
                size=64,
                expert=replace(
                    _TEXTURED_EXPERT,
                    attention=replace(_LEAVES, channels=(16, 32, 32, 32), patch=2),
                ),
            ),
            recipe=replace(
                _LEAVES_RECIPE, grouping_steps=8000, shape_clusters=800, clusters_coloured=1.0
            ),
        ),
    ),
    "single-expert": (
        "The paper's Fig. 5: one expert, true regions given, a generative extension of MONet.",
        replace(
            _UNIQUE,
            model=replace(
                _SMALL,
                num_experts=1,
                # one expert for all classes: its shapes need latents to tell them apart
                expert=replace(_EXPERT, latents=PoseLatents(dim=8, reach=0.7, shape_dim=5)),
            ),
            objective=replace(_OBJECTIVE, gamma=1.0),
            train=replace(_TRAIN, steps=3000),
            recipe=replace(_RECIPE, load_balancing=0.0),
            gt_masks=True,
        ),
    ),
    "monet": (
        "MONet (Burgess et al., 2019) on the scenes of unique-colours, beside ECON.",
        Config(
            model=_MONET,
            objective=ObjectiveConfig(beta=0.5, gamma=0.5),
            train=_SLOTS,
        ),
    ),
    "genesis": (
        "GENESIS (Engelcke et al., 2020) on the scenes of unique-colours, beside ECON.",
        Config(model=_GENESIS, objective=_GECO, train=_FEW),
    ),
    "genesis-v2": (
        "GENESIS-V2 (Engelcke et al., 2021) on the scenes of unique-colours, beside ECON.",
        Config(model=_GENESIS_V2, objective=_GECO, train=_FEW),
    ),
    "slot-attention": (
        "Slot Attention (Locatello et al., 2020) on the scenes of unique-colours, beside ECON.",
        Config(model=_SLOT_ATTENTION, train=_WARM),
    ),
    "iodine": (
        "IODINE (Greff et al., 2019) on the scenes of unique-colours, beside ECON.",
        Config(model=_IODINE, train=_REFINED),
    ),
    "iodine-logistic": (
        "The same with the logistic likelihood of the authors' code, of scale 0.03.",
        Config(model=replace(_IODINE, likelihood="logistic", sigma=0.03), train=_REFINED),
    ),
    "mrbm": (
        "The M-RBM (Le Roux et al., 2011), occlusion, on the scenes of unique-colours.",
        _MRBM,
    ),
    "mrbm-softmax": (
        "The same without occlusion: one RBM draws the layer of each pixel.",
        replace(_MRBM, model=SoftmaxMrbmConfig()),
    ),
    "mrbm-16": (
        "The M-RBM on scenes of 16 x 16 pixels whose objects are at nine places, which suits it.",
        replace(_MRBM, scenes=SceneConfig(size=16, places=3), model=MrbmConfig(size=16)),
    ),
    "paper-unique-colours": (
        "Fig. 1 as published, beta and gamma as printed (9.54 and 0.52).",
        _paper(2, 4, beta=9.54, gamma=0.52, lam=1.0),
    ),
    "paper-unique-colours-swapped": (
        "Fig. 1 with beta and gamma swapped (0.52 and 9.54), as their stated ranges suggest.",
        _paper(2, 4, beta=0.52, gamma=9.54, lam=1.0),
    ),
    "paper-unique-colours-tuned": (
        "Fig. 1 by the paper's networks, halved; no seeds, no teacher, trained in another way.",
        _TUNED,
    ),
    "paper-random-colours": (
        "Figs. 4, 6 and 7 as published: beta 1, gamma 3.26, lambda 0.",
        replace(
            _paper(5, 3, beta=1.0, gamma=3.26, lam=0.0),
            scenes=SceneConfig(kind="random-colours"),
        ),
    ),
}
ALIASES = {name.replace("colour", "color"): name for name in PRESETS if "colour" in name}


def in_full(name: str) -> str:
    """The name of a preset in :data:`PRESETS`; other names stay as they are."""
    return ALIASES.get(name, name)
