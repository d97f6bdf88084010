"""Dataset folders: scenes with ground truth as plain numpy arrays, written once and memory-mapped.

::

    OUT/dataset.json        format, configuration, seed, numbers of scenes, versions
    OUT/train, OUT/valid    image.npy       (n, H, W, 3)      uint8
                            label.npy       (n, N)            int8, -1 = no object
                            colour.npy      (n, N, 3)         uint8
                            background.npy  (n, 3)            uint8
                            position.npy    (n, N, 2)         float32, pixels (x, y)
                            side.npy        (n, N)            float32, pixels
                            angle.npy       (n, N)            float32, radians
                            mask.npy        (n, N, H, W / 8)  uint8, np.packbits on last axis
                            region.npy      (n, N, H, W / 8)  the same

The slots N are in depth order, front to back, as in :class:`econ_pyro.scenes.Scenes`. The scenes
are those that ``GeneratedScenes`` draws of the same configuration and seed, bit for bit.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from econ_pyro._version import __version__
from econ_pyro.errors import EconError
from econ_pyro.parallel import each, used_cores
from econ_pyro.scene_config import SceneConfig
from econ_pyro.scenes import SceneRenderer, Scenes

FORMAT = 1
"""Version of the layout of a dataset folder."""
ABOUT = "dataset.json"
"""Name of the file that tells a dataset folder from others."""
VALID_OFFSET = 1 << 31
"""Index of the first validation scene of a seed; training scenes are those below."""
SPLITS = {"train": 0, "valid": VALID_OFFSET}
"""Parts of a dataset and the index of the first scene of each."""
_CHUNK = 500
_PACKED = ("mask", "region")
_DTYPES = {
    "image": "|u1", "label": "|i1", "colour": "|u1", "background": "|u1", "position": "<f4",
    "side": "<f4", "angle": "<f4", "mask": "|u1", "region": "|u1",
}  # fmt: skip


def is_dataset(path: Path) -> bool:
    """Whether a folder was written by :func:`write_dataset`."""
    return (path / ABOUT).is_file()


def write_dataset(
    out: Path,
    config: SceneConfig,
    seed: int,
    n: int,
    n_valid: int,
    progress: Callable[[int], object] = lambda written: None,
) -> None:
    """Write a dataset into an empty folder.

    Args:
        out: the folder. ``cli.staged`` makes one that disappears on an error.
        config: what the scenes look like.
        seed: seed of the scenes.
        n: number of training scenes.
        n_valid: number of validation scenes.
        progress: called with the number of scenes just written.

    Raises:
        EconError: a number of scenes is not positive.
        OSError: no room, no permission.
    """
    for name, number in (("n", n), ("n_valid", n_valid)):
        if not 1 <= number < VALID_OFFSET:
            raise EconError(f"{name} of at least 1 and below 2^31", str(number))
    renderer = SceneRenderer(config, seed)
    for split, number in (("train", n), ("valid", n_valid)):
        _write_split(out / split, renderer, SPLITS[split], number, progress)
    about = {
        "format": FORMAT,
        "config": asdict(renderer.config),
        "seed": seed,
        "train": n,
        "valid": n_valid,
        "versions": {
            "econ_pyro": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    (out / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def _write_split(
    folder: Path, renderer: SceneRenderer, first: int, n: int, progress: Callable[[int], object]
) -> None:
    folder.mkdir()
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.npy", "wb")) for name in _DTYPES}
        for start, arrays in _rendered(renderer, first, n):
            for name, array in arrays.items():
                if start == 0:
                    header = {
                        "descr": _DTYPES[name],
                        "fortran_order": False,
                        "shape": (n, *array.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(files[name], header)
                # Written, not memory-mapped: on a full disk a write fails with an error that can
                # be told, a map kills the process.
                files[name].write(array.tobytes())
            progress(len(arrays["image"]))


def _rendered(
    renderer: SceneRenderer, first: int, n: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Number of the first scene, from 0, and arrays of one chunk after another."""

    def render(start: int) -> tuple[int, dict[str, np.ndarray]]:
        stop = min(start + _CHUNK, n)
        return start, _pack(renderer.render(torch.arange(first + start, first + stop)))

    together = _CHUNK * used_cores()
    for begin in range(0, n, together):
        yield from each(render, range(begin, min(begin + together, n), _CHUNK))


def _pack(scenes: Scenes) -> dict[str, np.ndarray]:
    arrays = {name: getattr(scenes, name).numpy() for name in _DTYPES}
    arrays["image"] = (scenes.image.permute(0, 2, 3, 1) * 255).round().numpy()
    for name in _PACKED:
        arrays[name] = np.packbits(arrays[name], axis=-1)
    return {name: array.astype(_DTYPES[name]) for name, array in arrays.items()}


class StoredScenes:
    """One part of a dataset folder, read from disk as needed.

    Args:
        path: the dataset folder.
        split: ``train`` or ``valid``.

    Raises:
        EconError: the folder is no dataset, of another format, or incomplete.
    """

    def __init__(self, path: Path | str, split: str = "train") -> None:
        path = Path(path)
        if split not in SPLITS:
            raise EconError("a split called train or valid", repr(split))
        about = _read_about(path)
        self.config: dict[str, Any] = about["config"]
        self.seed: int = about["seed"]
        self.size: int = about["config"]["size"]
        self.classes: tuple[str, ...] = tuple(about["config"]["classes"])
        self._n: int = about[split]
        self._arrays = {name: self._open(path / split / f"{name}.npy") for name in _DTYPES}

    def _open(self, path: Path) -> np.ndarray:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except PermissionError:
            raise
        except (OSError, ValueError, EOFError) as error:
            reason = "which is missing" if not path.exists() else "which is damaged"
            raise EconError(
                "a complete dataset folder", f"{path}, {reason}", "make the dataset again"
            ) from error
        if len(array) != self._n:
            raise EconError(
                f"{self._n} scenes in {path}, as {ABOUT} says", str(len(array)),
                "make the dataset again",
            )  # fmt: skip
        return array

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return _to_float(self._arrays["image"][indices.numpy()])

    def scenes(self, indices: Tensor) -> Scenes:
        """Images with ground truth."""
        arrays = {name: array[indices.numpy()] for name, array in self._arrays.items()}
        for name in _PACKED:
            arrays[name] = np.unpackbits(arrays[name], axis=-1).view(bool)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        tensors["image"] = _to_float(arrays["image"])
        tensors["label"] = tensors["label"].long()
        return Scenes(**tensors)


def _read_about(path: Path) -> dict[str, Any]:
    if not is_dataset(path):
        raise EconError(f"a dataset folder, with a {ABOUT}", str(path), "see make_dataset")
    try:
        about: dict[str, Any] = json.loads((path / ABOUT).read_text())
        version, config = about["format"], about["config"]
        numbers = (about["seed"], about["train"], about["valid"], config["size"])
        sound = all(isinstance(number, int) for number in numbers)
        sound = sound and isinstance(config["classes"], list)
    except (ValueError, KeyError, TypeError):
        version, sound = FORMAT, False
    if version != FORMAT:
        raise EconError(
            f"a dataset of format {FORMAT}",
            f"{path}, of format {version}",
            "make the dataset again",
        )
    if not sound:
        raise EconError("a readable dataset description", f"{path / ABOUT}, which is damaged")
    return about


def _to_float(image: np.ndarray) -> Tensor:
    nchw = torch.from_numpy(image).permute(0, 3, 1, 2)
    return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
