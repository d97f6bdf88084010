"""Edits of scenes, as functions from a scene to a new scene, and samples of scenes and layers.

Layers are indexed from 0 at the front, as in :class:`~econ_pyro.io.scene_file.Scene`. Latents are
sampled from the prior N(0, I); the same seed gives the same sample.
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
"""Maximum size of an upload in bytes."""
MAX_SEED = 2**32 - 1
TRAVERSAL_VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Values of a latent in traversals, in standard deviations of the prior."""


class Composer(Protocol):
    """Interface of the models with which scenes can be edited: :class:`econ_pyro.econ.Econ`."""

    names: list[str]

    @property
    def sizes(self) -> EconConfig:
        """Configuration of the model and its networks."""

    def sample(self, n: int = 1, *, slots: int | None = None, seed: int | None = None) -> Any:
        """Samples of the prior with ``k``, ``(n, T)``, and ``z``, ``(n, T, L)``."""

    def render(self, scene: Scene) -> RenderedScene:
        """Render a scene."""


def read_upload(path: str | Path, size: int) -> Tensor:
    """Read an uploaded image, cropped to a square.

    Args:
        path: path of the file.
        size: height and width of the result in pixels.

    Returns:
        :math:`(1, 3, H, W)` float32 in [0, 1].

    Raises:
        EconError: the file is not a valid image, or is larger than
            :mod:`econ_pyro.data.image_header` allows. The message contains the name of the file,
            but not its folder, which visitors should not learn.
    """
    path = Path(path)
    try:
        image_header.check_size(untrusted.read_bytes(path, "a picture", MAX_BYTES), path.name)
        return read_image(path, size)[None]
    except EconError as error:
        got = error.got.replace(str(path), path.name)
        raise EconError(error.expected, got, error.hint) from error


def random_scene(econ: Composer, seed: int, layers: int | None = None) -> Scene:
    """Sample a scene, as ``sample.py --n 1`` does.

    Args:
        econ: the scene model.
        seed: seed from 0 to ``MAX_SEED``.
        layers: number of layers; as in training if not given.

    Raises:
        EconError: the seed is out of range.
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


def sample_layer(econ: Composer, expert: int, seed: int) -> Layer:
    """Sample a layer of an expert.

    Raises:
        EconError: the seed is out of range.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    z = torch.randn(econ.sizes.expert.latents.dim, generator=generator)
    return Layer(expert, tuple(z.tolist()))


def check_seed(seed: Any) -> int:
    """Check the seed in a form.

    Raises:
        EconError: the seed is not a whole number from 0 to ``MAX_SEED``.
    """
    if not isinstance(seed, int | float) or not 0 <= seed <= MAX_SEED:  # NaN fails too
        got = "none" if seed is None else f"{seed}"
        raise EconError(f"a seed from 0 to {MAX_SEED:,}", got)
    if seed != int(seed):
        raise EconError("a whole number as seed", f"{seed}")
    return int(seed)


def edit(scene: Scene, i: int, **changes: Any) -> Scene:
    """Change fields of layer i: ``edit(scene, 0, dx=3.0, visible=False)``."""
    layers = list(scene.layers)
    layers[i] = replace(layers[i], **changes)
    return replace(scene, layers=tuple(layers))


def set_latent(scene: Scene, i: int, latent: int, value: float) -> Scene:
    """Change one latent of layer i; the others stay bit-identical."""
    z = list(scene.layers[i].z)
    z[latent] = max(-MAX_VALUE, min(MAX_VALUE, value))
    return edit(scene, i, z=tuple(z))


def set_visible(scene: Scene, shown: Collection[int]) -> Scene:
    """Show the layers with the given indices and hide the others."""
    layers = (replace(layer, visible=i in shown) for i, layer in enumerate(scene.layers))
    return replace(scene, layers=tuple(layers))


def move(scene: Scene, i: int, by: int) -> tuple[Scene, int]:
    """Move layer i in depth.

    Args:
        scene: the scene.
        i: index of the layer.
        by: number of positions, negative to the front; clipped at the ends.

    Returns:
        The new scene and the new index of the layer.
    """
    layers = list(scene.layers)
    to = max(0, min(len(layers) - 1, i + by))
    layers.insert(to, layers.pop(i))
    return replace(scene, layers=tuple(layers)), to


