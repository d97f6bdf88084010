import os
import platform
import subprocess
import sys

import pytest

# each case is a fork of one process: to import torch takes longer than all of them
CODE = """
import os
from pathlib import Path
import torch
from econ_pyro.accel import malloc

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def given_back():
    layers = [torch.ones(4, 1 << 20) for _ in range(3)]  # of 16 MB each
    full = resident()
    del layers
    return full - resident()

def plain():
    pass

def retained():
    malloc.retain_memory()

def asked():
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    malloc.retain_memory()

for case in (plain, retained, asked):
    if not (child := os.fork()):
        case()
        print(case.__name__, given_back(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def given_back():
    """MB that processes have less once they have freed 48, by what they did before."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", CODE]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=plain)
    return {name: float(mb) for name, mb in map(str.split, run.stdout.splitlines())}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept_for_the_next_step():
    found = given_back()
    assert found["plain"] > 40
    assert found["retained"] < 8
    # what a user asked of the allocator stays as it is
    assert found["asked"] > 40
