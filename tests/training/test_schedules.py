"""Schedules, load balancing and restarts, as a learner applies them step by step."""

import copy
import math

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import CosineSchedule, PlateauSchedule
from econ_pyro.econ import Econ
from econ_pyro.training.callbacks import NOTHING, PlateauRate
from econ_pyro.training.learner import Learner
from econ_pyro.training.load_balancing import LoadBalancing, Restarts, balanced
from econ_pyro.training.schedules import gamma_at, rate_at, steps_of, temperature_at
from helpers.trainers import callback, changed, equal, seeded_tiny


def test_a_duration_is_steps_or_a_share_of_the_horizon():
    assert steps_of(75, 1000) == steps_of(75, 10) == 75
    assert [steps_of("7.5%", horizon) for horizon in (1000, 200)] == [75.0, 15.0]
    assert steps_of("120%", 50) == 60.0


@pytest.mark.parametrize("until", [10, "40%"])
def test_gamma_moves_linearly(tiny, until):
    config = changed(
        tiny, objective__gamma=1.0, objective__gamma_end=3.0, objective__gamma_until=until
    )
    assert [gamma_at(config, s, 25) for s in (0, 5, 10, 99)] == [1.0, 2.0, 3.0, 3.0]
    at_once = changed(config, objective__gamma_until=1)
    assert [gamma_at(at_once, s, 25) for s in (0, 1, 2)] == [1.0, 3.0, 3.0]
    assert gamma_at(tiny, 99, 25) == tiny.objective.gamma


@pytest.mark.parametrize("until", [4, "50%"])
def test_temperature_moves_geometrically(tiny, until):
    competition = tiny.model.competition
    moving = changed(competition, temperature=100.0, temperature_end=1.0, temperature_until=until)
    found = [temperature_at(moving, s, 8) for s in (0, 2, 4, 99)]
    assert found == pytest.approx([100.0, 10.0, 1.0, 1.0])
    assert temperature_at(competition, 99, 8) == competition.temperature


def test_cosine_rate_warms_up_and_ends_at_a_hundredth(tiny):
    config = changed(
        tiny, train__lr=1.0, train__steps=999, train__schedule=CosineSchedule(warmup=10)
    )
    assert rate_at(config, 0, 110) == pytest.approx(0.1)
    assert rate_at(config, 9, 110) == rate_at(config, 10, 110) == pytest.approx(1.0)
    assert rate_at(config, 60, 110) == pytest.approx(0.505)
    assert rate_at(config, 110, 110) == rate_at(config, 999, 110) == pytest.approx(0.01)


def test_a_bias_makes_shares_even():
    torch.manual_seed(0)
    advantage, bias = torch.tensor([0.0, 4.0, -7.0]), torch.zeros(3)
    total = torch.zeros(3)
    for step in range(600):
        gumbel = -torch.empty(32, 3).exponential_().log()
        winners = (gumbel - (advantage + bias)).argmax(1)
        wins = torch.bincount(winners, minlength=3)
        bias = balanced(bias, wins, rate=0.1, limit=30.0)
        total += wins if step >= 300 else 0
    share = total / total.sum()
    assert (share - 1 / 3).abs().max() < 0.03
    assert (bias - (-advantage)).std() < 0.5  # it found what made them unequal
    bounded = balanced(torch.zeros(2), torch.tensor([8, 0]), rate=100.0, limit=5.0)
    assert bounded.tolist() == [5.0, -5.0]
    assert math.isfinite(balanced(torch.zeros(2), torch.zeros(2), 1.0, 5.0).sum())


def test_a_bias_keeps_an_expert_from_winning(tiny):
    learner = make_learner(tiny, recipe__load_balancing=0.5, recipe__load_balancing_limit=1e9)
    callback(learner, LoadBalancing).bias[1] = 1e9
    x = torch.rand(8, 3, tiny.model.size, tiny.model.size)
    for step in range(3):
        assert not (learner.step(x, None, step).k == 1).any()


