"""What the project needs of a scene model, and the registry that builds one by its kind.

The trainer, ``evaluate.py``, ``decompose.py`` and ``sample.py`` know nothing else. A new model is
a class beneath :class:`SceneModel`, a configuration beneath
:class:`~econ_pyro.model_config.SceneModelConfig` with a field ``kind``, and a call of
:func:`register`.
This package's own are in ``BUILT_IN``; installed packages can register theirs under the entry
point group ``econ_pyro.scene_models``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from econ_pyro import model_config
from econ_pyro.accel.execution import Execution
from econ_pyro.config import Config
from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO, Terms
from econ_pyro.infer.svi import Step
from econ_pyro.model_config import SceneModelConfig

BUILT_IN = {
    "econ": "econ_pyro.econ:register",
    "monet": "econ_pyro.training.systems:register_monet",
    "genesis": "econ_pyro.training.systems:register_genesis",
    "genesis-v2": "econ_pyro.training.systems:register_genesis_v2",
    "slot-attention": "econ_pyro.training.systems:register_slot_attention",
    "iodine": "econ_pyro.training.systems:register_iodine",
    "mrbm": "econ_pyro.training.mrbm:register_mrbm",
    "mrbm-softmax": "econ_pyro.training.mrbm:register_softmax_mrbm",
}
"""This package's own models, each with a function that calls :func:`register`."""
NEED_ORDER = frozenset({"ooa", "completed_iou"})
"""Scores that mean nothing of models whose layers have no depth order."""
GROUP = "econ_pyro.scene_models"
"""Entry points of installed packages: each a function that calls :func:`register`."""


class Painted(Protocol):
    """Scenes that a model drew, layer axis front to back."""

    image: Tensor
    """``(B, 3, H, W)``."""
    k: Tensor
    """Expert of each layer, ``(B, T)``; zeros of a model without experts."""
    shape: Tensor
    """``(B, T, 1, H, W)``."""
    appearance: Tensor
    """``(B, T, 3, H, W)``."""


class Drawn(NamedTuple):
    """Scenes that a model drew: what :class:`Painted` asks for and nothing else."""

    image: Tensor
    k: Tensor
    shape: Tensor
    appearance: Tensor


class Engine(Protocol):
    """What takes a model's training steps."""

    elbo: ClassConditionalELBO

    def update(self, x: Tensor, evidence: Tensor | None = None) -> Step:
        """One training step on this process's images."""

    def decompose(self, x: Tensor, evidence: Tensor | None = None) -> Decomposition:
        """What validation looks at."""


