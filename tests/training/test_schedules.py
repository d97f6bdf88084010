import copy
import dataclasses
import math

import pytest
import torch

from econ_pyro.econ import Econ
from econ_pyro.training import schedules
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import NOTHING, Learner
from econ_pyro.training.load_balancing import handicapped
from econ_pyro.training.schedules import gamma_at, rate_at, temperature_at


def test_gamma_moves_linearly(tiny):
    objective = dataclasses.replace(tiny.objective, gamma=1.0, gamma_end=3.0, gamma_steps=10)
    config = dataclasses.replace(tiny, objective=objective)
    assert [gamma_at(config, s) for s in (0, 5, 10, 99)] == [1.0, 2.0, 3.0, 3.0]
    at_once = dataclasses.replace(objective, gamma_steps=1)
    config = dataclasses.replace(tiny, objective=at_once)
    assert [gamma_at(config, s) for s in (0, 1, 2)] == [1.0, 3.0, 3.0]
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


def make_learner(tiny, **changes):
    """A learner of the tiny configuration with fields of its parts changed, as ``train__clip``."""
    config = tiny
    for name, value in changes.items():
        part, field = name.split("__")
        config = dataclasses.replace(
            config, **{part: dataclasses.replace(getattr(config, part), **{field: value})}
        )
    econ = Econ(config)
    return Learner(config, econ.model, econ.guide, torch.device("cpu"), World())


def some(tiny, n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, tiny.model.size, tiny.model.size, generator=g)


def test_each_schedule_begins_and_ends_with_the_step_that_is_named(tiny):
    learner = make_learner(
        tiny,
        train__flat_until=2,
        objective__order_from=3,
        objective__balance=0.5,
        objective__balance_until=2,
        objective__gamma=1.0,
        objective__gamma_end=3.0,
        objective__gamma_steps=2,
        objective__temperature=8.0,
        objective__temperature_end=2.0,
        objective__temperature_steps=2,
        objective__lam=0.25,
    )
    seen = []
    for age in range(5):
        learner.step(some(tiny), None, age)
        svi = learner.svi
        now = (svi.elbo.gamma, svi.rules.temperature, svi.rules.ordered, svi.handicap is not None)
        seen.append((learner.model.flat, *now))
    assert [s[0] for s in seen] == [True, True, False, False, False]  # until 2
    assert [s[1] for s in seen] == pytest.approx([1, 2, 3, 3, 3])
    assert [s[2] for s in seen] == pytest.approx([8, 4, 2, 2, 2])
    assert [s[3] for s in seen] == [False, False, False, True, True]  # from 3
    assert [s[4] for s in seen] == [True, True, False, False, False]  # until 2
    assert learner.svi.elbo.beta == tiny.objective.beta and learner.svi.rules.lam == 0.25


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_only_the_cosine_schedule_sets_the_rate_each_step(tiny, schedule):
    learner = make_learner(tiny, train__schedule=schedule, train__warmup=4, train__lr=0.01)
    learner.step(some(tiny), None, 1)
    assert learner.rate == pytest.approx(0.01 if schedule == "plateau" else 0.005)
    for loss in [0.0, *[1.0] * 9]:
        learner.evaluated(loss)
    assert learner.rate == pytest.approx(0.01 / math.sqrt(10) if schedule == "plateau" else 0.005)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_no_longer_than_asked(tiny, clip):
    learner = make_learner(tiny, train__clip=clip)
    learner.step(some(tiny), None, 0)
    parameters = [*learner.model.parameters(), *learner.guide.parameters()]
    square = sum(p.grad.double().square().sum() for p in parameters if p.grad is not None)
    assert square.sqrt().item() == pytest.approx(0.5, rel=1e-3) if clip else square > 1


def test_a_step_learns_eq_13_with_the_configurations_weights(tiny):
    learner = make_learner(tiny, objective__beta=0.3, objective__gamma=2.0)
    step = learner.step(some(tiny), None, 0)
    per_scene = step.terms.x + 0.3 * step.terms.z + 2.0 * step.terms.r
    assert step.loss.item() == pytest.approx(per_scene.sum().item() / 4, rel=1e-5)


def test_handicaps_are_of_the_wins_of_the_step_alone(tiny):
    learner = make_learner(tiny, objective__balance=0.5, objective__balance_limit=100.0)
    expected = torch.zeros(3)
    for age in range(3):
        step = learner.step(some(tiny, seed=age), None, age)
        wins = [int(((step.k == k) & (step.area >= 0.02)).sum()) for k in range(3)]
        share = torch.tensor(wins) / sum(wins)
        expected = expected + 0.5 * (3 * share - 1)  # nats for each even share above one
        torch.testing.assert_close(learner.handicap, expected)


