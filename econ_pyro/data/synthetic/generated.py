"""Synthetic scenes rendered on demand, as a source."""

from __future__ import annotations

from torch import Tensor

from econ_pyro.data.synthetic.dataset import SPLITS
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig


class GeneratedScenes:
    """Scenes rendered on demand; the same index always gives the same scene.

    Args:
        config: distribution of the scenes.
        seed: seed of the scenes.
        n: number of scenes.
        split: ``train`` or ``valid``; the two splits share no scene.

    Raises:
        EconError: ``split`` or ``n`` is invalid.
    """

    def __init__(self, config: SceneConfig, seed: int, n: int, split: str = "train") -> None:
        if split not in SPLITS:
            raise EconError("a split called train or valid", repr(split))
        if not 1 <= n < SPLITS["valid"]:
            raise EconError("at least 1 scene and fewer than 2^31", str(n))
        self._n, self._first = n, SPLITS[split]
        self._renderer = SceneRenderer(config, seed)
        self.size, self.classes = config.size, self._renderer.config.classes

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return self._renderer.render_images(self._scene_numbers(indices))

    def scenes(self, indices: Tensor) -> Scenes:
        """Images with ground truth."""
        return self._renderer.render(self._scene_numbers(indices))

    def _scene_numbers(self, indices: Tensor) -> Tensor:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self._n:
            raise IndexError(f"scene indices must be in 0 to {self._n - 1}")
        return indices + self._first