def remove(scene: Scene, i: int) -> Scene:
    """Remove layer i.

    Raises:
        EconError: the scene has no other layer.
    """
    if len(scene.layers) == 1:
        raise EconError(
            "a scene with at least two layers", "one with a single layer", "hide it instead"
        )
    return replace(scene, layers=scene.layers[:i] + scene.layers[i + 1 :])


def add(scene: Scene, layer: Layer) -> Scene:
    """Add a layer in front.

    Raises:
        EconError: the scene has ``MAX_LAYERS`` layers.
    """
    if len(scene.layers) >= MAX_LAYERS:
        raise EconError(f"at most {MAX_LAYERS} layers", "one more", "remove one first")
    return replace(scene, layers=(layer, *scene.layers))


def replace_layer(econ: Composer, scene: Scene, i: int, expert: int, seed: int) -> Scene:
    """Replace layer i with a sample of an expert.

    The new object is placed at the position of the old one (centre of mass, rounded to pixels). A
    background layer stays a background.

    Args:
        econ: the scene model.
        scene: the scene.
        i: index of the layer.
        expert: index of the expert.
        seed: seed of the latents.

    Raises:
        EconError: the seed is out of range.
    """
    old, new = scene.layers[i], sample_layer(econ, expert, seed)
    if old.background:
        return edit(scene, i, expert=expert, z=new.z, dx=0.0, dy=0.0, visible=True)
    shape = econ.render(Scene(scene.size, (old, new))).shape[:, 0].double()  # (2, H, W)
    (x_old, y_old), (x_new, y_new) = (_centre(m) for m in shape)
    place = {"dx": float(round(x_old - x_new)), "dy": float(round(y_old - y_new))}
    return edit(scene, i, expert=expert, z=new.z, visible=True, **place)


def expert_samples(econ: Composer, n: int, seed: int) -> Tensor:
    """Sample each expert, with the same latents for all (Fig. 6).

    Args:
        econ: the scene model.
        n: number of samples per expert.
        seed: seed of the first sample; it is incremented for each further sample.

    Returns:
        ``(K, n, 4, H, W)`` in [0, 1]: appearance, and shape as alpha.

    Raises:
        EconError: a seed is out of range.
    """
    experts = range(econ.sizes.num_experts)
    layers = [sample_layer(econ, k, seed + i) for k in experts for i in range(n)]
    return _pictures(econ, layers).unflatten(0, (len(experts), n))


def traverse(econ: Composer, layer: Layer, values: Sequence[float] = TRAVERSAL_VALUES) -> Tensor:
    """Vary each latent of a layer over the given values.

    Returns:
        ``(L, n, 4, H, W)`` in [0, 1], as :func:`expert_samples`.
    """
    layers = []
    for latent in range(len(layer.z)):
        for value in values:
            z = (*layer.z[:latent], value, *layer.z[latent + 1 :])
            layers.append(replace(layer, z=z))
    return _pictures(econ, layers).unflatten(0, (len(layer.z), len(values)))


def as_file(econ: Composer, scene: Scene, name: str) -> tuple[bytes, str]:
    """Convert a scene to a file.

    Args:
        econ: the scene model.
        scene: the scene.
        name: name of the file; its suffix determines the format: ``.png`` (image), ``.ora``
            (layers) or ``.json`` (for ``sample.py --from``).

    Returns:
        Content and MIME type.
    """
    suffix = Path(name).suffix
    if suffix == ".json":
        return (json.dumps(to_json(scene), indent=2) + "\n").encode(), "application/json"
    rendered = econ.render(scene)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        layers = raster_layers(scene, rendered, econ.names)
        if suffix == ".ora":
            write_ora(path, layers, scene.size, scene.size)
            return path.read_bytes(), MIMETYPE
        write_pixels(path, flatten(layers, scene.size))
        return path.read_bytes(), "image/png"


def _pictures(econ: Composer, layers: Sequence[Layer]) -> Tensor:
    return econ.render(Scene(econ.sizes.size, tuple(layers))).layers


def _centre(shape: Tensor) -> tuple[float, float]:
    """Centre of mass (x, y) in pixels; the centre of the image for an empty shape."""
    height, width = shape.shape
    if float(shape.sum()) < 1:
        return (width - 1) / 2, (height - 1) / 2
    share = shape / shape.sum()
    x = share.sum(0) @ torch.arange(width, dtype=share.dtype)
    y = share.sum(1) @ torch.arange(height, dtype=share.dtype)
    return float(x), float(y)
