"""A judge of samples: a small classifier of silhouettes that has seen rendered shapes only.

It tells the classes of object apart, and each of them from what is no object: nothing, everything,
an object with a part cut off, two objects in one, a smooth blob. Whole objects of up to a tenth
more or less than the usual size, and moved by fractions of a pixel, count as their class; an edge
that runs through the middle of pixels leaves open whose each is, and either will do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.core.compositing import regions_of_shapes
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.evaluation import matching
from econ_pyro.scene_config import SceneConfig

NOTHING, NOTHING_BEHIND = "no object", "background"
_SCENES, _STEPS, _BATCH, _RATE = 20_000, 700, 128, 3e-3
_DOUBT = 0.3  # of the coverage of a pixel, about a half, that may fall either way


class Sampler(Protocol):
    """What is judged: :class:`econ_pyro.econ.Econ`."""

    names: list[str]
    """Of the experts."""

    def sample_experts(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Appearances and shapes by each expert alone, ``(K, n, ...)``."""

    def sample(
        self, n: int = 1, *, experts: Sequence[int] | None = None, seed: int | None = None
    ) -> Any:
        """Scenes of experts by their indices, back to front."""


@dataclass(frozen=True)
class SampleScores:
    """How good samples of the prior are."""

    alone: dict[str, float]
    """By class: share of samples of its expert alone that show it (0 if it has no expert)."""
    asked: float | None
    """Share of asked-for scenes with exactly the objects asked for, each of them visible; None if
    no class has an expert."""


class Judge(nn.Module):
    """Silhouettes to classes.

    Args:
        classes: names of the classes.
        size: height and width in pixels.
    """

    def __init__(self, classes: Sequence[str], size: int) -> None:
        super().__init__()
        self.classes = (*classes, NOTHING)
        blocks: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32), (32, 64)):
            blocks += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(
            *blocks, nn.Flatten(), nn.Linear(64 * (-(-size // 8)) ** 2, len(self.classes))
        )

    def forward(self, mask: Tensor) -> Tensor:
        """Logits ``(n, C + 1)`` of masks ``(n, 1, H, W)`` in {0, 1}; the last is no object."""
        return self.net(mask - 0.5)

    @torch.no_grad()
    def judge(self, mask: Tensor) -> list[str]:
        """Names of what ``(n, 1, H, W)`` masks in [0, 1] show, from a half on."""
        return [self.classes[i] for i in self((mask > 0.5).float()).argmax(1).tolist()]


def train_judge(scenes: SceneConfig, seed: int = 0) -> Judge:
    """Train a judge of the classes of some scenes, in about ten seconds.

    Args:
        scenes: their classes and sizes; the rest plays no part.
        seed: of the judge and of what it sees.
    """
    low, high = scenes.object_size
    alone = replace(
        scenes,
        objects=1,
        min_objects=None,
        selection="random",
        class_weights=None,
        object_size=(0.9 * low, min(1.0, 1.1 * high)),
    )
    renderer = SceneRenderer(alone, seed)
    drawn = renderer.render(torch.arange(_SCENES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(scenes.classes, scenes.size)
        optim = torch.optim.Adam(judge.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, _STEPS)
        for _ in range(_STEPS):
            chosen = torch.randint(_SCENES, (_BATCH,))
            shapes, n = drawn.mask[chosen, :1].float(), len(judge.classes)
            masks, labels = _examples(shapes, drawn.label[chosen, 0], n)
            loss = F.cross_entropy(judge(_frayed(masks)), labels)
            optim.zero_grad()
            loss.backward()
            optim.step()
            schedule.step()
    return judge.eval()


def score_samples(
    econ: Sampler, judge: Judge, objects: int = 3, n: int = 200, seed: int = 0
) -> SampleScores:
    """Judge samples of each expert, and scenes asked for by the names of their objects.

    Args:
        econ: whose experts have names.
        judge: of the same classes.
        objects: number of objects of a scene.
        n: samples of each expert; as many scenes.
        seed: of samples and requests.
    """
    _, shapes = econ.sample_experts(n, seed)
    classes = judge.classes[:-1]
    alone = {name: 0.0 for name in classes}
    for name, shape in zip(econ.names, shapes, strict=True):
        if name in alone:
            alone[name] = judge.judge(shape).count(name) / n
    able = [name for name in classes if name in econ.names]
    if not able or NOTHING_BEHIND not in econ.names:
        return SampleScores(alone, None)
    luck, right = random.Random(seed), 0
    for i in range(n):
        asked = [luck.choice(able) for _ in range(objects)]
        experts = [econ.names.index(name) for name in (NOTHING_BEHIND, *reversed(asked))]
        canvas = econ.sample(1, experts=experts, seed=seed + i)
        right += _shows(judge, canvas.shape[0, :-1], asked)
    return SampleScores(alone, right / n)


def _shows(judge: Judge, masks: Tensor, asked: list[str]) -> bool:
    """Whether masks (N, 1, H, W), front to back, are those objects, none of them hidden."""
    visible = regions_of_shapes((masks > 0.5).float()[None])[0]
    least = matching.smallest_area(*masks.shape[-2:])
    return judge.judge(masks) == asked and bool((visible.sum((1, 2, 3)) >= least).all())


def _examples(masks: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Half of the masks as they are, half spoiled; labels of the spoiled are the last class."""
    half = len(masks) // 2
    spoiled = _spoil(masks[half:])
    nothing = torch.full((len(spoiled),), classes - 1)
    return torch.cat([masks[:half], spoiled]), torch.cat([labels[:half], nothing])


def _frayed(masks: Tensor) -> Tensor:
    """Masks moved by up to half a pixel; those that an edge then halves fall either way."""
    n, _, height, width = masks.shape
    move = torch.eye(2, 3).repeat(n, 1, 1)
    move[:, :, 2] = (2 * torch.rand(n, 2) - 1) / torch.tensor([width, height])
    grid = F.affine_grid(move, list(masks.shape), align_corners=False)
    covered = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
    return (covered > 0.5 + _DOUBT * (torch.rand_like(covered) - 0.5)).float()


def _spoil(masks: Tensor) -> Tensor:
    n, _, height, width = masks.shape
    share = [n // 2, n // 5, n // 5, n - n // 2 - 2 * (n // 5)]
    cut, two, blob, rest = masks.split(share)
    some = (torch.rand(len(rest), 1, 1, 1) < 0.3).float().expand_as(rest)
    both = (two + two.roll(1, 0)).clamp_max(1.0)
    return torch.cat([_cut(cut), both, _blobs(len(blob), height, width), some])


def _cut(masks: Tensor) -> Tensor:
    """Masks without what lies on one side of a line through the object, often upright or level."""
    n, _, height, width = masks.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    turn = 4 * torch.rand(n, 1, 1)
    angle = torch.pi / 2 * torch.where(torch.rand(n, 1, 1) < 0.5, turn.floor(), turn)
    along = angle.cos() * x + angle.sin() * y  # (n, H, W)
    inside = masks[:, 0] > 0
    low = along.masked_fill(~inside, torch.inf).amin((1, 2))
    high = along.masked_fill(~inside, -torch.inf).amax((1, 2))
    limits = low + (0.3 + 0.4 * torch.rand(n)) * (high - low)
    return masks * (along > limits[:, None, None])[:, None]


def _blobs(n: int, height: int, width: int) -> Tensor:
    coarse = torch.randn(n, 1, 5, 5)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (smooth > 0.3 + 0.7 * torch.rand(n, 1, 1, 1)).float()
