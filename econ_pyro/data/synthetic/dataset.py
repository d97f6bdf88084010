"""Dataset folders: scenes with ground truth in memory-mapped NumPy arrays.

::

    OUT/dataset.json        format, configuration, seed, number of scenes, versions
    OUT/train, OUT/valid    image.npy       (n, H, W, 3)      uint8
                            label.npy       (n, N)            int8, -1 = no object
                            colour.npy      (n, N, 3)         uint8
                            background.npy  (n, 3)            uint8
                            position.npy    (n, N, 2)         float32, pixels (x, y)
                            side.npy        (n, N)            float32, pixels
                            angle.npy       (n, N)            float32, radians
                            mask.npy        (n, N, H, W / 8)  uint8, np.packbits on last axis
                            region.npy      (n, N, H, W / 8)  uint8, np.packbits on last axis

The N slots are in depth order, front to back, as in
:class:`econ_pyro.data.synthetic.renderer.Scenes`. The scenes are bit-identical to those of
``GeneratedScenes`` with the same configuration and seed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from econ_pyro._version import __version__
from econ_pyro.accel.cpu_cores import parallel_map, used_cores
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.errors import EconError
from econ_pyro.files.npy import map_npy
from econ_pyro.files.untrusted import read_json
from econ_pyro.scene_config import MAX_OBJECTS, SceneConfig

FORMAT = 1
"""Version of the format of dataset folders."""
DESCRIPTION = "dataset.json"
"""Name of the file that identifies a dataset folder."""
VALID_OFFSET = 1 << 31
"""Index of the first validation scene of a seed; training scenes have lower indices."""
SPLITS = {"train": 0, "valid": VALID_OFFSET}
"""Splits of a dataset, with the index of the first scene."""
_CHUNK = 500
_AGAIN = "make the dataset again"
_MAX_DESCRIPTION = 1 << 20  # bytes
_MAX_CLASSES = 127  # labels are signed bytes
_PACKED = ("mask", "region")
_DTYPES = {
    "image": "|u1", "label": "|i1", "colour": "|u1", "background": "|u1", "position": "<f4",
    "side": "<f4", "angle": "<f4", "mask": "|u1", "region": "|u1",
}  # fmt: skip


def is_dataset(path: Path) -> bool:
    """Whether a folder was written by :func:`write_dataset`."""
    return (path / DESCRIPTION).is_file()


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
        out: the folder, for example from ``outputs.atomic_folder``.
        config: distribution of the scenes.
        seed: seed of the scenes.
        n: number of training scenes.
        n_valid: number of validation scenes.
        progress: called with the number of scenes just written.

    Raises:
        EconError: a number of scenes is out of range.
        OSError: the disk is full, or the folder is not writable.
    """
    for name, number in (("n", n), ("n_valid", n_valid)):
        if not 1 <= number < VALID_OFFSET:
            raise EconError(f"{name} of at least 1 and below 2^31", str(number))
    renderer = SceneRenderer(config, seed)
    for split, number in (("train", n), ("valid", n_valid)):
        _write_split(out / split, renderer, SPLITS[split], number, progress)
    description = {
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
    (out / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


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
                # not memory-mapped: on a full disk, a write raises OSError, but a store to a map
                # kills the process
                files[name].write(array.tobytes())
            progress(len(arrays["image"]))


def _rendered(
    renderer: SceneRenderer, first: int, n: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Iterate over chunks: index of the first scene, and arrays."""

    def render(start: int) -> tuple[int, dict[str, np.ndarray]]:
        stop = min(start + _CHUNK, n)
        return start, _pack(renderer.render(torch.arange(first + start, first + stop)))

    batch = _CHUNK * used_cores()
    for begin in range(0, n, batch):
        yield from parallel_map(render, range(begin, min(begin + batch, n), _CHUNK))


def _pack(scenes: Scenes) -> dict[str, np.ndarray]:
    arrays = {name: getattr(scenes, name).numpy() for name in _DTYPES}
    arrays["image"] = (scenes.image.permute(0, 2, 3, 1) * 255).round().numpy()
    for name in _PACKED:
        arrays[name] = np.packbits(arrays[name], axis=-1)
    return {name: array.astype(_DTYPES[name]) for name, array in arrays.items()}


class StoredScenes:
    """A split of a dataset folder, read from disk on demand.

    Args:
        path: the dataset folder.
        split: ``train`` or ``valid``.

    Raises:
        EconError: the folder is not a dataset, has another format or is incomplete, or the type,
            shape or values of an array are invalid.
    """

    def __init__(self, path: Path | str, split: str = "train") -> None:
        path = Path(path)
        if split not in SPLITS:
            raise EconError("a split called train or valid", repr(split))
        description = _read_description(path)
        self.config: dict[str, Any] = description["config"]
        self.seed: int = description["seed"]
        self.size: int = description["config"]["size"]
        self.classes: tuple[str, ...] = tuple(description["config"]["classes"])
        self._n: int = description[split]
        self._folder = path / split
        self._arrays = {name: self._open(name) for name in _DTYPES}
        self._check()

    def _open(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        try:
            array = map_npy(path, "a complete dataset folder")
        except EconError as error:
            raise EconError(error.expected, error.got, _AGAIN) from error
        dtype = np.dtype(_DTYPES[name])
        if array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            raise EconError(f"{dtype.name} in {path}", array.dtype.name, _AGAIN)
        if array.shape[:1] != (self._n,):
            expected = f"{self._n} scenes in {path}, as {DESCRIPTION} says"
            raise EconError(expected, str((*array.shape, 0)[0]), _AGAIN)
        return array

    def _check(self) -> None:
        """Check shapes, and the values of small arrays; large arrays may contain any bytes."""
        label, size = self._arrays["label"], self.size
        if label.ndim != 2 or label.shape[1] > MAX_OBJECTS:
            expected = f"label of shape ({self._n}, N), with N of at most {MAX_OBJECTS},"
            self._invalid("label", expected, str(label.shape))
        slots = label.shape[1]
        packed = (slots, size, size // 8)
        shapes = {
            "image": (size, size, 3), "label": (slots,), "colour": (slots, 3), "background": (3,),
            "position": (slots, 2), "side": (slots,), "angle": (slots,), "mask": packed,
            "region": packed,
        }  # fmt: skip
        for name, array in self._arrays.items():
            if array.shape[1:] != shapes[name]:
                expected = f"{name} of shape {(self._n, *shapes[name])}"
                self._invalid(name, expected, str(array.shape))
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self._invalid(name, "finite numbers", "NaN or infinity")
        if label.size and not -1 <= label.min() <= label.max() < len(self.classes):
            self._invalid(
                "label", f"labels from -1 to {len(self.classes) - 1}, one for each class",
                f"{label.min()} to {label.max()}",
            )  # fmt: skip

    def _invalid(self, name: str, expected: str, got: str) -> NoReturn:
        path = self._folder / f"{name}.npy"
        raise EconError(f"{expected} in {path}", got, _AGAIN)

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return _to_float(self._arrays["image"][indices.numpy()])

    def scenes(self, indices: Tensor) -> Scenes:
        """Images with ground truth."""
        arrays = {name: array[indices.numpy()] for name, array in self._arrays.items()}
        covered = np.zeros((len(indices), self.size, self.size // 8), np.uint8)
        for slot in range(arrays["region"].shape[1]):
            region, mask = (arrays[name][:, slot] for name in ("region", "mask"))
            if (region & (covered | ~mask)).any():
                expected = "visible parts that lie in their masks and not in another's"
                self._invalid("region", expected, "others")
            covered |= region
        for name in _PACKED:
            arrays[name] = np.unpackbits(arrays[name], axis=-1).view(bool)
        native = {name: np.asarray(a, a.dtype.newbyteorder("=")) for name, a in arrays.items()}
        tensors = {name: torch.from_numpy(array) for name, array in native.items()}
        tensors["image"] = _to_float(arrays["image"])
        tensors["label"] = tensors["label"].long()
        return Scenes(**tensors)


def _read_description(path: Path) -> dict[str, Any]:
    if not is_dataset(path):
        raise EconError(f"a dataset folder, with a {DESCRIPTION}", str(path), "see make_dataset")
    expected = "a readable dataset description"
    description = read_json(path / DESCRIPTION, expected, _MAX_DESCRIPTION)
    if isinstance(description, dict) and description.get("format", FORMAT) != FORMAT:
        got = f"{path}, of format {str(description['format'])[:20]}"
        raise EconError(f"a dataset of format {FORMAT}", got, _AGAIN)
    if reason := _description_error(description):
        raise EconError(expected, f"{path / DESCRIPTION}, which is damaged ({reason})", _AGAIN)
    return description


def _description_error(description: Any) -> str:
    """The first error in a description; empty if it is valid."""
    if not isinstance(description, dict) or not isinstance(description.get("config"), dict):
        return "no configuration"
    config = description["config"]
    integers = {
        "format": (description.get("format"), FORMAT, FORMAT),
        "train": (description.get("train"), 1, VALID_OFFSET - 1),
        "valid": (description.get("valid"), 1, VALID_OFFSET - 1),
        "size": (config.get("size"), 8, 1024),
    }
    if type(description.get("seed")) is not int:
        return "seed is not a whole number"
    for name, (value, low, high) in integers.items():
        if type(value) is not int or not low <= value <= high:
            return f"{name} is not a whole number from {low} to {high}"
    if config["size"] % 8:
        return "size is not a multiple of 8"
    classes = config.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "classes are not a list of names"
    return "" if 0 < len(classes) <= _MAX_CLASSES else f"{len(classes)} classes"


def _to_float(image: np.ndarray) -> Tensor:
    nchw = torch.from_numpy(image).permute(0, 3, 1, 2)
    return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
