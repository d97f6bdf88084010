"""Support for bfloat16, which is a hundred times slower on devices that emulate it."""

from __future__ import annotations

import torch
from torch import Tensor


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has hardware support for bfloat16.

    CPUs need AVX512-BF16 or AMX, CUDA devices a compute capability of at least 8.0.

    Args:
        device: the device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch has no public function for this; fall back to float32 if the private ones are missing
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert a tensor of lower precision to float32; others are returned as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
