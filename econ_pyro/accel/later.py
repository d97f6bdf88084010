"""What a GPU will have computed, for a host that has other things to do until it has."""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """A copy of a tensor on the host, made as soon as what was asked for before is computed.

    Unlike ``tensor.cpu()``, asking for it does not wait for what the GPU was given since.

    Args:
        tensor: on any device; on a CPU it is there at once, and is not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        self._made = None
        if tensor.is_cuda:
            self._made = torch.cuda.current_stream(tensor.device).record_event()

    def get(self) -> Tensor:
        """The copy, once it is made."""
        if self._made is not None:
            self._made.synchronize()
        return self._copy
