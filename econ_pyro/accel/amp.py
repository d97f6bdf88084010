"""bfloat16: whether a device computes in it (emulated, it takes a hundred times longer)."""

from __future__ import annotations

import torch
from torch import Tensor


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 networks pay on this device.

    Args:
        device: a CPU (AVX512-BF16 or AMX) or a CUDA device (compute capability 8 or later).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch has no public question for this; where it has none at all, float32 is never wrong
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in questions)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself, or a copy in float32 of what is of lower precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
