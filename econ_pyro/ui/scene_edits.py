"""What the page does to scenes, without the page: every function takes a scene and gives another.

Layers are counted from 0 at the front, as in :class:`~econ_pyro.io.scene_file.Scene`. New latents
are drawn from the prior N(0, I) with a seed of their own: the same seed gives the same sample.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from econ_pyro.data import image_header
from econ_pyro.data.images import read_image
from econ_pyro.errors import EconError
from econ_pyro.files import untrusted
from econ_pyro.io.layer_files import flatten, raster_layers, write_pixels
from econ_pyro.io.openraster import MIMETYPE, write_ora
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import MAX_LAYERS, MAX_VALUE, Layer, Scene, to_json
from econ_pyro.model_config import EconConfig

MAX_BYTES = 10_000_000
"""Of an upload."""
MAX_SEED = 2**32 - 1
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Values of a traversed latent, in standard deviations of the prior."""


class Composer(Protocol):
    """What composing needs of :class:`econ_pyro.econ.Econ`."""

    names: list[str]

    @property
    def sizes(self) -> EconConfig:
        """Sizes of the model and its networks."""

    def sample(self, n: int = 1, *, slots: int | None = None, seed: int | None = None) -> Any:
        """Scenes of the prior with ``k``, ``(n, T)``, and ``z``, ``(n, T, L)``."""

    def render(self, scene: Scene) -> RenderedScene:
        """Paint a scene."""


def read_upload(path: str | Path, size: int) -> Tensor:
    """The picture that a visitor dropped, cropped to the model's square.

    Args:
        path: of the file.
        size: height and width of the result in pixels.

    Returns:
        :math:`(1, 3, H, W)` float32 in [0, 1].

    Raises:
        EconError: it is no picture that can be read, or is larger than
            :mod:`econ_pyro.data.image_header` allows. The message has the file's name, not its
            folder, which is none of the visitor's business.
    """
    path = Path(path)
    try:
        image_header.check_size(untrusted.read_bytes(path, "a picture", MAX_BYTES), path.name)
        return read_image(path, size)[None]
    except EconError as error:
        got = error.got.replace(str(path), path.name)
        raise EconError(error.expected, got, error.hint) from error


def random_scene(econ: Composer, seed: int, layers: int | None = None) -> Scene:
    """The scene that ``sample.py --n 1`` paints of a seed, to be edited.

    Args:
        econ: the experts.
        seed: from 0 to ``MAX_SEED``.
        layers: how many; as in training if not given.

    Raises:
        EconError: the seed is outside that range.
    """
    canvas = econ.sample(1, slots=layers, seed=check_seed(seed))
    k, z = canvas.k[0].tolist(), canvas.z[0].tolist()
    last = len(k) - 1
    return Scene(
        econ.sizes.size,
        tuple(
            Layer(e, tuple(v), background=i == last)
            for i, (e, v) in enumerate(zip(k, z, strict=True))
        ),
    )


