"""The images of each training step and of validation, where the networks are."""

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
"""Images ``(B, 3, H, W)``, and true regions ``(B, T, 1, H, W)`` where they are asked for."""
_ANY = torch.zeros(1, dtype=torch.long)


class Batches:
    """This process's share of what a run trains and validates on.

    Args:
        config: of the run.
        train: source of training images.
        valid: source of validation images.
        device: where the networks are.
        group: the processes that share each batch.

    Raises:
        EconError: there are no images, or true regions are asked for, and the images have none.
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
        if config.gt_masks:  # fail before anything is written
            self._read(train, _ANY)
        # prepared in a thread for a GPU; on a CPU two would share the processor
        self._training: Callable[[int], Batch] = (
            self._of_step if device.type == "cpu" else Prefetcher(self._of_step)
        )

    def training(self, step: int) -> Batch:
        """Those of a training step, by its number."""
        return self._to_device(*self._training(step))

    def validation(self) -> tuple[Tensor, Tensor | None, int]:
        """Those of validation, and how many of them count.

        With more processes than images, one without an image of its own gets some other, of
        which none counts: the networks take no batch of none.
        """
        share = self._group.share(torch.arange(len(self._valid)))
        given = self._read(self._valid, share if len(share) else _ANY)
        return *self._to_device(*given), len(share)

    def _of_step(self, step: int) -> Batch:
        limits = self._config.train
        whole = batch_indices(len(self._train), limits.batch, step, self._config.seed)
        return self._read(self._train, self._group.share(whole))

    def _read(self, source: Source, indices: Tensor) -> Batch:
        if not self._config.gt_masks:
            return source.images(indices), None
        scenes = source.scenes(indices)
        if scenes is None:
            raise EconError(
                "scenes with true regions",
                "images without ground truth",
                "leave out --gt-masks, or train on generated scenes",
            )
        return scenes.image, scenes.layers(self._config.model.num_slots)

    def _to_device(self, x: Tensor, regions: Tensor | None) -> Batch:
        def move(part: Tensor) -> Tensor:
            if self._device.type == "cuda":  # what is pinned is copied without waiting for it
                part = part.pin_memory()
            return part.to(self._device, non_blocking=True)

        return move(x), None if regions is None else move(regions)