def wins_of(learner, k):
    """Let expert k[t] have won all layers t of the last steps."""
    learner.window.zero_()
    learner.window[torch.arange(len(k)), torch.tensor(k)] = 1000


@pytest.mark.parametrize(
    ("age", "until", "restarted"),
    [(2, 100, True), (1, 100, False), (5, 6, True), (5, 5, False)],
)
def test_starved_experts_are_restarted_when_a_step_is_a_multiple(tiny, age, until, restarted):
    learner = make_learner(
        tiny, train__restart_below=0.5, train__restart_every=3, train__restart_until=until
    )
    bias = [d.both.head.bias for d in learner.model.decoders]
    with torch.no_grad():
        for k in range(3):
            bias[k].fill_(float(k))
    learner.handicap.copy_(torch.tensor([1.0, 2.0, 3.0]))
    wins_of(learner, [0, 0, 2])  # expert 0 objects, 2 backgrounds, 1 nothing
    learner.step(some(tiny), None, age)
    # of expert 0's zeros, the noise is zero, too; a step moves them by the rate
    assert (bias[1].abs().max() < 0.1) == restarted
    assert bias[2].min() > 1.9 and bias[0].abs().max() < 0.1
    assert (learner.handicap[1] == 1.0) == restarted
    # after a look, counting begins anew
    assert (learner.window.sum() == 0) == ((age + 1) % 3 == 0)


@pytest.mark.parametrize(("share", "restarted"), [(0.3, False), (0.2, True)])
def test_an_expert_is_starved_below_a_share_of_an_even_share(tiny, share, restarted):
    """Of the steps that are not the backgrounds', whose expert is left out: two have half each."""
    learner = make_learner(tiny, train__restart_below=0.5, train__restart_every=1)
    learner.window[:2, 0], learner.window[:2, 1] = round(1000 * (1 - share)), round(1000 * share)
    learner.window[2, 2] = 1000
    learner.handicap.copy_(torch.tensor([1.0, 2.0, 3.0]))  # a copy's is that of the busiest
    learner.step(some(tiny), None, 0)
    assert learner.handicap.tolist() == [1.0, 1.0 if restarted else 2.0, 3.0]


def test_the_least_improvement_keeps_the_rate(tiny):
    learner = make_learner(tiny)
    for evaluation in range(20):
        learner.evaluated(5.0 - 0.001 * evaluation)
    assert learner.rate == tiny.train.lr


def test_a_new_beginning_forgets_what_was_learnt(tiny):
    learner = make_learner(tiny, objective__balance=0.5)
    for age in range(2):
        learner.step(some(tiny), None, age)
    for loss in [0.0, *[1.0] * 9]:
        learner.evaluated(loss)
    assert learner.rate < tiny.train.lr and learner.handicap.any() and learner.window.any()
    other = Econ(dataclasses.replace(tiny, seed=5))
    learner.begin_anew(other.model, other.guide)
    fresh = Learner(tiny, other.model, other.guide, torch.device("cpu"), World())
    assert learner.rate == tiny.train.lr
    assert not learner.handicap.any() and not learner.window.any() and not learner.optim.state
    assert learner.schedule.state_dict() == fresh.schedule.state_dict()
    ours, theirs = learner.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_learner_comes_back_from_its_state(tiny, tmp_path):
    learner = make_learner(tiny, objective__balance=0.5)
    for age in range(2):
        learner.step(some(tiny), None, age)
        learner.evaluated(float(age))
    state = copy.deepcopy(learner.state())
    back = make_learner(tiny, objective__balance=0.5)
    back.load(copy.deepcopy(state), tmp_path)
    for name in ("window", "handicap"):
        assert getattr(back, name).any() and torch.equal(getattr(back, name), state[name])
    assert back.schedule.num_bad_epochs == learner.schedule.num_bad_epochs == 1
    assert back.schedule.best == 0.0


def test_a_rate_in_a_run_of_several_beginnings(tiny):
    """Of 3 beginnings of 20 steps, the one that goes on has 110 - 40 steps: 10 + 60."""
    train = dataclasses.replace(
        tiny.train, lr=1.0, steps=110, warmup=10, schedule="cosine", tries=3, try_steps=20
    )
    config = dataclasses.replace(tiny, train=train)
    assert [schedules.age(config, step) for step in (0, 19, 20, 39, 40, 59)] == [
        0,
        19,
        0,
        19,
        0,
        19,
    ]
    assert [schedules.age(config, step) for step in (60, 61, 109)] == [20, 21, 69]
    assert rate_at(config, 9) == rate_at(config, 10) == pytest.approx(1.0)
    assert rate_at(config, 40) == pytest.approx(0.505)  # half way
    assert rate_at(config, 70) == pytest.approx(0.01)
