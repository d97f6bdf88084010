"""What is compiled gives the same numbers, in one graph for all experts, whoever won what."""

import dataclasses

import pyro
import pytest
import torch

from econ_pyro.accel import compile as module
from econ_pyro.accel.compile import fused, fusing
from econ_pyro.core.ensemble import Room, fixed_room
from econ_pyro.errors import EconError
from econ_pyro.guides.recognition import Recognition
from econ_pyro.infer.competition import elect
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import Learner, make_rules
from helpers.trainers import make_learner

# of torch's compiler, within torch
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["as on a GPU", "as on a CPU"])
def traced(tracing, monkeypatch, request):
    monkeypatch.setattr(module, "_gpu", lambda: request.param == "as on a GPU")
    return tracing


def test_a_compiled_step_is_the_step_itself(traced):
    learner = make_learner()
    rules = dataclasses.replace(make_rules(learner.config), temperature=1.0)
    parameters = [*learner.model.parameters(), *learner.guide.parameters()]

    def step(seed, room):
        torch.manual_seed(seed)
        x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
        noise, gumbel = learner.svi.draw(x)
        luck = torch.rand(6, 3, 4, dtype=torch.float64)
        with pyro.validation_enabled(False), fixed_room(room):
            w = elect(learner.model, learner.guide, x, noise, rules, gumbel=gumbel)
            loss, _ = learner.svi._backward(x, w, None, luck, torch.tensor(0.7))
        return w.k, loss, [p.grad for p in parameters]

    rooms = [Room(6, 18), Room(6, 18), Room(6, 12), Room(6, 16)]
    graphs = []
    for seed, room in enumerate(rooms):
        k, loss, gradients = step(seed, room)
        with fusing():
            same_k, same_loss, same_gradients = step(seed, room)
        assert torch.equal(same_k, k)
        torch.testing.assert_close(same_loss, loss)
        for a, b in zip(same_gradients, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * b.abs().max().item())
        graphs.append(traced["stats"]["unique_graphs"])
    assert not traced["graph_break"]
    assert graphs[0] < graphs[1]  # what is compiled at the second call
    assert graphs[1:] == graphs[1:2] * 3  # whatever the room
    assert graphs[-1] < 25


def test_what_is_within_a_compiled_function_is_not_compiled_by_itself(traced):
    inner = fused(lambda x: x + 1)
    outer = fused(lambda x: 2 * inner(x))
    x = torch.ones(2)
    with fusing(), torch.no_grad():
        inner(torch.ones(3))  # so that its first call is behind it
        assert [outer(x).tolist() for _ in range(3)] == [[4, 4]] * 3
    assert traced["stats"]["unique_graphs"] == 1


def test_gradients_are_those_of_the_function(traced):
    def plain(a, n, none, b, c):
        return n * a * b.sigmoid(), (b + c).square().sum()

    function = fused(plain)
    a, c = torch.rand(3, 1, requires_grad=True), torch.rand(4)
    b = torch.rand(3, 4, requires_grad=True)
    with fusing():
        for n in (2, 3, 3):  # the first call is never compiled
            product, total = function(a, n, None, b, c)
            found = torch.autograd.grad(product.sum() * 5 + total, (a, b))
            product, total = plain(a, n, None, b, c)
            for ours, theirs in zip(
                found, torch.autograd.grad(product.sum() * 5 + total, (a, b)), strict=True
            ):
                torch.testing.assert_close(ours, theirs)
    # on a CPU, one for the function and one for its gradient
    assert traced["stats"]["unique_graphs"] == (1 if module._gpu() else 2)
    assert not traced["graph_break"]


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    config = dataclasses.replace(make_learner().config, compile=True)
    parts = DeadLeaves(config.model), Recognition(config.model)
    with pytest.raises(EconError, match=r"compiler \(g\+\+.*none.*apt install g\+\+"):
        Learner(config, *parts, torch.device("cpu"), World())
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EconError, match="triton"):
        module.check_compiler(torch.device("cuda"))


def test_nothing_is_compiled_unless_asked(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert fused(torch.add)(torch.ones(2), 1).tolist() == [2, 2]
    learner = make_learner()
    with pyro.validation_enabled(False):
        learner.step(torch.rand(2, 3, 16, 16, dtype=torch.float64), None, 0)
