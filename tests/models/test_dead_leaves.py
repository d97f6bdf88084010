"""The Pyro programs: sites, shapes, and the trace as the documented face of the model."""

import dataclasses

import pyro
import pytest
import torch
from pyro import poutine

from econ_pyro.core import compositing, sites
from econ_pyro.core.handlers import CleanLayers
from econ_pyro.models.dead_leaves import DeadLeaves


def test_model_and_guide_have_matching_sites_with_right_shapes(pq, images):
    model, guide = pq
    k = torch.randint(3, (5, 3))
    q = poutine.trace(guide).get_trace(images, k)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(images, k)
    p.compute_log_prob()
    q.compute_log_prob()
    latents = {f(t) for t in (1, 2, 3) for f in (sites.z, sites.r)}
    assert set(q.stochastic_nodes) - {sites.SCENES} == latents
    assert set(p.stochastic_nodes) - {sites.SCENES} == latents
    assert p.observation_nodes == [sites.IMAGE]
    for t in (1, 2, 3):
        for trace in (p, q):
            assert trace.nodes[sites.z(t)]["value"].shape == (5, 2)
            assert trace.nodes[sites.r(t)]["value"].shape == (5, 1, 16, 16)
            for name in (sites.z(t), sites.r(t)):
                assert trace.nodes[name]["log_prob"].shape == (5,)
                assert trace.nodes[name]["log_prob"].isfinite().all()
    total = sum(q.nodes[sites.r(t)]["value"] for t in (1, 2, 3))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_every_expert_is_registered_under_a_readable_name(pq, images):
    model, guide = pq
    k = torch.zeros(5, 3, dtype=torch.long)
    poutine.trace(guide).get_trace(images, k)
    poutine.trace(model).get_trace(images, k)
    names = {name.split("$$$")[0] for name in pyro.get_param_store()}
    assert names == {f"{p}_{k}" for p in ("decoder", "attention", "encoder") for k in range(3)}


def test_module_local_params_registers_nothing(pq, images):
    with pyro.settings.context(module_local_params=True):
        pq[0](images, torch.zeros(5, 3, dtype=torch.long))
    assert not list(pyro.get_param_store())


def test_a_detached_second_module_is_not_silent(tiny, pq):
    pq[0].prior(1)
    with pytest.warns(UserWarning, match="clear_param_store"):
        DeadLeaves(tiny.model).prior(1)


def test_prior_paints_its_own_layers(pq):
    model, _ = pq
    trace = poutine.trace(model.prior).get_trace(4)
    trace.compute_log_prob()
    assert set(trace.stochastic_nodes) - {sites.SCENES} == {
        f(t) for t in (1, 2, 3) for f in (sites.k, sites.z, sites.m, sites.x)
    }
    assert trace.log_prob_sum().isfinite()
    canvas = trace.nodes["_RETURN"]["value"]
    assert (canvas.shape[:, -1] == 1).all()  # footnote 2
    regions = compositing.regions_of_shapes(canvas.shape)
    torch.testing.assert_close(compositing.compose(regions, canvas.appearance), canvas.image)
    assert torch.equal(canvas.k[:, -1], trace.nodes[sites.k(1)]["value"])


def test_prior_classes_can_be_given_or_conditioned(pq):
    model, _ = pq
    k = torch.tensor([[2, 1, 0, 1], [0, 0, 2, 2]])
    assert torch.equal(model.prior(2, k).k, k)
    fixed = {sites.k(1): torch.full((3,), 2)}
    assert (poutine.condition(model.prior, data=fixed)(3).k[:, -1] == 2).all()
    assert model.prior(2, slots=5).k.shape == (2, 5)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [(None, [1, 0, 2]), (2, [0, 2]), (5, [1, 1, 1, 0, 2])],  # front to back
)
def test_classes_of_the_prior_are_back_to_front(pq, slots, expected):
    model, _ = pq
    # the background is always expert 2's, the middle expert 0's, the nearest expert 1's
    model.class_probs.copy_(torch.eye(3)[[2, 0, 1]])
    assert model.prior(4, slots=slots).k.tolist() == 4 * [expected]


def test_layers_of_the_prior_have_the_pixel_noise_of_eq_5(tiny, pq):
    model, _ = pq
    trace = poutine.trace(model.prior).get_trace(20)
    for t in (1, 2, 3):
        k, z, x = (trace.nodes[f(t)]["value"] for f in (sites.k, sites.z, sites.x))
        noise = (x - model.decode(z, k)[0]) / tiny.model.sigma_x  # 15,360 pixels
        assert noise.std().item() == pytest.approx(1, abs=0.03)
        assert noise.mean().item() == pytest.approx(0, abs=0.03)


