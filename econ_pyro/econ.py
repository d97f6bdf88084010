"""A scene model as a library: build or load one, take images apart, make new ones.

This module is the roof: it alone in ``econ_pyro`` knows the concrete model and guide. The engine
beneath receives them, as Pyro's own SVI does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from econ_pyro import checkpoint, files, painting
from econ_pyro.config import Config, from_dict
from econ_pyro.decomposition import Decomposition
from econ_pyro.elbo import ClassConditionalELBO
from econ_pyro.errors import EconError
from econ_pyro.guides.recognition import Recognition
from econ_pyro.handlers import CleanLayers
from econ_pyro.learner import make_rules
from econ_pyro.models.dead_leaves import Canvas, DeadLeaves
from econ_pyro.painting import Rendered
from econ_pyro.scene_file import Scene
from econ_pyro.schedules import age
from econ_pyro.svi import CompetitiveSVI


@dataclass(frozen=True)
class Expert:
    """One expert: three networks and a name."""

    index: int
    name: str
    decoder: nn.Module
    attention: nn.Module
    encoder: nn.Module


class Econ:
    """K experts that take scenes apart and make new ones.

    Args:
        config: of the run.
        device: where the networks are.
        names: a name for each expert; ``expert-0``, ... if not given.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        names: Sequence[str] | None = None,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = DeadLeaves(config.model).to(self.device)
            self.guide = Recognition(config.model).to(self.device)
        self.names = list(names or (f"expert-{k}" for k in range(config.model.experts)))

    @property
    def experts(self) -> list[Expert]:
        """The experts with their networks."""
        parts = (self.model.decoders, self.guide.attentions, self.guide.encoders)
        return [
            Expert(k, name, *(ensemble[k] for ensemble in parts))
            for k, name in enumerate(self.names)
        ]

    def decompose(
        self, images: Tensor, steps: int | None = None, batch: int = 64
    ) -> Decomposition:
        """Take images apart, front to back, with posterior means and the best expert a step.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], H = W = the model's size.
            steps: layers to look for; as in training if not given.
            batch: images at a time.

        Raises:
            EconError: the images have another shape, type or range.
        """
        check_images(images, self.config.model.size)
        rules = replace(make_rules(self.config), steps=steps or self.config.model.steps)
        svi = CompetitiveSVI(
            self.model,
            self.guide,
            None,
            ClassConditionalELBO(self.config.objective.beta, self.config.objective.gamma),
            rules,
            self.config.model.expert.latent,
        )
        parts = [svi.explain(x.to(self.device)).cpu() for x in images.split(batch)]
        return Decomposition.cat(parts)

    def sample(
        self,
        n: int = 1,
        scene: str | None = None,
        experts: Sequence[int] | None = None,
        steps: int | None = None,
        seed: int | None = None,
        noisy: bool = False,
    ) -> Canvas:
        """Paint new scenes with the prior program.

        Args:
            n: number of scenes.
            scene: names of experts back to front, as in ``"background circle square"``.
            experts: their indices back to front, instead.
            steps: number of layers, where neither is given: classes are then drawn.
            seed: of the sample; the global generator is then left as it was.
            noisy: draw pixels and shapes too, as the likelihoods have it (Eqs. 4 and 5).

        Raises:
            EconError: an expert is unknown.
        """
        if scene is not None:
            experts = self.find_experts(scene.split())
        k = None
        if experts is not None:
            for e in experts:
                self._check_expert(e)
            front_to_back = list(reversed(experts))
            k = torch.tensor(front_to_back, device=self.device).expand(n, -1)
        cuda = [self.device] if self.device.type == "cuda" else []
        local = pyro.settings.context(module_local_params=True)
        with torch.no_grad(), torch.random.fork_rng(cuda, enabled=seed is not None), local:
            if seed is not None:
                torch.manual_seed(seed)
            with nullcontext() if noisy else CleanLayers():
                return self.model.prior(n, k, steps)

    @torch.no_grad()
    def sample_experts(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Objects of each expert alone (Figs. 1B and 6), the same latents for all.

        Returns:
            Appearances ``(K, n, 3, H, W)`` and shapes ``(K, n, 1, H, W)``, means in [0, 1].
        """
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.config.model.expert.latent, generator=generator).to(self.device)
        mean, shape = self.model.decode_all(z[:, None].expand(-1, self.config.model.experts, -1))
        return mean.transpose(0, 1), shape.transpose(0, 1)

    def render(self, scene: Scene) -> Rendered:
        """Paint the layers of an edited scene (:mod:`econ_pyro.scene_file`).

        Raises:
            EconError: the scene does not fit the model.
        """
        return painting.render(self.model, scene, self.device)

    def find_experts(self, names: Sequence[str]) -> list[int]:
        """Indices of experts by name; an index works as a name.

        Where several experts share a class (``circle``, ``circle-2``), the exact name counts.

        Raises:
            EconError: there is none of that name.
        """
        found = []
        for name in names:
            if name.isdigit():
                self._check_expert(int(name))
                found.append(int(name))
            elif name in self.names:
                found.append(self.names.index(name))
            else:
                raise EconError(
                    f"experts from {', '.join(self.names)}",
                    repr(name),
                    "evaluate.py names the experts of a run; an index works too",
                )
        return found

    def _check_expert(self, index: int) -> None:
        if not 0 <= index < self.config.model.experts:
            raise EconError(
                f"an expert from 0 to {self.config.model.experts - 1}", str(index), "see experts/"
            )


def check_images(images: Tensor, size: int) -> None:
    """Check what a user gives as images.

    Raises:
        EconError: another shape, type or range than ``(B, 3, size, size)`` float in [0, 1].
    """
    expected = f"images (B, 3, {size}, {size}), float in [0, 1]"
    if not isinstance(images, Tensor):
        raise EconError(expected, type(images).__name__, "use torch.as_tensor")
    got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        hint = "add the batch axis with images[None]" if images.ndim == 3 else "resize them"
        raise EconError(expected, got, hint)
    if not images.is_floating_point():
        raise EconError(expected, got, "divide by 255")
    low, high = (images.min().item(), images.max().item()) if len(images) else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise EconError(expected, f"values from {low:g} to {high:g}", "divide by 255")


def load(run: str | Path, device: torch.device | str = "cpu", which: str = "best") -> Econ:
    """Load a trained run; never executes code from it.

    Args:
        run: the run's folder.
        device: where to put the networks.
        which: ``best`` (by validation loss) or ``last``.

    Raises:
        EconError: the folder is no run, or is damaged.
    """
    run = Path(run)
    config = from_dict(Config, files.read_json(run / checkpoint.CONFIG)["config"])
    names: Any = None
    if (run / checkpoint.NAMES).exists():
        names = files.read_json(run / checkpoint.NAMES)["names"]
    econ = Econ(config, device, names)
    path = run / {"best": checkpoint.BEST, "last": checkpoint.LAST}[which]
    state = checkpoint.load_checkpoint(path, device)
    checkpoint.load_weights(econ.model, state["model"], path)
    checkpoint.load_weights(econ.guide, state["guide"], path)
    econ.model.flat = age(config, state["step"]) <= config.train.flat_until
    return econ
