"""GECO's weight against steps by hand."""

import math
from dataclasses import replace

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.errors import EconError
from econ_pyro.infer.elbo import ClassConditionalELBO, Terms
from econ_pyro.infer.svi import Step
from econ_pyro.model_config import GecoConfig
from econ_pyro.training.geco import LARGEST, Geco

CONFIG = GecoConfig(goal=0.5, rate=1e-4, speed_up=10.0, smoothing=0.9)
SIZE = 16
"""Of an image of 3 x 256 values: the goal is 384 nats, and the rate 16 times as large."""


def make(beta=1.0, config=CONFIG):
    elbo = ClassConditionalELBO(beta=0.1)
    return Geco(replace(config, start=beta), elbo, SIZE, ProcessGroup()), elbo


def step(error):
    """A step of two images of two slots with that mean error."""
    x = torch.tensor([[error - 10, 20.0], [error, -10.0]])
    return Step(x.sum(), Terms(x, x, x), torch.zeros_like(x).long(), x)


def test_weights_of_three_steps_by_hand():
    geco, elbo = make(beta=2.0)
    geco.before_step(0, 10)
    assert elbo.beta == 2.0
    geco.after_step(1, step(484.0), 10)
    # the first error is the average: 100 nats above the goal
    first = 2.0 * math.exp(16e-4 * -100)
    assert geco.beta == pytest.approx(first, rel=1e-9)
    geco.before_step(1, 10)
    assert elbo.beta == geco.beta
    geco.after_step(2, step(84.0), 10)
    # 0.9 * 484 + 0.1 * 84 = 444: 60 nats above
    second = first * math.exp(16e-4 * -60)
    assert geco.error == pytest.approx(444.0) and geco.beta == pytest.approx(second, rel=1e-9)
    geco.after_step(3, step(-656.0), 10)
    # 0.9 * 444 - 0.1 * 656 = 334: 50 nats below, ten times as fast
    third = second * math.exp(16e-3 * 50)
    assert geco.error == pytest.approx(334.0) and geco.beta == pytest.approx(third, rel=1e-9)
    assert geco.metrics() == {"geco_error": geco.error}


@pytest.mark.parametrize(
    ("error", "smallest", "bound"),
    [(1e9, 1e-10, 1e-10), (1e9, 0.2, 0.2), (-1e9, 1e-10, LARGEST)],
)
def test_the_weight_has_bounds(error, smallest, bound):
    geco, _ = make(config=replace(CONFIG, smallest=smallest))
    for i in range(3):
        geco.after_step(i, step(error), 10)
    assert geco.beta == bound


def test_a_loaded_state_goes_on_as_before():
    geco, _ = make()
    geco.after_step(1, step(500.0), 10)
    other, elbo = make(beta=7.0)
    other.load(geco.state())
    for one in (geco, other):
        one.after_step(2, step(300.0), 10)
    assert (other.beta, other.error, other.steps) == (geco.beta, geco.error, geco.steps)
    other.before_step(2, 10)
    assert elbo.beta == geco.beta


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"smoothing": 1.5}, "at most 1 for model.geco.smoothing"),
        ({"rate": -1.0}, "at least 0"),
        ({"smallest": 0.0}, "at least 1e-10 for model.geco.smallest"),
    ],
)
def test_rates_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        GecoConfig(**fields)
