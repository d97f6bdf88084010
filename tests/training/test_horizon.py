"""Schedules as shares of a run, also of one that its minutes cut short."""

import dataclasses

import pytest

from econ_pyro.config import CosineSchedule, ObjectiveConfig, TrainConfig
from econ_pyro.errors import EconError
from econ_pyro.training import trainer as module
from econ_pyro.training.schedules import gamma_at, rate_at, steps_of
from helpers.trainers import make_trainer


def run_of(tiny, minutes=None, steps=100, **objective):
    train = TrainConfig(
        steps=steps,
        minutes=minutes,
        batch=2,
        lr=1e-3,
        schedule=CosineSchedule(),
        validate_every=10,
        train_scenes=8,
        valid_scenes=2,
    )
    return dataclasses.replace(tiny, train=train, objective=ObjectiveConfig(**objective))


@pytest.fixture
def clock(monkeypatch):
    """Every training step takes a second."""
    now = [0.0]

    def tick():
        now[0] += 1.0  # it is asked at the beginning of a step and at its end
        return now[0]

    monkeypatch.setattr(module.time, "perf_counter", tick)


def test_durations_are_steps_or_shares():
    assert steps_of(1200, 50) == 1200
    assert steps_of("40%", 1000) == 400
    assert steps_of("120%", 1000) == 1200


@pytest.mark.parametrize("wrong", ["40", "forty %", "-1%", "nan%", "0%", -3, "1001%"])
def test_what_is_no_duration_is_refused(wrong):
    with pytest.raises(EconError, match="gamma-until"):
        ObjectiveConfig(gamma_until=wrong)


def test_a_share_follows_the_steps(tiny):
    short, long = (run_of(tiny, steps=n, gamma_end=1.0, gamma_until="50%") for n in (100, 1000))
    assert gamma_at(short, 25, 100) == pytest.approx(gamma_at(long, 250, 1000)) == 0.75


def test_a_run_cut_short_by_its_minutes_completes_its_schedules(tiny, tmp_path, clock):
    # 100 steps of about a second each in 40 s: it will come to about 40
    config = run_of(tiny, minutes=40 / 60, gamma=0.5, gamma_end=1.0, gamma_until="80%")
    trainer = make_trainer(config, tmp_path / "run")
    trainer.fit()
    assert trainer.step < 60 and trainer.horizon < 60
    assert trainer.learner.elbo.gamma == 1.0
    assert trainer.learner.rate < 0.1 * config.train.lr
    unaware = rate_at(config, trainer.step - 1, config.train.steps)
    assert unaware > 0.3 * config.train.lr  # where it would have stopped before


def test_a_limit_that_is_not_reached_changes_nothing(tiny, tmp_path, clock):
    losses = []
    for i, minutes in enumerate((None, 10.0)):
        trainer = make_trainer(run_of(tiny, minutes=minutes, steps=30), tmp_path / str(i))
        trainer.fit()
        assert trainer.horizon == 30
        losses.append([row["loss"] for row in trainer.rows])
    assert losses[0] == losses[1]


def test_a_resumed_run_keeps_its_horizon(tiny, tmp_path, clock):
    config = run_of(tiny, minutes=40 / 60)
    trainer = make_trainer(config, tmp_path / "run")
    trainer.fit(stop=lambda: trainer.step >= 35)
    again = make_trainer(config, tmp_path / "run")
    again.resume()
    assert again.horizon == trainer.horizon < 60
    more = make_trainer(config, tmp_path / "run", 200)  # other steps are another plan
    more.resume()
    assert more.horizon == 200
