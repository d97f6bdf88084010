"""Which devices run the networks in bfloat16."""

import platform
from pathlib import Path

import pytest
import torch

from econ_pyro.accel.amp import has_bfloat16

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="asks Linux on x86 itself"
)
def test_a_processor_has_bfloat16_if_the_kernel_says_so():
    flags = set(next(a for a in CPUINFO.read_text().splitlines() if a.startswith("flags")).split())
    has = {"avx512_bf16", "amx_tile"} & flags
    assert has_bfloat16(torch.device("cpu")) == bool(has)