def test_who_wins_nothing_to_see_has_not_won(tiny):
    learner = make_learner(tiny, model__expert__attention__bias=-9.0, recipe__restart_below=0.1)
    x = torch.rand(8, 3, tiny.model.size, tiny.model.size)
    seen = learner.step(x, None, 0).area >= NOTHING
    assert not seen[:, :-1].any() and seen[:, -1].all()  # regions are nearly empty at first
    assert callback(learner, Restarts).wins.sum() == seen.sum()


def make_learner(config, **fields):
    """A learner of a configuration with fields of its parts changed, as ``train__clip``."""
    config = changed(config, **fields)
    return Learner(config, Econ(config), torch.device("cpu"), ProcessGroup())


def validate(learner, loss):
    """Tell a learner of a validation with that loss."""
    learner.validated(learner.engine.decompose(some(learner.config)), loss)


def some(tiny, n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, tiny.model.size, tiny.model.size, generator=g)


@pytest.mark.parametrize("shares", [False, True])
def test_each_schedule_begins_and_ends_with_the_step_that_is_named(shares):
    horizon = 50
    two, three = ("4%", "6%") if shares else (2, 3)
    config = seeded_tiny()
    learner = make_learner(
        config,
        recipe__constant_colour_until=two,
        recipe__load_balancing=0.5,
        recipe__load_balancing_until=two,
        objective__gamma=1.0,
        objective__gamma_end=3.0,
        objective__gamma_until=two,
        model__competition__depth_order_from=three,
        model__competition__temperature=8.0,
        model__competition__temperature_end=2.0,
        model__competition__temperature_until=two,
        model__competition__lam=0.25,
    )
    competition, elbo = learner.engine.competition, learner.engine.elbo
    seen = []
    for step in range(5):
        learner.step(some(config), None, step, horizon)
        bias = competition.expert_bias is not None
        now = (elbo.gamma, competition.temperature, competition.ordered, bias)
        seen.append((learner.model.model.constant_colour, *now))
    assert [s[0] for s in seen] == [True, True, False, False, False]  # until 2
    assert [s[1] for s in seen] == pytest.approx([1, 2, 3, 3, 3])
    assert [s[2] for s in seen] == pytest.approx([8, 4, 2, 2, 2])
    assert [s[3] for s in seen] == [False, False, False, True, True]  # from 3
    assert [s[4] for s in seen] == [True, True, False, False, False]  # until 2
    assert elbo.beta == config.objective.beta and competition.lam == 0.25


@pytest.mark.parametrize("schedule", [PlateauSchedule(), CosineSchedule(warmup=4)])
def test_only_the_cosine_schedule_sets_the_rate_each_step(tiny, schedule):
    plateau = schedule.kind == "plateau"
    learner = make_learner(tiny, train__schedule=schedule, train__lr=0.01)
    learner.step(some(tiny), None, 1)
    assert learner.rate == pytest.approx(0.01 if plateau else 0.005)
    for loss in [0.0, *[1.0] * 9]:
        validate(learner, loss)
    assert learner.rate == pytest.approx(0.01 / math.sqrt(10) if plateau else 0.005)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_no_longer_than_asked(tiny, clip):
    learner = make_learner(tiny, train__clip=clip)
    learner.step(some(tiny), None, 0)
    grads = [p.grad for p in learner.model.parameters() if p.grad is not None]
    square = sum(grad.double().square().sum() for grad in grads)
    assert square.sqrt().item() == pytest.approx(0.5, rel=1e-3) if clip else square > 1


def test_a_step_learns_eq_13_with_the_configurations_weights(tiny):
    learner = make_learner(tiny, objective__beta=0.3, objective__gamma=2.0)
    step = learner.step(some(tiny), None, 0)
    per_scene = step.terms.x + 0.3 * step.terms.z + 2.0 * step.terms.r
    assert step.loss.item() == pytest.approx(per_scene.sum().item() / 4, rel=1e-5)


