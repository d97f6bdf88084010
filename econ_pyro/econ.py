"""A scene model as a library: build or load one, take images apart, make new ones.

This module is the roof: it alone in ``econ_pyro`` knows the concrete model and guide. The engine
beneath receives them, as Pyro's own SVI does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from econ_pyro import arguments, naming
from econ_pyro.accel import cpu_cores
from econ_pyro.config import Config, ModelConfig
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.handlers import CleanLayers, one_at_a_time, seeded
from econ_pyro.core.meta_device import state_of, without_values
from econ_pyro.core.user_images import as_images, as_regions
from econ_pyro.errors import EconError, describe
from econ_pyro.evaluation.specialisation import distinct_names
from econ_pyro.files import storage
from econ_pyro.guides.recognition import Recognition
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.io import expert_file, model_card, pretrained, rendering
from econ_pyro.io.expert_file import Expert
from econ_pyro.io.rendering import Rendered
from econ_pyro.io.scene_file import Scene
from econ_pyro.models.dead_leaves import Canvas, DeadLeaves
from econ_pyro.training import checkpoint
from econ_pyro.training.learner import make_rules

MOST_VALUES = 1 << 29
"""Numbers in the largest networks, all experts' parameters and constants: 2 GiB."""
ENSEMBLES = ("decoders.0.", "attentions.0.", "encoders.0.")  # as expert_file.NETWORKS


class Econ:
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
        self.config, self.device = config, arguments.as_device(device)
        _sizes(config.model)
        with seeded(config.seed % 2**64, torch.device("cpu")):  # as torch takes negative ones
            self.model = DeadLeaves(config.model).to(self.device)
            self.guide = Recognition(config.model).to(self.device)
        numbered = [f"expert-{k}" for k in range(config.model.experts)]
        self.names = names or distinct_names(numbered, config.names)

    @property
    def names(self) -> list[str]:
        """A name for each expert, no two alike."""
        return self._names

    @names.setter
    def names(self, names: Sequence[str]) -> None:
        found, experts = list(names), self.config.model.experts
        if isinstance(names, str) or len(found) != experts:
            raise EconError(f"{experts} different names of experts", describe(names))
        naming.check_names(found, "what experts are to be called")
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
        model, networks = self.config.model, zip(*self._ensembles, strict=True)
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
            for e in arguments.as_list("model.experts", experts)
        ]
        config = replace(
            self.config,
            model=replace(self.config.model, experts=len(chosen)),
            train=replace(self.config.train, frozen=0),
            names=expert_file.given_names(chosen),
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
            else self.model.class_probs.new_full((self.config.model.steps,), 1 / len(chosen))
            for e in chosen
        ]
        won = torch.stack(probs, 1).clamp_min(1e-6)  # a dropped expert may have won them all
        new.model.class_probs.copy_(won / won.sum(1, keepdim=True))
        new.model.flat = self.model.flat
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
        index = arguments.expert_index(index, self.config.model.experts)
        if not isinstance(expert, Expert):
            got = describe(expert)
            raise EconError("an Expert", got, "take it from econ.experts or load_expert")
        expert_file.check_fits(expert.name, expert.config, expert.size, self.config.model)
        expert_file.copy_weights(expert, self.experts[index])

    def freeze(self, *experts: int | str) -> None:
        """Have training leave experts as they are; they compete all the same."""
        expert_file.freeze(self._ensembles, [self._index(e) for e in experts])

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
        pretrained.save(
            path, self.config, self.names, self.model, self.guide, self.model.flat, dtype
        )
        storage.write_text(path / pretrained.CARD, text)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str = "cpu") -> Econ:
        """Load a folder or shipped weights, or else ``OWNER/NAME`` from the Hugging Face hub."""
        local = os.path.exists(source) or str(source) in pretrained.shipped()
        remote = str(source).count("/") == 1 and not str(source).startswith(pretrained.HUB)
        return load(f"{pretrained.HUB}{source}" if remote and not local else source, device)

    def decompose(
        self,
        images: Tensor,
        steps: int | None = None,
        batch: int = 32,
        regions: Tensor | None = None,
        greedy: bool = False,
    ) -> Decomposition:
        """Take images apart, front to back, with posterior means and the best expert a step.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], H = W = the model's size, of any precision
                and on any device.
            steps: layers to look for; as in training if not given.
            batch: images that each core takes at a time.
            regions: true regions in place of attention, ``(B, T, 1, H, W)`` in [0, 1], or bool;
                they sum to 1 over layers.
            greedy: leave the layers as the competition found them, also if the configuration
                says that they are to be refined (:mod:`econ_pyro.infer.refinement`).

        Raises:
            EconError: images or regions have another shape, type or range, or a number makes no
                sense.
        """
        size, batch = self.config.model.size, arguments.as_int("batch", batch)
        images = as_images(images, size, self.dtype)
        rules = make_rules(self.config)
        if steps is not None:
            steps = arguments.as_int("steps", steps, maximum=arguments.MAX_LAYERS)
            rules = replace(rules, steps=steps)
        regions = as_regions(regions, len(images), rules.steps, size, self.dtype)
        svi = CompetitiveSVI(
            self.model,
            self.guide,
            None,
            ClassConditionalELBO(self.config.objective.beta, self.config.objective.gamma),
            rules,
            self.config.model.expert.latent,
        )
        refined = self.config.objective.refine and not greedy
        batch = min(batch, len(images))
        pieces = images.split(batch)
        given = [None] * len(pieces) if regions is None else regions.split(batch)

        def explain(piece: tuple[Tensor, Tensor | None]) -> Decomposition:
            x, r = piece
            r = None if r is None else r.to(self.device)
            return svi.explain(x.to(self.device), r, refined).cpu()

        jobs = list(zip(pieces, given, strict=True))
        with one_at_a_time():
            if self.device.type == "cpu":
                return Decomposition.cat(cpu_cores.parallel_map(explain, jobs))
            return Decomposition.cat([explain(job) for job in jobs])

    def sample(
        self,
        n: int = 1,
        scene: str | None = None,
        experts: Sequence[int | str] | None = None,
        steps: int | None = None,
        seed: int | None = None,
        noisy: bool = False,
    ) -> Canvas:
        """Paint new scenes with the prior program.

        Args:
            n: number of scenes.
            scene: names of experts back to front, as in ``"background circle square"``; of
                words that can be read in several ways, the longest name counts.
            experts: the experts back to front instead, each by name or index.
            steps: number of layers, where neither is given: classes are then drawn.
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
        if steps is not None:
            steps = arguments.as_int("steps", steps, maximum=most)
        layers = len(k[0]) if k is not None else steps or self.config.model.steps
        size = self.config.model.size
        arguments.check_memory("n", n, layers * 4 * size**2 * self.dtype.itemsize)
        local = pyro.settings.context(module_local_params=True)
        with torch.no_grad(), seeded(seed, self.device), local:
            with nullcontext() if noisy else CleanLayers():
                return self.model.prior(n, k, steps)

    @torch.no_grad()
    def sample_experts(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Objects of each expert alone (Figs. 1B and 6), the same latents for all.

        Returns:
            Appearances ``(K, n, 3, H, W)`` and shapes ``(K, n, 1, H, W)``, means in [0, 1].

        Raises:
            EconError: n or seed makes no sense.
        """
        n, model = arguments.as_int("n", n), self.config.model
        arguments.check_memory("n", n, model.experts * 4 * model.size**2 * self.dtype.itemsize)
        generator = torch.Generator().manual_seed(arguments.as_seed(seed))
        z = torch.randn(n, model.expert.latent, generator=generator).to(self.device)
        with one_at_a_time():
            mean, shape = self.model.decode_all(z[:, None].expand(-1, model.experts, -1))
        return mean.transpose(0, 1), shape.transpose(0, 1)

    def render(self, scene: Scene) -> Rendered:
        """Paint the layers of an edited scene (:mod:`econ_pyro.io.scene_file`).

        Raises:
            EconError: the scene does not fit the model.
        """
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
    """Load trained weights; never executes code from them.

    Args:
        source: the folder of a run, or one that ``save_pretrained`` wrote; the name of weights
            that are installed with the package; or ``hf:OWNER/NAME`` on the Hugging Face hub
            (extra: hub).
        device: where to put the networks.
        which: ``best`` (by validation loss) or ``last`` checkpoint of a run.

    Raises:
        EconError: there is none, or it is damaged; or there is no such device.
    """
    device = arguments.as_device(device)
    trained = pretrained.read(source, device, which)
    sizes = _sizes(trained.config.model)
    checkpoint.check_weights(trained.model, sizes.model, trained.path)
    checkpoint.check_weights(trained.guide, sizes.guide, trained.path)
    econ = Econ(trained.config, device, trained.names)
    econ.model.load_state_dict(trained.model)
    econ.guide.load_state_dict(trained.guide)
    econ.model.flat = trained.flat
    return econ


