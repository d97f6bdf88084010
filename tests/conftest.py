"""Shared fixtures: tiny configurations, and a clean Pyro for each test."""

import dataclasses
import importlib.util
from functools import partial

import pyro
import pytest
import torch

from econ_pyro.accel import compile, cpu_cores
from econ_pyro.config import Config
from helpers.trainers import TINY, small_expert


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test that is marked ``needs`` where an optional package is missing."""
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make test-all installs all)")


@pytest.fixture(scope="session", autouse=True)
def one_core():
    """Module fixtures compute bit for bit what tests compute: with one thread per operation.

    Entry points take all cores, and several tests run at a time.
    """
    cpu_cores.use_cores(1)


@pytest.fixture(autouse=True)
def clean_pyro():
    """No parameter and no setting of one test reaches another."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    cpu_cores.use_cores(1)
    yield
    pyro.clear_param_store()


@pytest.fixture
def tiny() -> Config:
    """A configuration that runs in milliseconds."""
    return TINY


@pytest.fixture
def make_pq(tiny):
    """Model and guide of the tiny configuration in float64, with unbiased masks.

    The initial biases of -3 make every region nearly empty, which would hide errors. Keywords are
    those of ``helpers.trainers.small_expert``.
    """
    from econ_pyro.guides.amortized import AmortizedGuide
    from econ_pyro.guides.seeded import SeededGuide
    from econ_pyro.models.dead_leaves import DeadLeaves

    def make(**fields):
        expert = small_expert(**{"bias": 0.0, "shape_bias": 0.0} | fields)
        config = dataclasses.replace(tiny.model, expert=expert)
        guide = SeededGuide if expert.attention.kind == "seeded" else AmortizedGuide
        return DeadLeaves(config).double(), guide(config).double()

    return make


@pytest.fixture
def pq(make_pq):
    """Model and guide without seeds."""
    return make_pq()


@pytest.fixture
def images():
    """Five random images, float64."""
    return torch.rand(5, 3, 16, 16, dtype=torch.float64)


@pytest.fixture
def tracing(monkeypatch):
    """Trace what is compiled as always, and run it as it is: no compiler, no minute.

    Yields torch's counters of graphs.
    """
    from torch._dynamo.utils import counters  # a second of start-up that few tests need

    def forget():
        compile._compiled.cache_clear()
        compile._run_once.clear()
        torch._dynamo.reset()

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    forget()
    counters.clear()
    yield counters
    forget()