def test_biases_are_of_the_wins_of_the_step_alone(tiny):
    learner = make_learner(tiny, recipe__load_balancing=0.5, recipe__load_balancing_limit=100.0)
    expected = torch.zeros(3)
    for number in range(3):
        step = learner.step(some(tiny, seed=number), None, number)
        wins = [int(((step.k == k) & (step.area >= 0.02)).sum()) for k in range(3)]
        share = torch.tensor(wins) / sum(wins)
        expected = expected + 0.5 * (3 * share - 1)  # nats for each even share above one
        torch.testing.assert_close(callback(learner, LoadBalancing).bias, expected)


def wins_of(learner, k):
    """Let expert k[t] have won all layers t of the last steps."""
    wins = callback(learner, Restarts).wins
    wins.zero_()
    wins[torch.arange(len(k)), torch.tensor(k)] = 1000


@pytest.mark.parametrize(
    ("step", "until", "restarted"),
    [(2, 100, True), (1, 100, False), (5, 6, True), (5, 5, False), (5, "60%", True)],
)
def test_starved_experts_are_restarted_when_a_step_is_a_multiple(tiny, step, until, restarted):
    learner = make_learner(
        tiny,
        recipe__restart_below=0.5,
        recipe__restart_every=3,
        recipe__restart_until=until,
        recipe__load_balancing=0.5,
        recipe__load_balancing_until=0,
    )
    balancing = callback(learner, LoadBalancing)
    bias = [d.layers.head.bias for d in learner.model.model.decoders]
    with torch.no_grad():
        for k in range(3):
            bias[k].fill_(float(k))
    balancing.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    wins_of(learner, [0, 0, 2])  # expert 0 objects, 2 backgrounds, 1 nothing
    learner.step(some(tiny), None, step, 10)
    # of expert 0's zeros, the noise is zero, too; a step moves them by the rate
    assert (bias[1].abs().max() < 0.1) == restarted
    assert bias[2].min() > 1.9 and bias[0].abs().max() < 0.1
    assert (balancing.bias[1] == 1.0) == restarted
    # after a look, counting begins anew
    assert (callback(learner, Restarts).wins.sum() == 0) == ((step + 1) % 3 == 0)


@pytest.mark.parametrize(("share", "restarted"), [(0.3, False), (0.2, True)])
def test_an_expert_is_starved_below_a_share_of_an_even_share(tiny, share, restarted):
    """Of the steps that are not the backgrounds', whose expert is left out: two have half each."""
    learner = make_learner(
        tiny,
        recipe__restart_below=0.5,
        recipe__restart_every=1,
        recipe__load_balancing=0.5,
        recipe__load_balancing_until=0,
    )
    wins, balancing = callback(learner, Restarts).wins, callback(learner, LoadBalancing)
    wins[:2, 0], wins[:2, 1] = round(1000 * (1 - share)), round(1000 * share)
    wins[2, 2] = 1000
    balancing.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))  # a copy's is that of the busiest
    learner.step(some(tiny), None, 0)
    assert balancing.bias.tolist() == [1.0, 1.0 if restarted else 2.0, 3.0]


def test_the_least_improvement_keeps_the_rate(tiny):
    learner = make_learner(tiny)
    for evaluation in range(20):
        validate(learner, 5.0 - 0.001 * evaluation)
    assert learner.rate == tiny.train.lr


def test_a_learner_comes_back_from_its_state(tiny, tmp_path):
    recipe = {"recipe__load_balancing": 0.5, "recipe__restart_below": 0.1}
    learner = make_learner(tiny, **recipe)
    for step in range(2):
        learner.step(some(tiny), None, step)
        validate(learner, float(step))
    state = copy.deepcopy(learner.state())
    back = make_learner(tiny, **recipe)
    assert not equal(back.state(), state)
    back.load(copy.deepcopy(state), tmp_path)
    assert equal(back.state(), state)
    assert callback(back, Restarts).wins.any() and callback(back, LoadBalancing).bias.any()
    plateau = callback(back, PlateauRate).schedule
    assert plateau.num_bad_epochs == 1 and plateau.best == 0.0
