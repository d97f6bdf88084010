import dataclasses
import math

import pytest
import torch

from econ_pyro.econ import Econ
from econ_pyro.learner import NOTHING, Learner
from econ_pyro.restarts import handicapped
from econ_pyro.schedules import gamma_at, rate_at, temperature_at
from econ_pyro.world import World


def test_gamma_moves_linearly(tiny):
    objective = dataclasses.replace(tiny.objective, gamma=1.0, gamma_end=3.0, gamma_steps=10)
    config = dataclasses.replace(tiny, objective=objective)
    assert [gamma_at(config, s) for s in (0, 5, 10, 99)] == [1.0, 2.0, 3.0, 3.0]
    assert gamma_at(tiny, 99) == tiny.objective.gamma


def test_temperature_moves_geometrically(tiny):
    objective = dataclasses.replace(
        tiny.objective, temperature=100.0, temperature_end=1.0, temperature_steps=4
    )
    config = dataclasses.replace(tiny, objective=objective)
    found = [temperature_at(config, s) for s in (0, 2, 4, 99)]
    assert found == pytest.approx([100.0, 10.0, 1.0, 1.0])
    assert temperature_at(tiny, 99) == tiny.objective.temperature


def test_cosine_rate_warms_up_and_ends_at_a_hundredth(tiny):
    train = dataclasses.replace(tiny.train, lr=1.0, steps=110, warmup=10, schedule="cosine")
    config = dataclasses.replace(tiny, train=train)
    assert rate_at(config, 0) == pytest.approx(0.1)
    assert rate_at(config, 10) == pytest.approx(1.0)
    assert rate_at(config, 60) == pytest.approx(0.505)
    assert rate_at(config, 110) == rate_at(config, 999) == pytest.approx(0.01)


def test_handicap_makes_shares_even():
    torch.manual_seed(0)
    advantage, handicap = torch.tensor([0.0, 4.0, -7.0]), torch.zeros(3)
    total = torch.zeros(3)
    for step in range(600):
        gumbel = -torch.empty(32, 3).exponential_().log()
        winners = (gumbel - (advantage + handicap)).argmax(1)
        wins = torch.bincount(winners, minlength=3)
        handicap = handicapped(handicap, wins, rate=0.1, limit=30.0)
        total += wins if step >= 300 else 0
    share = total / total.sum()
    assert (share - 1 / 3).abs().max() < 0.03
    assert (handicap - (-advantage)).std() < 0.5  # it found what made them unequal
    bounded = handicapped(torch.zeros(2), torch.tensor([8, 0]), rate=100.0, limit=5.0)
    assert bounded.tolist() == [5.0, -5.0]
    assert math.isfinite(handicapped(torch.zeros(2), torch.zeros(2), 1.0, 5.0).sum())


def test_a_handicap_keeps_an_expert_from_winning(tiny):
    objective = dataclasses.replace(tiny.objective, balance=0.5, balance_limit=1e9)
    econ = Econ(dataclasses.replace(tiny, objective=objective))
    learner = Learner(econ.config, econ.model, econ.guide, torch.device("cpu"), World())
    learner.handicap[1] = 1e9
    x = torch.rand(8, 3, tiny.model.size, tiny.model.size)
    for age in range(3):
        learner.step(x, None, age)
        assert not (learner.svi.last.k == 1).any()


def test_who_wins_nothing_to_see_has_not_won(tiny):
    expert = dataclasses.replace(tiny.model.expert, attention_bias=-9.0)
    econ = Econ(dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, expert=expert)))
    learner = Learner(econ.config, econ.model, econ.guide, torch.device("cpu"), World())
    x = torch.rand(8, 3, tiny.model.size, tiny.model.size)
    learner.step(x, None, 0)
    seen = learner.svi.last.area >= NOTHING
    assert not seen[:, :-1].any() and seen[:, -1].all()  # regions are nearly empty at first
    assert learner.window.sum() == seen.sum()
