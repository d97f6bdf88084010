"""Posterior draws as an ArviZ tree, against means computed in another way."""

import sys

import numpy as np
import pytest
import torch

import econ_pyro
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from helpers.trainers import changed, small_expert

pytestmark = pytest.mark.needs("arviz_base")  # which needs Python 3.11


@pytest.fixture
def econ(tiny):
    """Three experts whose masks are not nearly empty, and who are nearly sure of z."""
    config = changed(
        tiny,
        model__expert=small_expert(bias=0.0, shape_bias=0.0),
        model__competition__temperature=9.0,
        model__competition__temperature_end=2.0,
    )
    econ = Econ(config)
    with torch.no_grad():
        for encoder in econ.guide.encoders:
            encoder.head[-1].bias[2:] = -20.0  # log variances
    return econ


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16)


def test_dimensions_and_observations(econ, images):
    state = torch.get_rng_state()
    tree = econ_pyro.to_arviz(econ, images, draws=3, seed=1, batch=4)
    assert torch.equal(torch.get_rng_state(), state)
    posterior = tree["posterior"]
    assert dict(posterior.sizes) == {
        "chain": 1, "draw": 3, "scene": 2, "layer": 3, "latent": 2, "y": 16, "x": 16
    }  # fmt: skip
    assert posterior["k"].dims == ("chain", "draw", "scene", "layer")
    assert posterior["z"].dims == ("chain", "draw", "scene", "layer", "latent")
    assert posterior["r"].dims == ("chain", "draw", "scene", "layer", "y", "x")
    assert posterior["layer"].values.tolist() == [1, 2, 3]
    assert posterior.attrs["experts"] == ["expert-0", "expert-1", "expert-2"]
    observed = tree["observed_data"]["image"]
    assert observed.dims == ("scene", "channel", "y", "x")
    np.testing.assert_array_equal(observed.sel(channel="green"), images[:, 1])
    np.testing.assert_allclose(posterior["r"].sum("layer"), 1, atol=1e-5)
    again = econ_pyro.to_arviz(econ, images, draws=3, seed=1, batch=6)["posterior"]
    np.testing.assert_array_equal(posterior["k"], again["k"])


def test_winners_come_as_often_as_their_scores_say(econ, images):
    draws = 1500
    d = econ.decompose(images)
    spread = (d.competition_losses[:, 0].amax(1) - d.competition_losses[:, 0].amin(1)).max().item()
    for given, temperature in ((None, 2.0), (spread / 2, spread / 2)):
        tree = econ_pyro.to_arviz(econ, images, draws, temperature=given, batch=500)
        p = torch.softmax(
            -d.competition_losses[:, 0].double() / temperature, 1
        ).numpy()  # (B, K) of layer 1
        first = tree["posterior"]["k"].sel(layer=1, chain=0)
        for k in range(3):
            share = (first == k).mean("draw").values
            assert (abs(share - p[:, k]) <= 4.5 * np.sqrt(p[:, k] * (1 - p[:, k]) / draws)).all()
    assert 0.02 < p.min() and p.max() < 0.98  # the second time it is no foregone conclusion
    # r of the first layer given its winner is that expert's attention
    x, ones = images, torch.ones(2, 1, 16, 16)
    with torch.no_grad():
        r = econ.guide.attend_all(x, ones).squeeze(2).numpy()  # (B, K, H, W)
    mean = tree["posterior"]["r"].sel(layer=1).mean(("chain", "draw")).values
    often = np.stack([(first == k).mean("draw").values for k in range(3)], 1)
    np.testing.assert_allclose(mean, (often[:, :, None, None] * r).sum(1), atol=1e-4)


def test_latents_have_the_moments_of_their_gaussian(econ, images):
    with torch.no_grad():
        for encoder in econ.guide.encoders:
            encoder.head[-1].bias[2:] = -2.0
    one = econ.with_experts([1])
    draws = 1500
    z = econ_pyro.to_arviz(one, images, draws, batch=500)["posterior"]["z"]
    d = one.decompose(images)
    for layer in (1, 3):
        inputs = (images, d.region[:, layer - 1], torch.zeros(2, dtype=torch.long))
        with torch.no_grad():
            q = one.guide.encode(*inputs).base_dist
        error = abs(z.sel(layer=layer).mean(("chain", "draw")).values - q.loc.numpy())
        assert (error <= 4.5 * q.scale.numpy() / np.sqrt(draws)).all()
        spread = z.sel(layer=layer).std(("chain", "draw")).values
        np.testing.assert_allclose(spread, q.scale.numpy(), rtol=0.1)


def test_at_temperature_0_the_winners_are_those_of_decompose(econ, images):
    tree = econ_pyro.to_arviz(econ, images, draws=2, temperature=0.0)
    d = econ.decompose(images)
    np.testing.assert_array_equal(tree["posterior"]["k"].values[0, 1], d.k)
    np.testing.assert_allclose(tree["posterior"]["r"].values[0, 0], d.region[:, :, 0], atol=1e-6)


def test_what_makes_no_sense_is_refused(econ, images, monkeypatch):
    with pytest.raises(EconError, match="at least 1 for draws, got 0"):
        econ_pyro.to_arviz(econ, images, draws=0)
    with pytest.raises(EconError, match="temperature of 0 or more, got -1"):
        econ_pyro.to_arviz(econ, images, temperature=-1.0)
    with pytest.raises(EconError, match="add the batch axis"):
        econ_pyro.to_arviz(econ, images[0])
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(EconError, match=r"arviz-base, got none.*econ-pyro\[arviz\]"):
        econ_pyro.to_arviz(econ, images)
