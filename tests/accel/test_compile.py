"""What is compiled gives the same numbers, in one graph for all experts, whoever won what."""

import dataclasses

import pyro
import pytest
import torch

from econ_pyro.accel import compile as module
from econ_pyro.accel.compile import compilable, compiling
from econ_pyro.accel.dispatch import Capacity, fixed_capacity
from econ_pyro.accel.execution import Execution
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.training.learner import Learner
from helpers.trainers import make_learner

# of torch's compiler, within torch
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["as on a GPU", "as on a CPU"])
def traced(tracing, monkeypatch, request):
    monkeypatch.setattr(module, "_gpu", lambda: request.param == "as on a GPU")
    return tracing


def test_a_compiled_step_is_the_step_itself(traced):
    learner = make_learner()
    parameters = [*learner.model.parameters()]
    svi = learner.engine
    svi.competition.temperature, svi.competition.ordered = 1.0, True
    assert svi.competition.occlusion > 0
    svi.elbo.gamma = torch.tensor(0.7)

    def step(seed, capacity, compiled):
        svi.execution = Execution(compile=compiled)
        torch.manual_seed(seed)
        x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
        with pyro.validation_enabled(False), fixed_capacity(capacity):
            won = svi.compete(x)
            loss, _ = svi.gradients(x, won)
        return won.k, loss, [p.grad for p in parameters]

    capacities = [Capacity(6, 18), Capacity(6, 18), Capacity(6, 12), Capacity(6, 16)]
    graphs = []
    for seed, capacity in enumerate(capacities):
        k, loss, gradients = step(seed, capacity, False)
        same_k, same_loss, same_gradients = step(seed, capacity, True)
        assert torch.equal(same_k, k)
        torch.testing.assert_close(same_loss, loss)
        for a, b in zip(same_gradients, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * b.abs().max().item())
        graphs.append(traced["stats"]["unique_graphs"])
    assert not traced["graph_break"]
    assert graphs[0] < graphs[1]  # what is compiled at the second call
    assert graphs[1:] == graphs[1:2] * 3  # whatever the capacity
    assert graphs[-1] < 25


def test_what_is_within_a_compiled_function_is_not_compiled_by_itself(traced):
    inner = compilable(lambda x: x + 1)
    outer = compilable(lambda x: 2 * inner(x))
    x = torch.ones(2)
    with compiling(), torch.no_grad():
        inner(torch.ones(3))  # so that its first call is behind it
        assert [outer(x).tolist() for _ in range(3)] == [[4, 4]] * 3
    assert traced["stats"]["unique_graphs"] == 1


def test_gradients_are_those_of_the_function(traced):
    def plain(a, n, none, b, c):
        return n * a * b.sigmoid(), (b + c).square().sum()

    function = compilable(plain)
    a, c = torch.rand(3, 1, requires_grad=True), torch.rand(4)
    b = torch.rand(3, 4, requires_grad=True)
    with compiling():
        for n in (2, 3, 3):  # the first call is never compiled
            product, total = function(a, n, None, b, c)
            found = torch.autograd.grad(product.sum() * 5 + total, (a, b))
            product, total = plain(a, n, None, b, c)
            for ours, theirs in zip(
                found, torch.autograd.grad(product.sum() * 5 + total, (a, b)), strict=True
            ):
                torch.testing.assert_close(ours, theirs)
    # on a CPU, what needs gradients is not compiled
    assert traced["stats"]["unique_graphs"] == module._gpu()
    with compiling(), torch.no_grad():
        for ours, theirs in zip(function(a, 3, None, b, c), plain(a, 3, None, b, c), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert traced["stats"]["unique_graphs"] > module._gpu()
    assert not traced["graph_break"]


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    config = dataclasses.replace(make_learner().config, compile=True)
    with pytest.raises(EconError, match=r"compiler \(g\+\+.*none.*apt install g\+\+"):
        Learner(config, Econ(config), torch.device("cpu"), ProcessGroup())
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EconError, match="triton"):
        module.check_compiler(torch.device("cuda"))


def test_nothing_is_compiled_unless_asked(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert compilable(torch.add)(torch.ones(2), 1).tolist() == [2, 2]
    learner = make_learner()
    with pyro.validation_enabled(False):
        learner.step(torch.rand(2, 3, 16, 16, dtype=torch.float64), None, 0)
