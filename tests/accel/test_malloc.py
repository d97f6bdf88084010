import os
import platform
import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
import torch
from econ_pyro.accel import malloc
{first}

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

layers = [torch.ones(4, 1 << 20) for _ in range(3)]  # of 16 MB each
full = resident()
del layers
print(full - resident())
"""


def given_back(first, environment):
    """MB that a process has less once it has freed 48."""
    command = [sys.executable, "-c", CODE.format(first=first)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept_for_the_next_step():
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    assert given_back("", plain) > 40
    assert given_back("malloc.retain_memory()", plain) < 8
    # what a user asked of the allocator stays as it is
    asked = {**plain, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    assert given_back("malloc.retain_memory()", asked) > 40