def fresh(econ: Composer, expert: int, seed: int) -> Layer:
    """A sample of an expert.

    Raises:
        EconError: the seed is outside 0 to ``MAX_SEED``.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    z = torch.randn(econ.sizes.expert.latents.dim, generator=generator)
    return Layer(expert, tuple(z.tolist()))


def check_seed(seed: Any) -> int:
    """A seed that a visitor typed.

    Raises:
        EconError: it is not a whole number from 0 to ``MAX_SEED``.
    """
    if not isinstance(seed, int | float) or not 0 <= seed <= MAX_SEED:  # NaN fails too
        got = "none" if seed is None else f"{seed}"
        raise EconError(f"a seed from 0 to {MAX_SEED:,}", got)
    if seed != int(seed):
        raise EconError("a whole number as seed", f"{seed}")
    return int(seed)


def edit(scene: Scene, i: int, **changes: Any) -> Scene:
    """Layer i with other fields: ``edit(scene, 0, dx=3.0, visible=False)``."""
    layers = list(scene.layers)
    layers[i] = replace(layers[i], **changes)
    return replace(scene, layers=tuple(layers))


def turn(scene: Scene, i: int, latent: int, value: float) -> Scene:
    """Layer i with another value of one latent; the others stay to the last bit."""
    z = list(scene.layers[i].z)
    z[latent] = max(-MAX_VALUE, min(MAX_VALUE, value))
    return edit(scene, i, z=tuple(z))


def show(scene: Scene, shown: Collection[int]) -> Scene:
    """Show these layers and hide the others."""
    layers = (replace(layer, visible=i in shown) for i, layer in enumerate(scene.layers))
    return replace(scene, layers=tuple(layers))


def move(scene: Scene, i: int, by: int) -> tuple[Scene, int]:
    """Move layer i in depth.

    Args:
        scene: to reorder.
        i: the layer.
        by: places; to the front if negative. It stops at the ends.

    Returns:
        The scene, and where the layer is now.
    """
    layers = list(scene.layers)
    to = max(0, min(len(layers) - 1, i + by))
    layers.insert(to, layers.pop(i))
    return replace(scene, layers=tuple(layers)), to


def remove(scene: Scene, i: int) -> Scene:
    """The scene without layer i.

    Raises:
        EconError: it is the last one.
    """
    if len(scene.layers) == 1:
        raise EconError("a scene that keeps a layer", "its last one to remove", "hide it instead")
    return replace(scene, layers=scene.layers[:i] + scene.layers[i + 1 :])


def add(scene: Scene, layer: Layer) -> Scene:
    """The scene with one layer more, in front.

    Raises:
        EconError: there are ``MAX_LAYERS`` already.
    """
    if len(scene.layers) >= MAX_LAYERS:
        raise EconError(f"at most {MAX_LAYERS} layers", "one more", "remove one first")
    return replace(scene, layers=(layer, *scene.layers))


def swap(econ: Composer, scene: Scene, i: int, expert: int, seed: int) -> Scene:
    """Put a sample of an expert in the place of layer i.

    An object comes to lie where the old one was (centres of mass, to whole pixels); a background
    stays one.

    Args:
        econ: the experts.
        scene: to change.
        i: the layer.
        expert: that draws the new one.
        seed: of its latents.

    Raises:
        EconError: the seed is outside 0 to ``MAX_SEED``.
    """
    old, new = scene.layers[i], fresh(econ, expert, seed)
    if old.background:
        return edit(scene, i, expert=expert, z=new.z, dx=0.0, dy=0.0, visible=True)
    shape = econ.render(Scene(scene.size, (old, new))).shape[:, 0].double()  # (2, H, W)
    (x_old, y_old), (x_new, y_new) = (_centre(m) for m in shape)
    place = {"dx": float(round(x_old - x_new)), "dy": float(round(y_old - y_new))}
    return edit(scene, i, expert=expert, z=new.z, visible=True, **place)


def wall(econ: Composer, n: int, seed: int) -> Tensor:
    """Samples of each expert (Fig. 6), the same latents for all.

    Args:
        econ: the experts.
        n: samples an expert.
        seed: of the first; the next ones count up.

    Returns:
        ``(K, n, 4, H, W)`` in [0, 1]: appearance, and shape as alpha.

    Raises:
        EconError: a seed is outside 0 to ``MAX_SEED``.
    """
    experts = range(econ.sizes.num_experts)
    layers = [fresh(econ, k, seed + i) for k in experts for i in range(n)]
    return _pictures(econ, layers).unflatten(0, (len(experts), n))


def traverse(econ: Composer, layer: Layer, steps: Sequence[float] = STEPS) -> Tensor:
    """A layer with one latent after another at each of the values.

    Returns:
        ``(L, n, 4, H, W)`` in [0, 1], as :func:`wall`.
    """
    layers = []
    for latent in range(len(layer.z)):
        for value in steps:
            z = (*layer.z[:latent], value, *layer.z[latent + 1 :])
            layers.append(replace(layer, z=z))
    return _pictures(econ, layers).unflatten(0, (len(layer.z), len(steps)))


def as_file(econ: Composer, scene: Scene, name: str) -> tuple[bytes, str]:
    """A scene as a file to download.

    Args:
        econ: the experts.
        scene: to write.
        name: of the file; its ending says what is meant: ``.png`` (the picture), ``.ora`` (its
            layers) or ``.json`` (for ``sample.py --from``).

    Returns:
        Content and MIME type.
    """
    ending = Path(name).suffix
    if ending == ".json":
        return (json.dumps(to_json(scene), indent=2) + "\n").encode(), "application/json"
    rendered = econ.render(scene)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        layers = raster_layers(scene, rendered, econ.names)
        if ending == ".ora":
            write_ora(path, layers, scene.size, scene.size)
            return path.read_bytes(), MIMETYPE
        write_pixels(path, flatten(layers, scene.size))
        return path.read_bytes(), "image/png"


def _pictures(econ: Composer, layers: Sequence[Layer]) -> Tensor:
    return econ.render(Scene(econ.sizes.size, tuple(layers))).layers


def _centre(shape: Tensor) -> tuple[float, float]:
    """Centre of mass (x, y) in pixels; the middle where there is next to nothing."""
    height, width = shape.shape
    if float(shape.sum()) < 1:
        return (width - 1) / 2, (height - 1) / 2
    share = shape / shape.sum()
    x = share.sum(0) @ torch.arange(width, dtype=share.dtype)
    y = share.sum(1) @ torch.arange(height, dtype=share.dtype)
    return float(x), float(y)
