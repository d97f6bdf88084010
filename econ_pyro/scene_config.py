"""Configuration of generated scenes. Docstrings of fields are the texts of ``--help``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from econ_pyro import limits
from econ_pyro.errors import EconError

SHAPES = ("circle", "square", "triangle", "heart", "star", "cross", "ellipse")
DEFAULT_CLASSES = ("circle", "square", "triangle")
TETROMINOES = ("I", "O", "T", "S", "Z", "J", "L")
SOLID_CLASSES = ("sphere", "cube", "cylinder")
TETROMINO_SIZES = (32, 40)
"""Image sizes of tetrominoes: the centre of their frame of 35 pixels, or all of it."""
MAX_OBJECTS = 8
"""Maximum number of objects in a scene."""
MAX_TETROMINOES = 5
"""Maximum number of tetrominoes in a scene; there is seldom room for more."""
_WITHOUT_SPRITES = ("tetrominoes", "textured", "clevr-like")
MIN_SIDE = 3
"""Minimum side of an object in pixels, at which every shape covers at least one pixel centre."""


@dataclass(frozen=True)
class SceneConfig:
    """Configuration of the renderer (appendix C.1)."""

    kind: Literal[
        "unique-colours", "random-colours", "multi-dsprites", "multi-dsprites-coloured",
        "tetrominoes", "textured", "clevr-like",
    ] = "unique-colours"  # fmt: skip
    """Colours of objects. unique-colours: circles are red, squares green, triangles blue, and each
    further class has its own saturated colour; random-colours: each channel is a random integer
    from 128 to 255; multi-dsprites: hue, saturation and value are uniform;
    multi-dsprites-coloured: red, green and blue are uniform; tetrominoes: pieces of four bevelled
    blocks that never overlap, each red, green, blue, yellow, magenta or cyan; textured: stripes,
    checkers or smooth noise of two colours on each object and on the background; clevr-like:
    shaded solids of eight colours on a grey ground, matt or glossy. Sprites keep their colours
    with unique-colours; otherwise they are tinted so that such a colour is their mean."""
    sprites: str | None = None
    """Folder of PNG files with transparent backgrounds, which replace the shapes. Each file or
    subfolder is a class."""
    backgrounds: str | None = None
    """Folder of PNG, JPEG, GIF or WebP files, of which sprites have a random part as background;
    small ones are repeated."""
    size: int = 32
    """Height and width of images in pixels: a multiple of 8, at most 1024."""
    objects: int = 3
    """Number of objects per scene, 0 to 8; the maximum if min_objects is set."""
    min_objects: int | None = None
    """Minimum number of objects; if set, the number is uniform from min_objects to objects."""
    classes: tuple[str, ...] = DEFAULT_CLASSES
    """Classes of object; default for sprites: all in the folder; for clevr-like: sphere, cube,
    cylinder."""
    class_weights: tuple[float, ...] | None = None
    """Relative probabilities of randomly drawn classes; default: uniform. Not used if one-of-each
    selects distinct classes because there are fewer objects than classes."""
    selection: Literal["one-of-each", "random", "same"] = "one-of-each"
    """one-of-each: each class once in random depth order, further objects at random; random:
    each class independently; same: one class for all objects of a scene."""
    object_size: tuple[float, float] = (0.375, 0.375)
    """Minimum and maximum side of an object's bounding box before rotation, as a fraction of the
    image; for clevr-like the two diameters, in the middle of the image."""
    rotate: bool = False
    """Rotate each object by a random angle about the centre of its bounding box; tetrominoes by
    quarter turns, cubes of clevr-like about the vertical axis."""
    background: Literal["dark", "grey", "any", "black"] = "dark"
    """Colour of the background of a scene. dark: each channel is a random integer up to 127; grey:
    any shade of grey, for clevr-like one shade; any: any colour."""
    places: int | None = None
    """If set, objects are at that many positions along each axis (2 to 1024), evenly spaced from
    edge to edge; default: anywhere. Not for tetrominoes."""
    near_background: int | None = None
    """If set, each channel of an object is uniform within this distance (1-255) of that of the
    background, whatever the kind; no object has exactly the colour of the background."""

    def __post_init__(self) -> None:
        limits.check_fields(SceneConfig, self, "scenes", {})
        if self.size <= 0 or self.size % 8 or self.size > 1024:
            raise EconError(
                "an image size that is a positive multiple of 8 up to 1024",
                str(self.size),
                f"try {min(1024, max(8, 8 * round(self.size / 8)))}",
            )
        if not 0 <= self.objects <= MAX_OBJECTS:
            raise EconError(f"0 to {MAX_OBJECTS} objects", str(self.objects))
        if self.min_objects is not None and not 0 <= self.min_objects <= self.objects:
            raise EconError(
                f"min_objects from 0 to objects, which is {self.objects}", str(self.min_objects)
            )
        self._check_classes()
        self._check_sizes()
        if self.sprites is not None and self.kind in _WITHOUT_SPRITES:
            raise EconError(f"{self.kind} without sprites", self.sprites, "use another kind")
        if self.backgrounds is not None and self.sprites is None:
            raise EconError("sprites, in front of backgrounds", "none", "set sprites to a folder")
        if self.kind == "tetrominoes":
            self._check_tetrominoes()
        if self.places is not None and not 2 <= self.places <= 1024:
            raise EconError("places from 2 to 1024", str(self.places), "omit it for any position")
        if self.near_background is not None and not 1 <= self.near_background <= 255:
            raise EconError(
                "near_background from 1 to 255",
                str(self.near_background),
                "omit it for colours that do not depend on the background",
            )

    def _check_classes(self) -> None:
        own = {"tetrominoes": TETROMINOES, "clevr-like": SOLID_CLASSES}
        known = own.get(self.kind, SHAPES)
        default = known is SOLID_CLASSES and self.classes == DEFAULT_CLASSES
        unknown = [] if default else [name for name in self.classes if name not in known]
        if unknown and self.sprites is None:
            hint = f"the preset {self.kind} sets them" if known is TETROMINOES else ""
            raise EconError(f"classes among {', '.join(known)}", repr(unknown[0]), hint)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise EconError(
                "at least one class, and each only once",
                repr(" ".join(self.classes)),
                "use class_weights to make a class more frequent",
            )
        weights = self.class_weights
        # checked again when the sprites are opened and their classes are known
        unknown_classes = self.sprites is not None and self.classes == DEFAULT_CLASSES
        if weights is None or unknown_classes:
            return
        if len(weights) != len(self.classes):
            raise EconError(
                f"one class weight for each of the {len(self.classes)} classes",
                f"{len(weights)} weights",
                "give as many --class-weights as --classes",
            )
        if not all(0 <= w < math.inf for w in weights) or not 0 < sum(weights) < math.inf:
            raise EconError(
                "class weights that are finite, not negative and not all 0",
                " ".join(str(w) for w in weights),
            )

    def _check_sizes(self) -> None:
        low, high = self.object_size
        if not 0 < low <= high <= 1:
            raise EconError(
                "object_size as minimum and maximum fraction of the image, in (0, 1]",
                f"{low} {high}",
            )
        if low * self.size < MIN_SIDE:
            raise EconError(
                f"objects of at least {MIN_SIDE} pixels",
                f"{low} * {self.size} = {low * self.size:g} pixels",
                f"raise object_size to {MIN_SIDE / self.size:g} or more, or the image size",
            )
        if self.rotate and high > 0.7:
            raise EconError(
                "object_size up to 0.7 with rotate, so that the corners stay in the image",
                str(high),
            )

    def _check_tetrominoes(self) -> None:
        if self.places is not None:
            raise EconError("tetrominoes without places", str(self.places), "use another kind")
        if self.size not in TETROMINO_SIZES:
            raise EconError(
                "an image size of 32 or 40 pixels for tetrominoes",
                str(self.size),
                "40 shows the whole frame of 35 pixels, 32 its centre",
            )
        if self.objects > MAX_TETROMINOES:
            expected = f"at most {MAX_TETROMINOES} tetrominoes, for which there is room"
            raise EconError(expected, str(self.objects))


_SPRITES = SceneConfig(
    kind="multi-dsprites",
    size=64,
    objects=5,
    min_objects=2,
    classes=("square", "ellipse", "heart"),
    selection="random",
    object_size=(9 / 64, 18 / 64),
    rotate=True,
    background="grey",
)
SCENE_SETS = {
    "unique-colours": SceneConfig(),
    "random-colours": SceneConfig(kind="random-colours"),
    "multi-dsprites": _SPRITES,
    "multi-dsprites-coloured": replace(
        _SPRITES, kind="multi-dsprites-coloured", objects=4, min_objects=1, background="any"
    ),
    "tetrominoes": SceneConfig(
        kind="tetrominoes",
        size=40,
        classes=TETROMINOES,
        class_weights=(2.0, 1.0, 4.0, 2.0, 2.0, 4.0, 4.0),  # orientations of each
        selection="random",
        rotate=True,
        background="black",
    ),
    "textured": SceneConfig(kind="textured", background="any"),
    "clevr-like": SceneConfig(
        kind="clevr-like",
        size=64,
        objects=6,
        min_objects=3,
        classes=SOLID_CLASSES,
        selection="random",
        object_size=(0.125, 0.22),
        rotate=True,
        background="grey",
    ),
}
"""The usual scenes of each kind.

multi-dsprites and tetrominoes re-create google-deepmind/multi_object_datasets: sprites on grey,
sprites on colour, and pieces of tetris. Their sizes are measured from that project's images.
"""
