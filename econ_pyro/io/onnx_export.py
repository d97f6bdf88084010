"""Trained experts for programs without Python or torch: ONNX files, checked against torch.

``decompose.onnx`` is all of :meth:`Econ.decompose <econ_pyro.econ.Econ.decompose>`, its T steps
unrolled: posterior means, and the best expert at each step. ``decoder_K.onnx`` draws one expert's
object from its latent. The batch is free in both, the image size fixed. Extra: onnx.
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

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.files.storage import write_atomically
from econ_pyro.infer.strategies import decomposition_of
from econ_pyro.scene_config import SceneConfig

# an output must not be called as one of torch's operations, "mean" for one: those name the nodes
OUTPUTS = {
    "k": "k",
    "region": "region",
    "appearance": "mean",
    "shape": "shape",
    "z": "z",
    "competition_losses": "competition_losses",
}
"""What ``decompose.onnx`` gives, as fields of a Decomposition."""
CHECKED = 8  # images or latents on which a file is compared with torch


class Decompose(nn.Module):
    """Images to the layers of :data:`OUTPUTS`, without noise, front to back.

    Args:
        econ: the scene model.
        slots: number of layers; as in training if not given.
    """

    def __init__(self, econ: Any, slots: int | None = None) -> None:
        super().__init__()
        self.model, self.guide = econ.model, econ.guide
        slots = slots or econ.config.model.num_slots
        self.competition = decomposition_of(econ.config, slots, evidence=False, refine=True)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Take images ``(B, 3, H, W)`` in [0, 1] apart."""
        d = self.competition.decompose(self.model, self.guide, images)
        return tuple(getattr(d, field) for field in OUTPUTS.values())


class Decode(nn.Module):
    """Latents ``(B, L)`` to appearance ``(B, 3, H, W)`` and shape ``(B, 1, H, W)``, in [0, 1].

    Args:
        econ: the scene model.
        expert: index of the expert.
    """

    def __init__(self, econ: Any, expert: int) -> None:
        super().__init__()
        self.model = econ.with_experts([expert]).model

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the object of each latent."""
        mean, shape = self.model.decode_all(z[:, None])
        return mean[:, 0], shape[:, 0]


def export_onnx(econ: Any, folder: Path, slots: int | None = None) -> dict[str, float]:
    """Write ``decompose.onnx`` and ``decoder_K.onnx`` of each expert, and run them.

    Args:
        econ: the scene model, on the CPU.
        folder: where to.
        slots: number of layers of ``decompose.onnx``; as in training if not given.

    Returns:
        For each file, the largest difference of an output of onnxruntime from torch's, on drawn
        scenes and samples of the prior, as a share of the output's largest value, at least of 1.

    Raises:
        EconError: onnx, onnxruntime or onnxscript is not installed.
    """
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
    about = {"experts": json.dumps(econ.names), "layers": "front to back"}
    differences = {}
    for name, network, given, value, outputs in jobs:
        path = folder / name
        with _exporting():
            _write(path, network, given, value, outputs, about)
            differences[name] = _difference(path, network, given, value)
    return differences


def _write(
    path: Path,
    network: nn.Module,
    given: str,
    value: Tensor,
    outputs: tuple[str, ...],
    about: dict[str, str],
) -> None:
    program = torch.onnx.export(
        network.eval(),
        (value,),
        dynamo=True,
        optimize=False,  # half of an export's time, and onnxruntime does it anew at loading
        input_names=[given],
        output_names=list(outputs),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    write_atomically(path, lambda p: program.save(p))


def _difference(path: Path, network: nn.Module, given: str, value: Tensor) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are of what it could not simplify
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for part in (value, value[:1]):  # the batch must be free
        ours = network(part)
        theirs: list[Any] = session.run(None, {given: part.numpy()})
        for a, b in zip(ours, theirs, strict=True):
            apart = (a - torch.from_numpy(b)).abs().max() / a.abs().max().clamp_min(1)
            largest = max(largest, apart.item())
    return largest


@contextmanager
def _exporting() -> Iterator[None]:
    # validation branches on values, which no graph can; the exporter's chatter is not our user's
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
