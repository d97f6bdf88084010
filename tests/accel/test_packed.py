"""Packed networks learn as they would unpacked, and their checkpoints are of parameters."""

import copy
import dataclasses

import pyro
import pytest
import torch
from torch import nn

from econ_pyro.accel.compile import fusing, run
from econ_pyro.accel.packed import PackedAdam, leaves, pack, packed
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.guides.recognition import Recognition
from econ_pyro.io.expert_file import freeze
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.training import learner as learner_module
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import Learner
from econ_pyro.training.load_balancing import copy_expert
from helpers.trainers import make_learner

# of torch's compiler, within torch
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def without_a_compiler(tracing, monkeypatch):
    monkeypatch.setattr(learner_module, "check_compiler", lambda device: None)


class Net(nn.Module):
    """A convolution, something of its own, a child that runs elsewhere, and a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.conv = nn.Conv2d(2, 3, 3)
        self.elsewhere = nn.Linear(2, 2)
        self.register_buffer("shift", torch.rand(1))

    def forward(self, x, more):
        return self.scale * self.conv(x) + self.shift + more


def make_nets(packing, frozen=()):
    torch.manual_seed(0)
    ensemble = Ensemble(Net, 3)
    freeze([ensemble], frozen)
    parameters = [p for p in ensemble.parameters() if p.requires_grad]
    packs = pack([n for e, n in enumerate(ensemble) if e not in frozen], ["elsewhere"])
    return ensemble, PackedAdam(parameters, packs if packing else [], lr=0.1)


def learn(ensemble, optim, compiled, who, seed=0):
    torch.manual_seed(seed)
    optim.zero_grad()
    with fusing(compiled):
        x = torch.rand(4, 2, 5, 5)
        outputs = [run(ensemble[e], x, torch.rand(1)) for e in who]
    sides = [ensemble[e].elsewhere(x.mean((2, 3))).sum() for e in who]
    sum(out.square().sum() + side for out, side in zip(outputs, sides, strict=True)).backward()
    optim.step()


@pytest.mark.parametrize("compiled", [False, True])
def test_packed_networks_learn_alike(compiled):
    def train(packing):
        ensemble, optim = make_nets(packing)
        for seed, who in enumerate(([0, 1], [1], [0, 1])):
            learn(ensemble, optim, compiled and packing, who, seed)
        return ensemble, optim

    (ours, packed_optim), (theirs, _) = train(True), train(False)
    untouched = make_nets(False)[0][2]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(ours[2].parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b)  # who lost
    assert not torch.equal(ours[0].conv.weight, untouched.conv.weight)
    assert len(packed_optim.param_groups[0]["params"]) == 3 * 3


@pytest.mark.parametrize("frozen", [(), (0,)])
def test_checkpoints_fit_either_way(frozen):
    for packing in (False, True):
        ensemble, optim = make_nets(packing, frozen)
        learn(ensemble, optim, False, [1])
        parameters = [p for p in ensemble.parameters() if p.requires_grad]
        plain = torch.optim.Adam(parameters, lr=0.1, fused=True)
        state, weights = copy.deepcopy(optim.state_dict()), copy.deepcopy(ensemble.state_dict())
        plain.load_state_dict(state)
        assert set(state) == set(plain.state_dict())
        assert state["param_groups"][0]["params"] == list(range(len(parameters)))
        for p in ensemble[1].parameters():
            assert plain.state[p]["exp_avg"].shape == p.shape and plain.state[p]["step"] == 1
        assert len(plain.state) == 5
        learn(ensemble, optim, packing, [1], 1)
        for other in (False, True):
            again, optim_again = make_nets(other, frozen)
            again.load_state_dict(weights)
            optim_again.load_state_dict(copy.deepcopy(state))
            learn(again, optim_again, other, [1], 1)
            for a, b in zip(again.parameters(), ensemble.parameters(), strict=True):
                torch.testing.assert_close(a, b)


def test_a_copied_expert_has_the_optimisers_state_too():
    ensemble, optim = make_nets(True, frozen=(0,))
    learn(ensemble, optim, True, [1])
    copy_expert([ensemble], optim, source=1, target=2)
    for a, b in zip(leaves(ensemble[1]), leaves(ensemble[2]), strict=True):
        assert torch.equal(optim.state[a]["exp_avg"], optim.state[b]["exp_avg"])
    copy_expert([ensemble], optim, source=0, target=2)
    assert not any(p in optim.state for p in leaves(ensemble[2]))


def test_a_network_that_was_moved_is_an_error():
    ensemble, optim = make_nets(True)
    ensemble.double()
    with pytest.raises(RuntimeError, match="moved"):
        learn(ensemble, optim, True, [0])


def test_a_step_with_packed_experts_is_the_step_itself():
    plain = make_learner()
    config = dataclasses.replace(plain.config, compile=True)
    model, guide = DeadLeaves(config.model).double(), Recognition(config.model).double()
    model.load_state_dict(plain.model.state_dict())
    guide.load_state_dict(plain.guide.state_dict())
    ours = Learner(config, model, guide, torch.device("cpu"), World())
    ensembles = (model.decoders, guide.attentions, guide.encoders)
    assert all(packed(network) for ensemble in ensembles for network in ensemble)

    for seed in range(4):
        for learner in (plain, ours):
            torch.manual_seed(seed)
            x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
            with pyro.validation_enabled(False):
                learner.step(x, None, seed)
        torch.testing.assert_close(ours.svi.last.loss, plain.svi.last.loss)
        assert torch.equal(ours.svi.last.k, plain.svi.last.k)
    for mine, other in ((model, plain.model), (guide, plain.guide)):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    again = ours.optim.state_dict()["state"]
    for i, state in plain.optim.state_dict()["state"].items():
        torch.testing.assert_close(again[i]["exp_avg"], state["exp_avg"], rtol=1e-5, atol=1e-12)