class SceneModel(nn.Module, ABC):
    """A generative model of layered scenes, with inference.

    Args:
        config: of the run.
        names: a name for each expert.
    """

    undefined: frozenset[str] = frozenset()
    """Scores (:mod:`econ_pyro.evaluation.metrics`) that mean nothing of such a model."""
    generative: bool = True
    """Whether :meth:`sample` gives scenes; of other models, it raises an error that says so."""

    def __init__(self, config: Config, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.names: Any = list(names or config.names or ("model",))

    @property
    def num_experts(self) -> int:
        """Number of experts; 1 of a model without."""
        return len(self.names)

    @abstractmethod
    def sample(self, n: int = 1, *, seed: int | None = None) -> Any:
        """New scenes, :class:`Painted`.

        Args:
            n: number of scenes.
            seed: of the sample; the global generator is then left as it was.
        """

    @abstractmethod
    def decompose(
        self, images: Tensor, slots: int | None = None, *, evidence: Tensor | None = None
    ) -> Decomposition:
        """Take images apart into layers.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1].
            slots: number of layers; as in training if not given.
            evidence: true regions, ``(B, T, 1, H, W)``, for a model that takes them.
        """

    @torch.no_grad()
    def redraw(self, layers: Decomposition) -> Tensor:
        """Draw images anew from layers, which may have been exchanged between decompositions.

        Here, the most likely shapes are painted over the last layer, which is everywhere.

        Args:
            layers: of this model.

        Returns:
            ``(B, 3, H, W)`` on the CPU.
        """
        shape = layers.shape.round()
        shape[:, -1] = 1
        return compose(regions_of_shapes(shape), layers.mean)

    @abstractmethod
    def loss_terms(self, x: Tensor, evidence: Tensor | None = None) -> Terms:
        """Terms of Eqs. 10-12 of every layer, ``(B, T)`` each, differentiable.

        Args:
            x: images, ``(B, 3, H, W)``.
            evidence: true regions, ``(B, T, 1, H, W)``, for a model that takes them.
        """

    def sampling_effort(self) -> str:
        """What decomposing an image takes beside passes of networks; empty if nothing."""
        return ""

    def expert_groups(self) -> Sequence[nn.ModuleList]:
        """Networks by group and expert, each group in the order of the experts; may be empty."""
        return ()

    def engine(self, optim: Optimizer, elbo: ClassConditionalELBO, execution: Execution) -> Engine:
        """What takes training steps: here, gradients of :meth:`loss_terms`."""
        return GradientEngine(self, optim, elbo, execution)

    def initialise(self, images: Callable[[int], Tensor]) -> str:
        """Set weights by training images, before the first step of a new run.

        Args:
            images: so many of them, at random, ``(n, 3, H, W)`` on the CPU.

        Returns:
            What was done, in one line; empty if nothing was.
        """
        return ""

    def callbacks(self, learner: Any) -> list[Any]:
        """What changes this model's training from outside (``training/callbacks.py``)."""
        return []

    def extra_state(self) -> dict[str, Any]:
        """What beside the weights a saved model holds, JSON-able."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`extra_state` gave."""


class GradientEngine:
    """Plain gradient steps of a model's own loss.

    Args:
        model: the scene model.
        optim: a torch optimiser over its parameters.
        elbo: weights of the terms.
        execution: precision, and the processes that share each batch.
    """

    def __init__(
        self,
        model: SceneModel,
        optim: Optimizer,
        elbo: ClassConditionalELBO,
        execution: Execution,
    ) -> None:
        self.model, self.optim, self.elbo, self.execution = model, optim, elbo, execution
        self._terms: Callable[..., Terms] = _LossTerms(model)
        if execution.group.size > 1:
            self._terms = DistributedDataParallel(self._terms, find_unused_parameters=True)

    def update(self, x: Tensor, evidence: Tensor | None = None) -> Step:
        """One training step."""
        self.optim.zero_grad(set_to_none=True)
        with self.execution(x.device):
            terms = Terms(*self._terms(x, evidence))
            loss = self.elbo.loss_of(terms)
        loss.backward()
        self.optim.step()
        k = torch.zeros_like(terms.x, dtype=torch.long)
        return Step(loss.detach(), terms.map(torch.Tensor.detach), k, torch.ones_like(terms.x))

    @torch.no_grad()
    def decompose(self, x: Tensor, evidence: Tensor | None = None) -> Decomposition:
        """What validation looks at."""
        with self.execution(x.device):
            return self.model.decompose(x, evidence=evidence)


class _LossTerms(nn.Module):
    """``loss_terms`` as a ``forward``, the unit that torch distributes."""

    def __init__(self, model: SceneModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, evidence: Tensor | None) -> Terms:
        return self.model.loss_terms(x, evidence)


class Registered(NamedTuple):
    """A kind of scene model."""

    config: type[SceneModelConfig]
    build: Callable[..., SceneModel]
    """Of the run's configuration, a device and names of the experts (or None)."""
    weights_like: Callable[[Any], Mapping[str, Tensor]] | None
    """Of the model's configuration: tensors on the meta device like ``state_dict()``, so that
    weights can be checked before anything is allocated. None: a model is built for that."""


_registry: dict[str, Registered] = {}


def register(
    kind: str,
    config: type[SceneModelConfig],
    build: Callable[..., SceneModel],
    weights_like: Callable[[Any], Mapping[str, Tensor]] | None = None,
) -> None:
    """Make a kind of scene model known.

    Args:
        kind: its name, the default of the configuration's field ``kind``.
        config: class of its configuration.
        build: called with the run's configuration, a device and names (or None).
        weights_like: called with the model's configuration, for names and sizes of its weights
            without values; may be left out.

    Raises:
        EconError: the configuration has no such kind, or another model is registered under it.
    """
    field = getattr(config, "__dataclass_fields__", {}).get("kind")
    if field is None or field.default != kind:
        raise EconError(f'a configuration class whose field kind is "{kind}"', config.__name__)
    if kind in _registry and _registry[kind].config is not config:
        raise EconError("a new name for a scene model", f"{kind}, which is registered")
    _registry[kind] = Registered(config, build, weights_like)
    model_config.KINDS[kind] = config


def known() -> list[str]:
    """Kinds of scene models, those of installed packages included."""
    for kind, place in BUILT_IN.items():
        if kind not in _registry:
            resolve_name(place)()
    for point in entry_points(group=GROUP):
        if point.name not in _registry:
            point.load()()
    return sorted(_registry)


def build(
    config: Config, device: torch.device | str = "cpu", names: Sequence[str] | None = None
) -> SceneModel:
    """The scene model of a configuration.

    Raises:
        EconError: its kind is not registered.
    """
    return _registered(config).build(config, device, names)


def weights_like(config: Config) -> Mapping[str, Tensor]:
    """Names and sizes of the weights of a configuration's scene model; values mean nothing.

    Raises:
        EconError: its kind is not registered.
    """
    like = _registered(config).weights_like
    return build(config).state_dict() if like is None else like(config.model)


def _registered(config: Config) -> Registered:
    kind = getattr(config.model, "kind", None)
    if kind not in _registry and kind not in known():
        raise EconError(f"one of {', '.join(known())} as model.kind", str(kind))
    assert isinstance(kind, str)
    return _registry[kind]
