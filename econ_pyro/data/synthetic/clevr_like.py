r"""Shaded scenes like those of CLEVR (Johnson et al., 2017): solids on a grey ground, ray-traced.

A camera looks down at the ground from a distance of 12 units, at which the image is 6.8 units
wide. Spheres, cubes and cylinders of two sizes and eight colours, matt or glossy, stand on the
ground, each wholly in the image and clear of the others. A lamp casts soft shadows. Colours are
computed in linear light: with normal n, directions l, f and v to the lamp, to a second lamp
without shadow and to the camera, albedo a, and the visible share s of the lamp,

.. math:: a \,(A + B\, n_z + F \max(0, n \cdot f) + E\, s \max(0, n \cdot l + w))
          + G\, s\, (n \cdot h)^{64}, \qquad h \propto l + v.

Glossy objects also reflect the sky and the ground. A pixel is the mean of 2 x 2 rays, each with
a point of its own on the lamp, and is stored as its square root (gamma 2).

**Truth.** A pixel belongs to an object's mask if the ray through its centre meets the object. The
slots are ordered by :math:`|c - g|^2 - \rho^2`, with g the place of the camera on the ground, c
that of the object and :math:`\rho` its radius. This is the power of g with respect to the object's
footprint. Of two footprints that do not overlap, a ray meets the one of smaller power first, as
their radical axis parts them. So masks in that order show at each pixel the object that is nearest
along its ray.

Scenes are bit-identical on every device (:mod:`econ_pyro.data.synthetic.solids`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import (
    COLOUR,
    PLACE,
    SIDE,
    TURN,
    VARIANT,
    SceneLayout,
    channel_values,
    colours,
    further_bits,
    sample_objects,
)
from econ_pyro.data.synthetic.solids import SOLIDS, Vector
from econ_pyro.errors import EconError
from econ_pyro.scene_config import DEFAULT_CLASSES, SOLID_CLASSES, SceneConfig

ALBEDOS = {
    "grey": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""CLEVR's colours."""
MAX_SOLIDS = 6
"""Maximum number of objects in a scene; there is seldom room for more."""
GROUND = (168, 168, 168)
"""Colour of the ground."""
_DISTANCE, _WIDTH = 12.0, 6.8  # of the camera from the middle, and of the image there
_ELEVATION = math.radians(33)
_TAN = _WIDTH / 2 / _DISTANCE  # of half the field of view
_GRID, _STEP, _FIRST = 64, 0.1, (-3.15, -3.55)  # places on the ground, x and y
_GAP = 0.25  # between the footprints of two objects
_LAMP = (-5.0, -5.5, 8.0)
_LAMP_SIZE = 0.9
_SECOND_LAMP = (0.75, -0.45, 0.5)  # direction
_AMBIENT, _SKY, _FILL, _KEY = 0.20, 0.16, 0.22, 0.80
_METAL, _TINT, _MIRROR, _GLOSS = 0.6, 0.7, 0.35, 1.2  # of glossy objects
_DIM, _BRIGHT = 0.2, 0.8  # what they reflect at the horizon, and more of it above
_WRAP = 0.25  # light of the lamp reaches around objects as far as this, in cosine
_SAMPLES = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25), (0.0, 0.0))
"""Rays of a pixel; the last one decides on masks."""


@dataclass(frozen=True)
class ClevrLayout(SceneLayout):
    """Layouts of scenes, in units of length on the ground."""

    place: Tensor
    """Place on the ground, x to the right and y away from the camera, :math:`(B, N, 2)`."""
    radius: Tensor
    """:math:`(B, N)`, 1 in an empty slot."""
    glossy: Tensor
    """:math:`(B, N)` bool."""
    lamp: Tensor
    """Place of the lamp, :math:`(B, 3)`."""


