"""Export of models to ONNX, for programs without Python or torch.

``decompose.onnx`` computes :meth:`Econ.decompose <econ_pyro.econ.Econ.decompose>` with its T
layers unrolled; it uses posterior means and the winning expert of each layer. ``decoder_K.onnx``
is the decoder of expert K. The batch size of both is dynamic, the image size is fixed. The outputs
are compared with torch. Requires the extra ``onnx``.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.files.storage import write_atomically
from econ_pyro.infer.refined_competition import Refined
from econ_pyro.infer.strategies import decomposition_of
from econ_pyro.scene_config import SceneConfig

# outputs must not have the name of a torch operation, such as "mean", as nodes have these names
OUTPUTS = {
    "k": "k",
    "region": "region",
    "appearance": "mean",
    "shape": "shape",
    "z": "z",
    "competition_losses": "competition_losses",
}
"""Outputs of ``decompose.onnx``, with the fields of a Decomposition."""
OPSET = 18  # of the exporter's own operations: it converts none within loops to others
CHECKED = 8  # images or latents on which a file is compared with torch


class Decompose(nn.Module):
    """Network that maps images to the :data:`OUTPUTS`, without noise, layers front to back.

    Args:
        econ: the scene model.
        slots: number of layers; as in training if not given.
    """

    def __init__(self, econ: Any, slots: int | None = None) -> None:
        super().__init__()
        self.model, self.guide = econ.model, econ.guide
        slots = slots or econ.config.model.num_slots
        self.competition = decomposition_of(econ.config, slots, evidence=False, refine=True)
        if isinstance(self.competition, Refined):
            self.competition.steps = 0  # a graph has no gradients

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Decompose images ``(B, 3, H, W)`` in [0, 1]."""
        with torch.no_grad(), _ConstantGradMode(), self.guide.pose_search():
            d = self.competition.decompose(self.model, self.guide, images)
        return tuple(getattr(d, field) for field in OUTPUTS.values())


class _ConstantGradMode(TorchFunctionMode):
    """Gradients stay as they are, on or off.

    The exporter divides its graph wherever they are switched, which takes half of its time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


class Decode(nn.Module):
    """Network that maps latents ``(B, L)`` to an appearance and a shape.

    Args:
        econ: the scene model.
        expert: index of the expert.
    """

    def __init__(self, econ: Any, expert: int) -> None:
        super().__init__()
        self.model = econ.with_experts([expert]).model

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances ``(B, 3, H, W)`` and shapes ``(B, 1, H, W)`` in [0, 1]."""
        mean, shape = self.model.decode_all(z[:, None])
        return mean[:, 0], shape[:, 0]


def export_onnx(econ: Any, folder: Path, slots: int | None = None) -> dict[str, float]:
    """Write ``decompose.onnx`` and the ``decoder_K.onnx`` of each expert, and check them.

    Args:
        econ: the scene model, on the CPU.
        folder: output folder.
        slots: number of layers of ``decompose.onnx``; as in training if not given.

    Returns:
        For each file, the maximum difference between the outputs of onnxruntime and torch, on
        generated scenes and samples of the prior, relative to the maximum of the output if that
        exceeds 1.

    Raises:
        EconError: onnx, onnxruntime or onnxscript is not installed, or regions grow over the
            features of a pretrained network, which a file would have to contain.
    """
    if source := getattr(econ.sizes.expert.attention, "pretrained", ""):
        raise EconError("a model without pretrained features, to export", f"one with {source}")
    _require()
    latent, generator = econ.sizes.expert.latents.dim, torch.Generator().manual_seed(0)
    scenes = SceneConfig(size=econ.config.model.size)
    images = GeneratedScenes(scenes, seed=0, n=CHECKED).images(torch.arange(CHECKED))
    z = torch.randn(CHECKED, latent, generator=generator)
    jobs: list[tuple[str, nn.Module, str, Tensor, tuple[str, ...]]] = [
        ("decompose.onnx", Decompose(econ, slots), "images", images, tuple(OUTPUTS))
    ]
    jobs += [
        (f"decoder_{e.index}.onnx", Decode(econ, e.index), "z", z, ("appearance", "shape"))
        for e in econ.experts
    ]
    metadata = {"experts": json.dumps(econ.names), "layers": "front to back"}
    differences = {}
    for name, network, input_name, value, outputs in jobs:
        path = folder / name
        with _exporting():
            _write(path, network, input_name, value, outputs, metadata)
            differences[name] = _difference(path, network, input_name, value)
    return differences


def _write(
    path: Path,
    network: nn.Module,
    input_name: str,
    value: Tensor,
    outputs: tuple[str, ...],
    metadata: dict[str, str],
) -> None:
    program = torch.onnx.export(
        network.eval(),
        (value,),
        dynamo=True,
        optimize=False,  # takes half of the time, and onnxruntime optimises when it loads the file
        input_names=[input_name],
        output_names=list(outputs),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    for node in program.model.graph.all_nodes():  # stack traces: most of the file
        node.metadata_props.clear()
    write_atomically(path, lambda p: program.save(p))


def _difference(path: Path, network: nn.Module, input_name: str, value: Tensor) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; warnings are about missed simplifications
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    maximum = 0.0
    for batch in (value, value[:1]):  # the batch size must be dynamic
        expected = network(batch)
        outputs: list[Any] = session.run(None, {input_name: batch.numpy()})
        for a, b in zip(expected, outputs, strict=True):
            difference = (a - torch.from_numpy(b)).abs().max() / a.abs().max().clamp_min(1)
            maximum = max(maximum, difference.item())
    return maximum


@contextmanager
def _exporting() -> Iterator[None]:
    # graphs cannot contain branches on values, as in validation; the exporter logs a lot
    validate = Distribution._validate_args
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    Distribution.set_default_validate_args(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Distribution.set_default_validate_args(validate)
        logging.getLogger("torch.onnx").setLevel(level)


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise EconError(
            "the packages onnx, onnxruntime and onnxscript",
            f"no {error.name}",
            "pip install 'econ-pyro[onnx]'",
        ) from None
