"""Corrupted images of a source, with its ground truth, for evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Generator, Tensor

from econ_pyro import limits
from econ_pyro.core.corruptions import KINDS, corrupt
from econ_pyro.data import counter_rng
from econ_pyro.data.base import Source
from econ_pyro.data.ground_truth import Truth
from econ_pyro.errors import EconError, describe


def parse_corruptions(texts: Iterable[str]) -> dict[str, float]:
    """Kinds of corruption with their strengths, in the order in which they are applied.

    Args:
        texts: a kind and its strength each, such as ``noise=0.05`` or ``jpeg=50``.

    Raises:
        EconError: a text has another form, there is no such kind, it is given twice, or its
            strength is out of bounds.
    """
    found: dict[str, float] = {}
    for text in texts:
        kind, equals, value = text.partition("=")
        if kind not in KINDS or not equals:
            expected = f"a corruption as KIND=STRENGTH, with KIND among {', '.join(KINDS)}"
            raise EconError(expected, describe(text), "such as noise=0.05")
        if kind in found:
            raise EconError(f"one strength of {kind}", "two")
        found[kind] = _strength(kind, value)
    return {kind: found[kind] for kind in KINDS if kind in found}


def format_corruptions(strengths: Mapping[str, float]) -> str:
    """What :func:`parse_corruptions` reads, such as ``blur=1 noise=0.05``."""
    return " ".join(f"{kind}={strength:g}" for kind, strength in strengths.items())


class CorruptedSource:
    """A source whose images are corrupted; their ground truth stays as it is.

    Textures, shading and outlines follow the true visible regions. Each image is corrupted
    alike whenever it is read, and whichever images are read with it.

    Args:
        source: the images.
        strengths: strength of each kind, from :func:`parse_corruptions`.
        seed: seed of the corruptions, any integer.
    """

    def __init__(self, source: Source, strengths: Mapping[str, float], seed: int = 0) -> None:
        self.size, self.classes = source.size, source.classes
        self._source, self._strengths, self._seed = source, dict(strengths), seed
        self._followed = [
            kind for kind in strengths if kind in KINDS and KINDS[kind].needs_regions
        ]

    def __len__(self) -> int:
        return len(self._source)

    def images(self, indices: Tensor) -> Tensor:
        """Corrupted images, :math:`(B, 3, H, W)` float32 in [0, 1].

        Raises:
            EconError: a corruption follows objects, and the source has no ground truth.
        """
        if not self._followed:
            return self._corrupt(self._source.images(indices), None, indices)
        scenes = self.scenes(indices)
        if scenes is None:
            others = [kind for kind in KINDS if not KINDS[kind].needs_regions]
            raise EconError(
                f"images with masks, for {' and '.join(self._followed)}",
                "images without",
                f"choose among {', '.join(others)}",
            )
        return scenes.image

    def scenes(self, indices: Tensor) -> Truth | None:
        """Corrupted images with ground truth; ``None`` if there is none."""
        clean = self._source.scenes(indices)
        if clean is None:
            return None
        regions = clean.layers(clean.region.shape[1] + 1)
        return _CorruptedTruth(clean, self._corrupt(clean.image, regions, indices))

    def _corrupt(self, images: Tensor, regions: Tensor | None, indices: Tensor) -> Tensor:
        out = images.clone()
        # torch's CPU generator takes the lowest 32 bits of a seed only
        for i, seed in enumerate(counter_rng.bits(self._seed, indices, 1)[:, 0].tolist()):
            own = None if regions is None else regions[i : i + 1]
            generator = Generator().manual_seed(seed)
            out[i : i + 1] = corrupt(images[i : i + 1], self._strengths, own, generator)
        return out


class _CorruptedTruth:
    """Ground truth of scenes, with other images."""

    def __init__(self, clean: Truth, image: Tensor) -> None:
        self.image, self.region = image, clean.region
        self.mask, self.label, self.layers = clean.mask, clean.label, clean.layers


def _strength(kind: str, value: str) -> float:
    low, high = limits.CORRUPTIONS[kind]
    try:
        strength = float(value)
        valid = (low or 0) <= strength <= high and (kind != "jpeg" or strength.is_integer())
    except ValueError:
        valid = False
    if not valid:
        number = "a whole number" if kind == "jpeg" else "a number"
        raise EconError(f"{number} from {low:g} to {high:g} for {kind}", describe(value))
    return strength