def test_layers_of_the_prior_are_lit(tiny):
    torch.manual_seed(0)
    model = DeadLeaves(dataclasses.replace(tiny.model, sigma_x=0.01, light=0.5))
    trace = poutine.trace(model.prior).get_trace(20)
    trace.compute_log_prob()
    k, z, x = (trace.nodes[f(2)]["value"] for f in (sites.k, sites.z, sites.x))
    mean = model.decode(z, k)[0]
    light = (x * mean).sum(1) / mean.square().sum(1) - 1  # one number per pixel
    assert light.std().item() == pytest.approx(0.5, rel=0.05)
    assert (x - (1 + light[:, None]) * mean).std().item() < 0.01
    with CleanLayers():
        canvas = model.prior(4)
    means = [model.decode(canvas.z[:, i], canvas.k[:, i])[0] for i in range(3)]
    assert torch.equal(canvas.appearance, torch.stack(means, 1))


def test_the_prior_paints_as_many_layers_as_the_model_has(tiny):
    config = dataclasses.replace(tiny.model, num_experts=2, num_slots=4)
    assert DeadLeaves(config).prior(1).k.shape == (1, 4)


def test_clean_layers_are_means_and_most_likely_shapes(pq):
    model, _ = pq
    with CleanLayers():
        trace = poutine.trace(model.prior).get_trace(4)
    canvas = trace.nodes["_RETURN"]["value"]
    for i, t in enumerate(sites.front_to_back(3)):
        mean, shape = model.decode(trace.nodes[sites.z(t)]["value"], canvas.k[:, i])
        assert torch.equal(canvas.appearance[:, i], mean)
        assert t == 1 or torch.equal(canvas.shape[:, i] == 1, shape > 0.5)


def test_clean_layers_leave_what_is_given(pq):
    model, _ = pq
    given = {sites.x(2): torch.rand(4, 3, 16, 16).double()}
    with CleanLayers():
        canvas = poutine.condition(model.prior, data=given)(4)
    assert torch.equal(canvas.appearance[:, 1], given[sites.x(2)])


def test_last_layer_takes_what_is_left_and_true_regions_are_used(pq, images):
    _, guide = pq
    regions = torch.rand(5, 3, 1, 16, 16).double().softmax(1)
    k = torch.zeros(5, 3, dtype=torch.long)
    trace = poutine.trace(guide).get_trace(images, k)
    left = 1 - trace.nodes[sites.r(3)]["value"] - trace.nodes[sites.r(2)]["value"]
    torch.testing.assert_close(trace.nodes[sites.r(1)]["value"], left)
    data = {sites.r(t): regions[:, i] for i, t in enumerate(sites.front_to_back(3))}
    trace = poutine.trace(poutine.condition(guide, data=data)).get_trace(images, k)
    for i, t in enumerate(sites.front_to_back(3)):
        assert torch.equal(trace.nodes[sites.r(t)]["value"], regions[:, i])
        own = guide.encode(images, regions[:, i], k[:, i])
        torch.testing.assert_close(trace.nodes[sites.z(t)]["fn"].mean, own.mean)


def test_one_true_region_leaves_the_others_to_attention(pq, images):
    _, guide = pq
    k = torch.randint(3, (5, 3))
    mask = torch.rand(5, 1, 16, 16).double().round()
    conditioned = poutine.condition(guide, data={sites.r(3): mask})
    trace = poutine.trace(conditioned).get_trace(images, k)
    assert trace.observation_nodes == [sites.r(3)]
    own = guide.attend(images, 1 - mask, k[:, 1])
    torch.testing.assert_close(trace.nodes[sites.r(2)]["value"], own)
    torch.testing.assert_close(trace.nodes[sites.r(1)]["value"], 1 - mask - own)


def test_constant_appearances_are_the_mean_colour_and_shapes_are_untouched(pq):
    model, _ = pq
    z, k = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    mean, shape = model.decode(z, k)
    model.constant_colour = True
    colour, same = model.decode(z, k)
    assert torch.equal(same, shape)
    torch.testing.assert_close(colour, mean.mean((2, 3), keepdim=True).expand_as(mean))