def load_expert(path: str | Path, device: torch.device | str = "cpu") -> Expert:
    """Load an expert alone, from a file in the ``experts/`` of a run; never executes code from it.

    Raises:
        EconError: the file is missing, damaged or no expert.
    """
    stored = expert_file.read_expert(Path(path))
    model = ModelConfig(experts=1, steps=1, size=stored.size, expert=stored.config)
    own = _sizes(model)
    like = {
        f"{part}.{name.removeprefix(start)}": tensor
        for part, start in zip(expert_file.NETWORKS, ENSEMBLES, strict=True)
        for name, tensor in {**own.model, **own.guide}.items()
        if name.startswith(start)
    }
    checkpoint.check_weights(stored.tensors, like, Path(path))
    expert = replace(Econ(Config(model=model), device).experts[0], name=stored.name)
    for part, network in expert.networks.items():
        start = f"{part}."
        network.load_state_dict(
            {n.removeprefix(start): t for n, t in stored.tensors.items() if n.startswith(start)}
        )
    return expert


class _Sizes(NamedTuple):
    """Names and sizes of what a model and a guide hold; of tensors without values."""

    model: dict[str, Tensor]
    guide: dict[str, Tensor]


@lru_cache(maxsize=4)
def _sizes(config: ModelConfig) -> _Sizes:
    """Sizes of networks, before room is taken for any.

    Raises:
        EconError: they would be larger than any that we know of.
    """
    alone = replace(config, experts=1)
    networks = [without_values(partial(make, alone)) for make in (DeadLeaves, Recognition)]
    values = sum(t.numel() for m in networks for t in (*m.parameters(), *m.buffers()))
    if values * config.experts > MOST_VALUES:
        raise EconError(
            f"networks of at most {MOST_VALUES:,} numbers",
            f"{values:,} for each of {config.experts} experts of {config.size} pixels",
            "lower model.experts, model.size or the sizes of model.expert",
        )
    model, guide = (state_of(network, config.experts) for network in networks)
    probs = torch.empty(config.steps, config.experts, device="meta")
    return _Sizes({**model, "class_probs": probs}, guide)
