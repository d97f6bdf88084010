"""Batches of training steps and of validation, on the device of the networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from econ_pyro.accel.overlap import Prefetcher
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import Config
from econ_pyro.data.base import Source
from econ_pyro.data.splits import batch_indices
from econ_pyro.errors import EconError

Batch = tuple[Tensor, Tensor | None]
"""Images ``(B, 3, H, W)`` and, if configured, true regions ``(B, T, 1, H, W)``."""
_FIRST = torch.zeros(1, dtype=torch.long)


class Batches:
    """This process's shard of the training and validation images.

    Args:
        config: configuration of the run.
        train: source of training images.
        valid: source of validation images.
        device: device of the networks.
        group: processes among which each batch is divided.

    Raises:
        EconError: there are no images, or true regions are configured but not available.
    """

    def __init__(
        self,
        config: Config,
        train: Source,
        valid: Source,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self._config, self._train, self._valid = config, train, valid
        self._device, self._group = device, group
        for name, source in (("to train on", train), ("to validate on", valid)):
            if not len(source):
                raise EconError(f"at least 1 image {name}", "none")
        if config.gt_masks:  # report errors before anything is written
            self._read(train, _FIRST)
        # a thread prepares batches for a GPU; on a CPU, it would compete with the training
        self._training: Callable[[int], Batch] = (
            self._of_step if device.type == "cpu" else Prefetcher(self._of_step)
        )

    def training(self, step: int) -> Batch:
        """Batch of a training step."""
        return self._to_device(*self._training(step))

    def some(self, n: int) -> Tensor:
        """Training images at random, ``(n, 3, H, W)`` on the CPU; all there are, if fewer."""
        n = min(n, len(self._train))
        return self._train.images(batch_indices(len(self._train), n, 0, self._config.seed))

    def validation(self) -> tuple[Tensor, Tensor | None, int]:
        """Validation images, true regions, and the number of images that count.

        With more processes than images, a process without an image gets one that does not count,
        as the networks do not support empty batches.
        """
        indices = self._group.share(torch.arange(len(self._valid)))
        batch = self._read(self._valid, indices if len(indices) else _FIRST)
        return *self._to_device(*batch), len(indices)

    def _of_step(self, step: int) -> Batch:
        train = self._config.train
        indices = batch_indices(len(self._train), train.batch, step, self._config.seed)
        return self._read(self._train, self._group.share(indices))

    def _read(self, source: Source, indices: Tensor) -> Batch:
        if not self._config.gt_masks:
            return source.images(indices), None
        scenes = source.scenes(indices)
        if scenes is None:
            raise EconError(
                "scenes with true regions",
                "images without ground truth",
                "omit --gt-masks, or train on generated scenes",
            )
        return scenes.image, scenes.layers(self._config.model.num_slots)

    def _to_device(self, x: Tensor, regions: Tensor | None) -> Batch:
        def move(part: Tensor) -> Tensor:
            if self._device.type == "cuda":  # pinned memory is copied asynchronously
                part = part.pin_memory()
            return part.to(self._device, non_blocking=True)

        return move(x), None if regions is None else move(regions)