class ClevrSet:
    """Solids on the ground.

    Args:
        config: distribution of the scenes, of kind ``clevr-like``.

    Raises:
        EconError: an option means nothing in these scenes.
    """

    def __init__(self, config: SceneConfig) -> None:
        _check(config)
        default = config.classes == DEFAULT_CLASSES
        self.classes, self.size = SOLID_CLASSES if default else config.classes, config.size
        self._radii = [_WIDTH / 2 * fraction for fraction in config.object_size]
        self._fits = torch.stack([_whole(radius) for radius in self._radii])  # (2, G, G), [x, y]

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> ClevrLayout:
        """Layouts of scenes."""
        label, _, each = sample_objects(config, seed, indices)
        lamp = _lamps(further_bits(config, seed, indices, 2)[:, -1])
        large = counter_rng.below(each[..., SIDE], 2)
        radius = torch.tensor(self._radii, dtype=torch.float64, device=label.device)[large]
        place, label = self._places(each[..., PLACE.start], label, large, radius)
        cube = torch.tensor([name == "cube" for name in self.classes], device=label.device)
        turn = counter_rng.below(each[..., TURN], shapes.TURNS if config.rotate else 1)
        turn = turn * cube[label.clamp(min=0)]
        glossy = counter_rng.below(each[..., VARIANT], 2)
        albedo = torch.tensor(list(ALBEDOS.values()), device=label.device)
        own = albedo[counter_rng.below(each[..., COLOUR.start], len(ALBEDOS))]
        ground = torch.tensor(GROUND, device=label.device).expand(len(label), 3)
        colour = colours(config, ground, own, each[..., COLOUR])

        empty = label < 0
        high = torch.tensor([SOLIDS[name].half_height for name in self.classes])
        high = high.to(radius)[label.clamp(min=0)] * radius
        away = place[..., 1] + _DISTANCE * math.cos(_ELEVATION)
        power = place[..., 0] ** 2 + away**2 - radius**2
        order = torch.argsort(power.masked_fill(empty, torch.inf), dim=1, stable=True)
        centre, depth = self._projected(place, high)
        side = radius * (2 * self._units_per_tangent) / depth
        plain = {
            "label": label,
            "variant": 2 * large + glossy,
            "centre": centre,
            "side": side.round().long(),
            "turn": turn,
            "colour": colour,
            "place": place.float(),
            "radius": radius.float(),
            "glossy": glossy > 0,
        }
        blank = {"label": -1, "radius": 1.0}
        for name, values in plain.items():
            unused = empty.view(*empty.shape, *[1] * (values.ndim - 2))
            values = values.masked_fill(unused, blank.get(name, 0))
            plain[name] = values.gather(1, order.view_as(unused).expand_as(values))
        return ClevrLayout(**plain, background=ground, lamp=lamp)

    def draw(self, layout: ClevrLayout) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        b, n, size, device = *layout.label.shape, self.size, layout.label.device
        mask = torch.zeros(b, n, size, size, dtype=torch.bool, device=device)
        level = torch.zeros(b, 3, size, size, dtype=torch.int64, device=device)
        labels, windows = layout.label.tolist(), self._windows(layout).tolist()
        for i in range(b):
            names = [self.classes[label] for label in labels[i] if label >= 0]
            scene = _Scene(layout, i, names)
            mask[i, : len(names)], level[i] = scene.draw(size, windows[i])
        return mask, channel_values(device)[level]

    @property
    def _units_per_tangent(self) -> float:
        return self.size * shapes.UNIT / (2 * _TAN)

    def _projected(self, place: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        """Points in the image, in units from its top left corner, and their depths."""
        x, y, depth = _project(place[..., 0], place[..., 1], height)
        middle = self.size * shapes.UNIT / 2
        at = torch.stack([x, y], -1) * self._units_per_tangent + middle
        return at.round().long(), depth

    def _places(
        self, u: Tensor, label: Tensor, large: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Places, each uniform where the object is clear of those before it.

        An object for which there is no room is left out: its label becomes -1.
        """
        axes = [_axis(i).to(label.device) for i in (0, 1)]
        fits = self._fits.to(label.device)
        taken = torch.zeros(len(label), 2, _GRID, _GRID, dtype=torch.bool, device=label.device)
        places, labels = [], []
        for n in range(label.shape[1]):
            own = torch.arange(len(label), device=label.device), large[:, n]
            free = (fits[large[:, n]] & ~taken[own]).flatten(1)
            order = free.cumsum(1)  # 1 at the first free place
            wanted = counter_rng.below(u[:, n], order[:, -1]) + 1
            chosen = ((order == wanted[:, None]) & free).int().argmax(1)
            here = (label[:, n] >= 0) & (order[:, -1] > 0)
            labels.append(label[:, n].masked_fill(~here, -1))
            x, y = axes[0][chosen // _GRID], axes[1][chosen % _GRID]
            places.append(torch.stack([x, y], 1))
            apart = (axes[0] - x[:, None])[:, :, None] ** 2 + (axes[1] - y[:, None])[:, None] ** 2
            for size, other in enumerate(self._radii):
                least = (radius[:, n] + other + _GAP) ** 2
                near = apart < least[:, None, None]
                taken[:, size] |= near & here[:, None, None]
        if not places:
            return radius.new_zeros(*label.shape, 2), label
        return torch.stack(places, 1), torch.stack(labels, 1)

    def _windows(self, layout: ClevrLayout) -> Tensor:
        """Windows of the image that contain the objects, in pixels: ``(B, N, 4)``.

        Left, top, and the columns and rows behind the last ones.
        """
        x, y = layout.place.double().unbind(-1)
        box = torch.stack(_box(x, y, layout.radius.double()), -1)
        pixels = (box * (self.size / (2 * _TAN)) + self.size / 2).long()
        pixels += torch.tensor([-1, -1, 2, 2], device=pixels.device)
        return pixels.clamp(0, self.size)


class _Scene:
    """One scene.

    Args:
        layout: layouts of several scenes.
        i: which of them.
        names: classes of the objects.
    """

    def __init__(self, layout: ClevrLayout, i: int, names: list[str]) -> None:
        self._solids = [SOLIDS[name] for name in names]
        n, device = len(names), layout.label.device
        self._radius, self._glossy = layout.radius[i, :n], layout.glossy[i, :n]
        self._colour = torch.cat([layout.colour[i, :n], layout.background[i, None]])
        half = torch.tensor([solid.half_height for solid in self._solids], device=device)
        self._centre = torch.cat([layout.place[i, :n], (half * self._radius)[:, None]], 1)
        self._turn = [turns.to(device)[layout.turn[i, :n]] for turns in _turns()]
        self._lamp = layout.lamp[i]

    def draw(self, size: int, windows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Masks ``(n, H, W)`` bool and image ``(3, H, W)`` int64, 0 to 255."""
        device = self._radius.device
        camera = Vector(*(a.to(device) for a in _camera()))
        rays = Vector(*(a.to(device) for a in _rays(size)))  # (5, H, W)
        nearest, hit = -camera.z / rays.z, torch.full_like(rays.x, len(self._solids)).long()
        masks = torch.zeros(len(self._solids), size, size, dtype=torch.bool, device=device)
        parts = []
        for k, (left, top, right, bottom) in enumerate(windows[: len(self._solids)]):
            part = (slice(None), slice(top, bottom), slice(left, right))
            parts.append(part)
            near, far = self._interval(k, camera, Vector(*(a[part] for a in rays)))
            met = near < far
            masks[(k, *part[1:])] = met[-1]
            first = met & (near < nearest[part])
            nearest[part] = torch.where(first, near, nearest[part])
            hit[part] = torch.where(first, k, hit[part])

        rays, nearest, hit = Vector(*(a[:-1] for a in rays)), nearest[:-1], hit[:-1]
        point = camera.plus(rays.times(nearest))
        point = point._replace(z=point.z * (hit < len(self._solids)))
        lamp = self._points_of_the_lamp()
        to_lamp = lamp.minus(point)
        lit = self._lit(lamp, to_lamp.times(-1.0), hit)
        colour = self._shaded(
            hit, self._normals(hit, point, parts), to_lamp, rays.times(-1.0), lit
        )
        first, second, third, fourth = colour.unbind(1)
        mean = ((first + second) + (third + fourth)) * 0.25
        return masks, (mean.sqrt() * 255 + 0.5).long()

    def _interval(self, k: int, origin: Vector, rays: Vector) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave an object."""
        origin = self._turned(k, origin.minus(Vector(*self._centre[k])))
        return self._solids[k].interval(origin, self._turned(k, rays), self._radius[k])

    def _turned(self, k: int, vector: Vector, back: bool = False) -> Vector:
        """A vector as an object has it, or back; only cubes are turned."""
        if self._solids[k] is not SOLIDS["cube"]:
            return vector
        cos, sin = (a[k] for a in self._turn)
        return vector.turned(cos, -sin if back else sin)

    def _points_of_the_lamp(self) -> Vector:
        """A point of the lamp for each sample of a pixel, ``(4, 1, 1)`` each."""
        offset = torch.tensor(_SAMPLES[:-1], device=self._lamp.device) * (2 * _LAMP_SIZE)
        x, y = (self._lamp[i] + offset[:, i, None, None] for i in (0, 1))
        return Vector(x, y, self._lamp[2].expand_as(x))

    def _lit(self, lamp: Vector, rays: Vector, hit: Tensor) -> Tensor:
        """Whether rays from the lamp, which end at t = 1, meet no object before the one hit."""
        lit = torch.ones_like(hit, dtype=torch.bool)
        for k in range(len(self._solids)):
            near, far = self._interval(k, lamp, rays)
            lit &= ~((near < far) & (near < 1)) | (hit == k)
        return lit

    def _normals(self, hit: Tensor, point: Vector, parts: Sequence[tuple[slice, ...]]) -> Vector:
        """Normals of the surfaces that rays hit; each object is hit in its part of the image."""
        zero = torch.zeros_like(point.x)
        normal = Vector(zero, zero.clone(), zero + 1)
        for k, (solid, part) in enumerate(zip(self._solids, parts, strict=True)):
            there = Vector(*(a[part] for a in point)).minus(Vector(*self._centre[k]))
            own = solid.normal(self._turned(k, there.times(1 / self._radius[k])))
            here = hit[part] == k
            for whole, values in zip(normal, self._turned(k, own.unit(), True), strict=True):
                whole[part] = torch.where(here, values, whole[part])
        return normal

    def _shaded(
        self, hit: Tensor, normal: Vector, to_lamp: Vector, to_camera: Vector, lit: Tensor
    ) -> Tensor:
        """Colours in linear light, ``(3, 4, H, W)`` in [0, 1]."""
        x, y, z = _LAMP
        distance = to_lamp.dot(to_lamp)
        key = ((x * x + y * y + z * z) / distance).masked_fill(~lit, 0)
        lamp, to_camera = to_lamp.times(1 / distance.sqrt()), to_camera.unit()
        x, y, z = _SECOND_LAMP
        fill = normal.x * x + normal.y * y + normal.z * z
        light = normal.z * _SKY + _AMBIENT + fill.clamp_min(0) * _FILL
        towards = normal.dot(lamp)
        light = light + key * (towards + _WRAP).clamp_min(0) * (_KEY / (1 + _WRAP))
        level = self._colour * self._colour
        albedo = (level.float() * (1 / 255**2))[hit].permute(3, 0, 1, 2)
        out = albedo * light

        half = normal.dot(lamp.plus(to_camera).unit()).clamp_min(0)
        facing = normal.dot(to_camera).clamp(0, 1)
        up = 2 * facing * normal.z - to_camera.z  # height of the reflected direction
        rim = (1 - facing) * (1 - facing) * (1 - facing)
        mirrored = (_DIM + _BRIGHT * up.clamp(0, 1)) * (_MIRROR + (1 - _MIRROR) * rim)
        shine = key * (towards > 0) * _power(half, 6) * _GLOSS
        glossy = torch.cat([self._glossy, self._glossy.new_zeros(1)])[hit]
        gloss = out * _METAL + (albedo * _TINT + (1 - _TINT)) * mirrored + shine
        return torch.where(glossy, gloss, out).clamp(0, 1)


def _check(config: SceneConfig) -> None:
    if config.objects > MAX_SOLIDS:
        expected = f"at most {MAX_SOLIDS} objects in clevr-like scenes, for which there is room"
        raise EconError(expected, str(config.objects))
    if config.background != "grey":
        raise EconError(
            "a grey ground for clevr-like scenes",
            f"background {config.background}",
            "set the background to grey",
        )
    if config.object_size[1] > 0.4:
        raise EconError("clevr-like objects of up to 0.4 of the image", str(config.object_size[1]))
    if config.places is not None:
        expected = "clevr-like scenes without places"
        raise EconError(expected, str(config.places), "use another kind")


def _axis(i: int) -> Tensor:
    """Coordinates of the places along x or y."""
    return _FIRST[i] + _STEP * torch.arange(_GRID, dtype=torch.float64)


def _whole(radius: float) -> Tensor:
    """Places at which an object of a radius is wholly in the image, ``(G, G)`` bool."""
    at = torch.full((_GRID, _GRID), radius, dtype=torch.float64)
    left, top, right, bottom = _box(_axis(0)[:, None], _axis(1), at)
    return (torch.minimum(left, top) > -_TAN) & (torch.maximum(right, bottom) < _TAN)


def _box(x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, right and bottom of the boxes around objects in the image, as tangents."""
    corners = [
        _project(x + dx * radius, y + dy * radius, height * radius)
        for dx in (-1, 1) for dy in (-1, 1) for height in (0, 2)
    ]  # fmt: skip
    across, down = (torch.stack([corner[i] for corner in corners]) for i in (0, 1))
    return across.amin(0), down.amin(0), across.amax(0), down.amax(0)


def _project(x: Tensor, y: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates in the image as tangents, right and down from its centre, and the depth."""
    cos, sin = math.cos(_ELEVATION), math.sin(_ELEVATION)
    depth = _DISTANCE + cos * y - sin * height
    return x / depth, -(sin * y + cos * height) / depth, depth


@cache
def _camera() -> Vector:
    place = (0.0, -_DISTANCE * math.cos(_ELEVATION), _DISTANCE * math.sin(_ELEVATION))
    return Vector(*(torch.tensor(a) for a in place))


@cache
def _rays(size: int) -> Vector:
    """Directions of the rays, ``(5, H, W)`` each."""
    pixel = torch.arange(size, dtype=torch.float64) + 0.5
    cos, sin = math.cos(_ELEVATION), math.sin(_ELEVATION)
    parts = []
    for dx, dy in _SAMPLES:
        right, down = (((pixel + d) * (2 / size) - 1) * _TAN for d in (dx, dy))
        x, b = torch.broadcast_tensors(right, down[:, None])
        parts.append(torch.stack([x, cos - b * sin, -sin - b * cos]))
    return Vector(*torch.stack(parts, 1).float().unbind(0))


def _lamps(u: Tensor) -> Tensor:
    """Places of the lamps, ``(B, 3)``: turned by up to an eighth of a turn, and raised."""
    eighth = shapes.TURNS // 8
    turn = counter_rng.below(u[:, 0], 2 * eighth + 1) - eighth
    cos, sin = (a.to(u.device)[turn % shapes.TURNS] for a in _turns())
    x, y, z = _LAMP
    raised = z + counter_rng.below(u[:, 1], 257).float() * (2 / 256)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, raised], 1)


@cache
def _turns() -> tuple[Tensor, Tensor]:
    angles = [2 * math.pi * t / shapes.TURNS for t in range(shapes.TURNS)]
    return torch.tensor([math.cos(a) for a in angles]), torch.tensor([math.sin(a) for a in angles])


def _power(x: Tensor, doublings: int) -> Tensor:
    for _ in range(doublings):
        x = x * x
    return x
