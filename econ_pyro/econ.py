"""ECON as a library: build or load a model, take images apart, make new ones.

This module puts the concrete model and guide together. Inference receives them, as Pyro's own SVI
does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from econ_pyro import arguments, naming
from econ_pyro.accel import cpu_cores
from econ_pyro.accel.execution import Execution
from econ_pyro.config import AugmentConfig, Config, RecipeConfig, TeachingConfig, additions
from econ_pyro.core.ensemble import Ensemble, freeze
from econ_pyro.core.handlers import CleanLayers, one_at_a_time, seeded
from econ_pyro.core.input_images import as_images, as_regions
from econ_pyro.core.meta_device import weights_of
from econ_pyro.errors import EconError, describe
from econ_pyro.evaluation.specialisation import distinct_names
from econ_pyro.files import storage
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.guides.pretrained_features import keep_fitted
from econ_pyro.guides.seeded import SeededGuide, SeedsAlone
from econ_pyro.infer import scene_model
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.cuda_graph_svi import CudaGraphSVI
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import BatchedELBO, ClassConditionalELBO, Terms
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.infer.strategies import competition_of, decomposition_of
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.infer.taught_svi import TaughtSVI, Teaching
from econ_pyro.io import expert_file, model_card, pretrained, rendering
from econ_pyro.io.expert_file import Expert
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import Scene
from econ_pyro.model_config import EconConfig, JointOptions, PoseLatents, SeededAttention
from econ_pyro.models.dead_leaves import Canvas, DeadLeaves
from econ_pyro.training import callbacks, checkpoint
from econ_pyro.training.learner import Learner
from econ_pyro.training.load_balancing import LoadBalancing, Restarts
from econ_pyro.training.start import Start

ENSEMBLES = ("model.decoders", "guide.attentions", "guide.encoders")  # as expert_file.NETWORKS


class Econ(SceneModel):
    """K experts that take scenes apart and make new ones.

    Args:
        config: of the run.
        device: where the networks are.
        names: a name for each expert; those of the configuration, and ``expert-0``, ..., if not
            given.

    Raises:
        EconError: there is no such device, the names are not one for each expert, or the networks
            would be larger than any that we know of.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        device = arguments.as_device(device)
        sizes = self._sizes_of(config)
        _expert_weights_like(sizes)
        numbered = [f"expert-{k}" for k in range(sizes.num_experts)]
        super().__init__(config, distinct_names(numbered, config.names))
        if names:
            self.names = names
        with seeded(config.seed % 2**64, torch.device("cpu")):  # as torch takes negative ones
            self.model = DeadLeaves(sizes).to(device)
            self.guide = _guide(sizes)(sizes).to(device)
        latents = sizes.expert.latents
        if isinstance(latents, PoseLatents):
            if latents.angle:
                self.guide.find_directions = self.model.fitting_directions
            if latents.searched:
                self.guide.find_poses = self.model.fitting_poses

    @staticmethod
    def _sizes_of(config: Config) -> EconConfig:
        if not isinstance(config.model, EconConfig):
            raise EconError("a configuration of ECON", type(config.model).__name__)
        return config.model

    @property
    def sizes(self) -> EconConfig:
        """Sizes of the model and its networks."""
        return self._sizes_of(self.config)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.model.class_probs.device

    @property
    def names(self) -> list[str]:
        """A name for each expert, no two alike."""
        return self._names

    @names.setter
    def names(self, names: Sequence[str]) -> None:
        found, experts = list(names), self.sizes.num_experts
        if isinstance(names, str) or len(found) != experts:
            raise EconError(f"{experts} different names of experts", describe(names))
        naming.check_names(found, "the names of experts")
        self._names = found

    @property
    def dtype(self) -> torch.dtype:
        """Type of the networks' weights: float32, but for a model that was made ``double()``.

        Raises:
            EconError: model and guide are of different types.
        """
        p, q = (next(net.parameters()).dtype for net in (self.model, self.guide))
        if p != q:
            names = (str(dtype).removeprefix("torch.") for dtype in (p, q))
            raise EconError(
                "model and guide of one type", " and ".join(names), "convert the other one, too"
            )
        return p

    @property
    def experts(self) -> list[Expert]:
        """The experts with their networks."""
        model, networks = self.sizes, zip(*self._ensembles, strict=True)
        return [
            Expert(k, name, decoder, attention, encoder, model.expert, model.size)
            for k, (name, (decoder, attention, encoder)) in enumerate(
                zip(self.names, networks, strict=True)
            )
        ]

    @property
    def _ensembles(self) -> tuple[Ensemble, Ensemble, Ensemble]:
        return self.model.decoders, self.guide.attentions, self.guide.encoders

    def with_experts(self, experts: Sequence[int | str | Expert]) -> Econ:
        """A new model of these experts, copied, in this order: to drop, reorder and add some.

        Experts keep their names ("circle-2" for a further "circle"). The share of layers that
        each won, ``class_probs``, stays in proportion; an expert from elsewhere gets an even
        share. In further training none is frozen.

        Args:
            experts: each by index or name, or an :class:`~econ_pyro.io.expert_file.Expert` of any
                model,
                as in ``[*econ.experts, other.experts[2]]``.

        Raises:
            EconError: there is none, one is unknown, or does not fit in its sizes.
        """
        own_experts = self.experts
        chosen = [
            e if isinstance(e, Expert) else own_experts[self._index(e)]
            for e in arguments.as_list("experts", experts)
        ]
        recipe, augmented = self.config.recipe, self.config.augment
        if isinstance(recipe, RecipeConfig):
            # the experts have features and shapes already
            recipe = replace(recipe, grouping_images=0, self_training_images=0, shape_clusters=0)
            if not isinstance(self.config.teaching, TeachingConfig):
                augmented = AugmentConfig()
        config = replace(
            self.config,
            model=replace(self.sizes, num_experts=len(chosen)),
            train=replace(self.config.train, frozen=0),
            names=expert_file.custom_names(chosen),
            recipe=recipe,
            augment=augmented,
        )
        new = Econ(config, self.device)
        new.model.to(self.dtype)
        new.guide.to(self.dtype)
        for k, expert in enumerate(chosen):
            new.put(k, expert)
        own = self.model.decoders
        probs = [
            self.model.class_probs[:, e.index]
            if e.index < len(own) and e.decoder is own[e.index]
            else self.model.class_probs.new_full((self.sizes.num_slots,), 1 / len(chosen))
            for e in chosen
        ]
        won = torch.stack(probs, 1).clamp_min(1e-6)  # a dropped expert may have won them all
        new.model.class_probs.copy_(won / won.sum(1, keepdim=True))
        new.model.constant_colour = self.model.constant_colour
        keep_fitted(self, new)
        return new

    def add(self, *experts: int | str | Expert) -> Econ:
        """A new model with these experts after those that there are."""
        return self.with_experts([*self.experts, *experts])

    def drop(self, *experts: int | str) -> Econ:
        """A new model without these experts.

        Raises:
            EconError: one is unknown, or none would be left.
        """
        gone = {self._index(e) for e in experts}
        return self.with_experts([e for e in self.experts if e.index not in gone])

    def put(self, index: int, expert: Expert) -> None:
        """Give one expert the weights of another; its name stays.

        Raises:
            EconError: the sizes differ; the message names the field. Or there is no such expert.
        """
        index = arguments.expert_index(index, self.sizes.num_experts)
        if not isinstance(expert, Expert):
            got = describe(expert)
            raise EconError("an Expert", got, "take it from econ.experts or load_expert")
        expert_file.check_fits(expert.name, expert.config, expert.size, self.sizes)
        expert_file.copy_weights(expert, self.experts[index])

    def freeze(self, *experts: int | str) -> None:
        """Have training leave experts as they are; they compete all the same."""
        freeze(self._ensembles, [self._index(e) for e in experts])

    def save_pretrained(
        self, folder: str | Path, dtype: str = "float32", text: str | None = None
    ) -> None:
        """Write weights, configuration, names and a model card, as ``load`` reads them.

        Args:
            folder: where to; files of these names are replaced.
            dtype: of the stored weights: float32, float16 or bfloat16; they load as float32.
            text: the card; one without figures if not given (``scripts/publish.py`` measures).

        Raises:
            EconError: the folder is a run's, the type is unknown, or it cannot hold the weights.
        """
        path = Path(folder)
        text = text or model_card.model_card(
            path.resolve().name, self.config, self.names, dtype=dtype
        )
        pretrained.save(path, self.config, self.names, self, self.extra_state(), dtype)
        storage.write_text(path / pretrained.CARD, text)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str = "cpu") -> Econ:
        """Load a folder or shipped weights, or else ``OWNER/NAME`` from the Hugging Face hub."""
        local = os.path.exists(source) or str(source) in pretrained.shipped()
        remote = str(source).count("/") == 1 and not str(source).startswith(pretrained.HUB)
        return load(f"{pretrained.HUB}{source}" if remote and not local else source, device)

    def expert_groups(self) -> tuple[Ensemble, ...]:
        """Decoders, attention networks and encoders."""
        return self._ensembles

    def extra_state(self) -> dict[str, Any]:
        """Whether appearances are still of one constant colour."""
        return {"constant_colour": self.model.constant_colour}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`extra_state` gave."""
        self.model.constant_colour = bool(state.get("constant_colour", False))

    def engine(
        self, optim: torch.optim.Optimizer, elbo: ClassConditionalELBO, execution: Execution
    ) -> CompetitiveSVI:
        """Competition, then a gradient step: as CUDA graphs where the configuration says so."""
        competition = competition_of(self.config)
        parts = (self.model, self.guide, optim, elbo, competition)
        if isinstance(self.config.teaching, TeachingConfig):
            return TaughtSVI(*parts, self._teaching(self.config.teaching, competition), execution)
        graphs = self.config.cuda_graphs and self.device.type == "cuda"
        kind = CudaGraphSVI if graphs and execution.group.size == 1 else CompetitiveSVI
        return kind(*parts, execution)

    def _teaching(self, options: TeachingConfig, competition: Competition) -> Teaching:
        growth = SeededAttention(
            colour_weight=options.colour_weight, place_weight=options.place_weight
        )
        seeds = SeedsAlone(self.guide, growth)
        slots, occlusion = competition.num_slots, competition.occlusion
        first = JointCompetition(slots, competition.lam, occlusion=occlusion)
        return Teaching(
            options.weight,
            seeds,
            first,
            self.config.augment,
            options.rounds,
            options.recomposed,
            options.recoloured,
            options.leftovers,
        )

    def initialise(self, images: Callable[[int], Tensor]) -> str:
        """Fit pretrained features, teach attention to group pixels, start experts from clusters.

        Each if the configuration says so.
        """

        def regions(x: Tensor, **options: Any) -> Tensor:
            # what experts draw means nothing yet, nor does the gradient of their latents
            changed = replace(self.sizes.competition, refine_steps=0, **options)
            config = replace(self.config, model=replace(self.sizes, competition=changed))
            slots = self.sizes.num_slots
            competition = decomposition_of(config, slots, evidence=False, refine=True)
            return self._explain(x.to(self.dtype), competition).region

        # layers that are as wide as what is in them leave fewer whole objects
        whole = partial(regions, background_noise=False, layer_covariance=0.0)
        return Start(self.config, self.model, self.guide, whole, regions)(images)

    def callbacks(self, learner: Learner) -> list[callbacks.Callback]:
        """The competition's schedules, the class prior, and what the recipe adds."""
        config, recipe, group = self.config, additions(self.config), learner.group
        options, engine, sizes = self.sizes.competition, learner.engine, self.sizes
        assert isinstance(engine, CompetitiveSVI)
        competition, device = engine.competition, self.device
        found: list[callbacks.Callback] = [callbacks.Temperature(options, competition)]
        if isinstance(options, JointOptions) and not config.gt_masks:
            found.append(callbacks.DepthOrder(options, competition))
        if isinstance(engine, TaughtSVI) and isinstance(config.teaching, TeachingConfig):
            found.append(callbacks.Teachers(config.teaching, config.augment, engine))
        if recipe.constant_colour_until:
            until = recipe.constant_colour_until
            found.append(callbacks.ConstantColour(until, self.model))
        if recipe.shapes_fixed_until:
            decoders: Any = self.model.decoders
            kept = [p for decoder in decoders for p in decoder.shape_parameters()]
            if recipe.clusters_shaded or recipe.clusters_coloured:  # the last is no cluster
                *objects, _ = decoders
                kept += [p for decoder in objects for p in decoder.appearance_parameters()]
            found.append(callbacks.Fixed(recipe.shapes_fixed_until, kept))
        if recipe.grouping_fixed_until:
            features = self.guide.attentions.parameters()
            found.append(callbacks.Fixed(recipe.grouping_fixed_until, features))
        balancing = None
        if recipe.load_balancing > 0:
            balancing = LoadBalancing(recipe, competition, sizes.num_experts, device, group)
            found.append(balancing)
        if recipe.restart_below > 0:
            watched = (self._ensembles, learner.optim, sizes.num_slots)
            found.append(Restarts(recipe, *watched, balancing, device, group))
        found.append(callbacks.ClassPrior(self.model, group))
        if recipe.whitening:
            found.append(callbacks.LatentWhitening(self.model, self.guide, group))
        return found

    def loss_terms(self, x: Tensor, evidence: Tensor | None = None) -> Terms:
        """Eqs. 10-12 of the winners of a competition, ``(B, T)`` each, differentiable.

        Args:
            x: images, ``(B, 3, H, W)``.
            evidence: true regions, ``(B, T, 1, H, W)``, where the run is given them.
        """
        competition = competition_of(self.config, evidence is not None)
        won = competition(self.model, self.guide, x, evidence)
        return BatchedELBO().terms(self.model, self.guide.given(won), x, won.k)

    def decompose(
        self,
        images: Tensor,
        slots: int | None = None,
        batch: int = 32,
        evidence: Tensor | None = None,
        refine: bool = True,
    ) -> Decomposition:
        """Take images apart, front to back, by posterior means and the best expert per layer.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], H = W = the model's size, of any precision
                and on any device.
            slots: number of layers; as in training if not given.
            batch: images that each core takes at a time.
            evidence: true regions in place of attention, ``(B, T, 1, H, W)`` in [0, 1], or bool;
                they sum to 1 over layers.
            refine: refine the layers that the competition found, where the configuration says so
                (:mod:`econ_pyro.infer.refinement`).

        Raises:
            EconError: images or regions have another shape, type or range, or a number makes no
                sense.
        """
        size, batch = self.sizes.size, arguments.as_int("batch", batch)
        images = as_images(images, size, self.dtype)
        if slots is None:
            slots = self.sizes.num_slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        evidence = as_regions(evidence, len(images), slots, size, self.dtype)
        competition = decomposition_of(self.config, slots, evidence is not None, refine)
        return self._explain(images, competition, min(batch, len(images)), evidence)

    def _explain(
        self,
        images: Tensor,
        competition: Competition,
        batch: int = 32,
        evidence: Tensor | None = None,
    ) -> Decomposition:
        """What a competition makes of images."""
        pieces = images.split(batch)
        given = [None] * len(pieces) if evidence is None else evidence.split(batch)

        def explain(piece: tuple[Tensor, Tensor | None]) -> Decomposition:
            x, r = piece
            r = None if r is None else r.to(self.device)
            return competition.decompose(self.model, self.guide, x.to(self.device), r).cpu()

        jobs = list(zip(pieces, given, strict=True))
        with one_at_a_time(), self.guide.pose_search():
            if self.device.type == "cpu":
                return Decomposition.cat(cpu_cores.parallel_map(explain, jobs))
            return Decomposition.cat([explain(job) for job in jobs])

    def sample(
        self,
        n: int = 1,
        scene: str | None = None,
        experts: Sequence[int | str] | None = None,
        slots: int | None = None,
        seed: int | None = None,
        noisy: bool = False,
    ) -> Canvas:
        """Paint new scenes with the prior program.

        Args:
            n: number of scenes.
            scene: names of experts back to front, as in ``"background circle square"``; of
                words that can be read in several ways, the longest name counts.
            experts: the experts back to front instead, each by name or index.
            slots: number of layers, where neither is given: classes are then drawn.
            seed: of the sample; the global generator is then left as it was.
            noisy: draw pixels and shapes too, as the likelihoods have it (Eqs. 4 and 5).

        Raises:
            EconError: an expert is unknown, none is named, or a number makes no sense.
        """
        n, most = arguments.as_int("n", n), arguments.MAX_LAYERS
        if scene is not None and experts is not None:
            raise EconError("a scene or experts", "both", "give one of them")
        if scene is not None:
            if not isinstance(scene, str):
                raise EconError("a string of names for scene", describe(scene))
            named = naming.parse_scene(self.names, scene)
            experts = arguments.as_list("names in scene", named, most)
        k = None
        if experts is not None:
            listed = arguments.as_list("experts", experts, most)
            front_to_back = [self._index(e) for e in reversed(listed)]
            k = torch.tensor(front_to_back, device=self.device).expand(n, -1)
        if slots is not None:
            slots = arguments.as_int("slots", slots, maximum=most)
        layers = len(k[0]) if k is not None else slots or self.sizes.num_slots
        size = self.sizes.size
        arguments.check_memory("n", n, layers * 4 * size**2 * self.dtype.itemsize)
        local = pyro.settings.context(module_local_params=True)
        with torch.no_grad(), seeded(seed, self.device), local:
            with nullcontext() if noisy else CleanLayers():
                return self.model.prior(n, k, slots)

    @torch.no_grad()
    def sample_experts(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Objects of each expert alone (Figs. 1B and 6), the same latents for all.

        Returns:
            Appearances ``(K, n, 3, H, W)`` and shapes ``(K, n, 1, H, W)``, means in [0, 1].

        Raises:
            EconError: n or seed makes no sense.
        """
        n, model = arguments.as_int("n", n), self.sizes
        arguments.check_memory("n", n, model.num_experts * 4 * model.size**2 * self.dtype.itemsize)
        generator = torch.Generator().manual_seed(arguments.as_seed(seed))
        z = torch.randn(n, model.expert.latents.dim, generator=generator).to(self.device)
        with one_at_a_time():
            mean, shape = self.model.decode_all(z[:, None].expand(-1, model.num_experts, -1))
        return mean.transpose(0, 1), shape.transpose(0, 1)

    def render(self, scene: Scene) -> RenderedScene:
        """Paint the layers of an edited scene (:mod:`econ_pyro.io.scene_file`).

        Raises:
            EconError: the scene does not fit the model.
        """
        if not isinstance(scene, Scene):
            hint = "econ_pyro.io.scene_file.of_decomposition makes one of a decomposition"
            raise EconError("a Scene to render", describe(scene), hint)
        with one_at_a_time():
            return rendering.render(self.model, scene, self.device)

    def find_experts(self, wanted: Sequence[int | str]) -> list[int]:
        """Indices of experts by name or index.

        A text is a name first, and an index only if no expert is called so; an integer is always
        an index. Where several experts share a class (``circle``, ``circle-2``), the exact name
        counts.

        Raises:
            EconError: there is none of that name or index.
        """
        return naming.find_experts(self.names, wanted)

    def _index(self, expert: int | str) -> int:
        """Index of an expert by index or name."""
        if isinstance(expert, str):
            return self.find_experts([expert])[0]
        return arguments.expert_index(expert, len(self.names))


def load(source: str | Path, device: torch.device | str = "cpu", which: str = "best") -> Econ:
    """Load trained weights of ECON; never executes code from them.

    Args:
        source: the folder of a run, or one that ``save_pretrained`` wrote; the name of weights
            that are installed with the package; or ``hf:OWNER/NAME`` on the Hugging Face hub
            (extra: hub).
        device: where to put the networks.
        which: ``best`` (by validation loss) or ``last`` checkpoint of a run.

    Raises:
        EconError: there is none, it is damaged or of another model; or there is no such device.
    """
    model = pretrained.load_model(source, device, which)
    if not isinstance(model, Econ):
        kind = getattr(model.config.model, "kind", "")
        raise EconError(
            f"weights of ECON in {source}", kind, "use econ_pyro.io.pretrained.load_model"
        )
    return model


def load_expert(path: str | Path, device: torch.device | str = "cpu") -> Expert:
    """Load an expert alone, from a file in the ``experts/`` of a run; never executes code from it.

    Raises:
        EconError: the file is missing, damaged or no expert.
    """
    stored = expert_file.read_expert(Path(path))
    model = EconConfig(num_experts=1, num_slots=1, size=stored.size, expert=stored.config)
    own = _expert_weights_like(model)
    like = {
        f"{part}.{name.removeprefix(f'{ensemble}.0.')}": tensor
        for part, ensemble in zip(expert_file.NETWORKS, ENSEMBLES, strict=True)
        for name, tensor in own.items()
        if name.startswith(f"{ensemble}.0.")
    }
    checkpoint.check_weights(stored.tensors, like, Path(path))
    expert = replace(Econ(Config(model=model), device).experts[0], name=stored.name)
    for part, network in expert.networks.items():
        start = f"{part}."
        network.load_state_dict(
            {n.removeprefix(start): t for n, t in stored.tensors.items() if n.startswith(start)}
        )
    return expert


def _guide(config: EconConfig) -> type[AmortizedGuide]:
    return SeededGuide if config.expert.attention.kind == "seeded" else AmortizedGuide


@lru_cache(maxsize=4)
def _expert_weights_like(config: EconConfig) -> dict[str, Tensor]:
    """Names and sizes of one expert's weights, without values, before memory is allocated.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    alone = replace(config, num_experts=1)
    parts: dict[str, Callable[[EconConfig], nn.Module]] = {
        "model": DeadLeaves,
        "guide": _guide(config),
    }
    return weights_of(
        {n: partial(make, alone) for n, make in parts.items()},
        config.num_experts,
        f" for each of {config.num_experts} experts of {config.size} pixels",
        "model.num_experts, model.size or the sizes of model.expert",
    )


def weights_like(config: EconConfig) -> dict[str, Tensor]:
    """Names and sizes of all experts' weights; tensors of the same sizes are the same.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    like: dict[str, Tensor] = {}
    for name, tensor in _expert_weights_like(config).items():
        ensemble = next((e for e in ENSEMBLES if name.startswith(f"{e}.0.")), None)
        if ensemble is None:
            like[name] = tensor
            continue
        rest = name.removeprefix(f"{ensemble}.0.")
        like |= {f"{ensemble}.{k}.{rest}": tensor for k in range(config.num_experts)}
    layers = (config.num_slots, config.num_experts)
    like["model.class_probs"] = torch.empty(layers, device="meta")
    return like


def register() -> None:
    """Make ECON known as a scene model."""
    scene_model.register("econ", EconConfig, Econ, weights_like)


register()
