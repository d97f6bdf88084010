"""The benchmark's baseline computes what the project's own step computes."""

import dataclasses

import pytest
import torch

from econ_pyro.core.selection import Draws
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer.elbo import BatchedELBO
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.strategies import competition_of
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.training.baseline import all_experts_loss
from helpers.trainers import TINY, seeded_tiny


def svi_of(config, occlusion=0.0):
    """A step in float64, whose regions are large enough to tell experts apart."""
    econ = Econ(config).double()
    elbo, competition = BatchedELBO(0.5, 2.0), competition_of(config)
    competition.temperature, competition.occlusion = 30.0, occlusion
    competition.expert_bias = torch.tensor([0.0, 3.0, -3.0]).double()
    optim = torch.optim.Adam(econ.parameters())
    return CompetitiveSVI(econ.model, econ.guide, optim, elbo, competition)


def greedy():
    expert = TINY.model.expert
    attention = dataclasses.replace(expert.attention, bias=0.0)
    expert = dataclasses.replace(expert, attention=attention, shape_bias=0.0)
    return dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, expert=expert))


@pytest.mark.parametrize(
    ("config", "occlusion"), [(greedy(), 0.0), (seeded_tiny(), 0.0), (seeded_tiny(), 0.7)]
)
def test_loss_and_gradients_of_the_winners_are_those_of_a_step(config, occlusion):
    svi = svi_of(config, occlusion)
    x = torch.rand(5, 3, 16, 16, dtype=torch.float64)
    draws = svi.draw(x)
    svi.draw = lambda x: draws
    won = svi.compete(x)
    wanted, _ = svi.gradients(x, won)
    parameters = [*svi.model.parameters(), *svi.guide.parameters()]
    own = [None if p.grad is None else p.grad.clone() for p in parameters]
    svi.optim.zero_grad()
    loss, k = all_experts_loss(svi.model, svi.guide, x, draws, svi.competition, svi.elbo)
    assert torch.equal(k, won.k) and k.unique().numel() > 1
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-9, atol=0)
    loss.backward()
    for p, grad in zip(parameters, own, strict=True):
        if grad is None:  # a loser: in the baseline's graph, with a gradient of zero
            assert p.grad is None or not p.grad.any()
        else:
            scale = grad.abs().max().item()
            torch.testing.assert_close(p.grad, grad, rtol=1e-9, atol=1e-9 * scale)


def test_there_is_a_baseline_for_greedy_and_joint_competitions_only():
    svi = svi_of(greedy())
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    others = svi.model, svi.guide, x, svi.draw(x)
    with pytest.raises(EconError, match="a greedy or a joint competition, got OracleComp"):
        all_experts_loss(*others, OracleCompetition(3), svi.elbo)
    hidden = Draws(*others[3][:2], torch.rand(2, 3, 4))
    with pytest.raises(EconError, match="no occlusion"):
        all_experts_loss(*others[:3], hidden, svi.competition, svi.elbo)
