"""Batch dimensions to the left of the programs' own: particles, draws, enumeration, plates."""

import dataclasses
import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate

from econ_pyro.core import sites
from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.core.selection import Selection
from econ_pyro.errors import EconError
from econ_pyro.models.dead_leaves import DeadLeaves

SEEDED = {"dim": 5, "pose": True, "shape_dim": 2, "seeded": True}
T = 3


@pytest.fixture(params=[{}, SEEDED], ids=["paper", "seeded"])
def pq(make_pq, request):
    return make_pq(**request.param)


@pytest.fixture
def k():
    return torch.randint(3, (5, T))


@pytest.fixture
def two_by_two(tiny):
    """K = 2 experts, T = 2 layers, and unequal classes."""
    model = DeadLeaves(dataclasses.replace(tiny.model, num_experts=2, num_slots=2)).double()
    model.class_probs.copy_(torch.tensor([[0.2, 0.8], [0.7, 0.3]]))
    return model


def traces(pq, x, k, *plates):
    """Traces of guide and model beneath plates, scored."""
    model, guide = pq
    q = poutine.trace(beneath(guide, *plates)).get_trace(x, k)
    p = poutine.trace(poutine.replay(beneath(model, *plates), trace=q)).get_trace(x, k)
    q.compute_log_prob()
    p.compute_log_prob()
    return q, p


def beneath(program, *plates):
    """A program within plates, as Pyro's vectorised ELBOs put it."""
    for i, size in enumerate(plates):
        program = pyro.plate(f"plate_{i}", size, dim=-2 - i)(program)
    return program


def latents(trace):
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if "_" in name}


def scores(trace):
    names = [*trace.stochastic_nodes, *trace.observation_nodes]
    return {name: trace.nodes[name]["log_prob"] for name in names if name != sites.SCENES}


def scored_alone(pq, x, k, values):
    """Log probabilities of guide and model, given values of all latents, without plates."""
    found = []
    for program in reversed(pq):
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(x, k)
        trace.compute_log_prob()
        found.append({n: s["log_prob"] for n, s in trace.nodes.items() if "log_prob" in s})
    return found


def weights(q, p):
    """Log weight of each particle, summed over scenes."""
    total = sum(scores(p).values()) - sum(scores(q).values())
    return total.sum(-1)


# ------------------------------------------------------------------- vectorised particles


def test_each_particle_is_scored_as_if_it_were_alone(pq, images, k):
    q, p = traces(pq, images, k, 4)
    for name, value in latents(q).items():
        assert value.shape[:2] == (4, 5), name
        assert value.shape == latents(p)[name].shape
    assert not torch.equal(latents(q)["z_2"][0], latents(q)["z_2"][1])
    for n in range(4):
        alone = scored_alone(pq, images, k, {name: v[n] for name, v in latents(q).items()})
        for trace, own in zip((q, p), alone, strict=True):
            for name, score in scores(trace).items():
                assert score.shape == (4, 5)
                torch.testing.assert_close(score[n], own[name], rtol=1e-9, atol=1e-9)


def test_particles_are_independent_draws_of_the_posterior(pq, images, k):
    with torch.no_grad():
        q, _ = traces(pq, images, k, 400)
        one, _ = traces(pq, images, k)
    for t in (1, 2, 3):
        # regions are means (section 5.1), so that all particles have one posterior of z
        torch.testing.assert_close(
            latents(q)[sites.r(t)], latents(one)[sites.r(t)].expand(400, -1, -1, -1, -1)
        )
        normal, z = one.nodes[sites.z(t)]["fn"].base_dist, latents(q)[sites.z(t)]
        assert ((z.mean(0) - normal.mean).abs() <= 4.5 * normal.stddev / 400**0.5).all()
        torch.testing.assert_close(z.std(0), normal.stddev, rtol=0.2, atol=0)
        along = ((z - normal.mean) / normal.stddev).flatten(1)
        assert abs((along[1:] * along[:-1]).mean()) < 4 / along[1:].numel() ** 0.5


def test_particles_with_true_regions_have_noise_of_their_own(pq, images, k):
    """An observed region has no particle dimension: the posterior of z is expanded, and drawn."""
    model, guide = pq
    masks = torch.rand(5, T, 1, 16, 16).double().softmax(1)
    data = {sites.r(t): masks[:, i] for i, t in enumerate(sites.front_to_back(T))}
    with torch.no_grad():
        trace = poutine.trace(beneath(poutine.condition(guide, data=data), 300)).get_trace(
            images, k
        )
        for i, t in enumerate(sites.front_to_back(T)):
            normal = guide.encode(images, masks[:, i], k[:, i]).base_dist
            z = trace.nodes[sites.z(t)]["value"]
            assert z.shape == (300, 5, model.latent_dim)
            assert ((z.mean(0) - normal.mean).abs() <= 4.5 * normal.stddev / 300**0.5).all()
            torch.testing.assert_close(z.std(0), normal.stddev, rtol=0.25, atol=0)


def test_vectorised_particles_estimate_what_repeated_ones_do(pq, images, k):
    model, guide = pq
    with torch.no_grad():
        repeated = torch.stack([weights(*traces(pq, images, k)) for _ in range(60)])
        vectorised = weights(*traces(pq, images, k, 60))
        elbo = Trace_ELBO(num_particles=60, vectorize_particles=True, max_plate_nesting=1)
        loss = elbo.loss(model, guide, images, k)
    error = (2 * repeated.var() / 60).sqrt()
    assert error > 0
    assert abs(vectorised.mean() - repeated.mean()) < 4 * error
    assert abs(-loss - repeated.mean()) < 4 * error


def test_given_noise_is_that_of_every_particle(pq, images, k):
    model, guide = pq
    noise = torch.randn(5, T, model.latent_dim).double()
    pixels, none = torch.randint(256, (5, T)), torch.zeros(5, T)
    given = guide.given(Selection(k, noise, pixels, none, none))
    one, p_one = traces((model, given), images, k)
    many, p_many = traces((model, given), images, k, 3)
    for n, (name, value) in itertools.product(range(3), latents(one).items()):
        # but for the rounding of batches of another size
        torch.testing.assert_close(latents(many)[name][n], value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        weights(many, p_many), weights(one, p_one).expand(3), rtol=1e-12, atol=0
    )


def test_gradients_of_vectorised_particles_are_those_of_the_same_particles_in_turn(pq, images, k):
    model, guide = pq
    parameters = [*model.parameters(), *guide.parameters()]
    noise, none = torch.randn(2, 5, T, model.latent_dim).double(), torch.zeros(5, T)
    pixels = torch.randint(256, (5, T))
    q = poutine.trace(guide.given(Selection(k, noise[0], pixels, none, none)))
    with pyro.plate("particles", 2, dim=-2):
        together = weights(*traces((model, q.fn), images, k)).sum()
    alone = 2 * weights(*traces((model, q.fn), images, k)).sum()
    ours, theirs = (
        torch.autograd.grad(total, parameters, allow_unused=True) for total in (together, alone)
    )
    assert any(b is not None and b.any() for b in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())


# ------------------------------------------------------------------- draws of the prior


def test_parallel_draws_of_the_prior_paint_their_own_layers(pq):
    model, _ = pq
    found = Predictive(model.prior, num_samples=6, parallel=True)(4)
    names = [f(t) for t in (1, 2, 3) for f in (sites.k, sites.z, sites.m, sites.x)]
    assert set(found) == {*names, sites.COMPOSED}
    assert all(value.shape[:2] == (6, 4) for value in found.values())
    front_to_back = sites.front_to_back(T)
    m = torch.stack([found[sites.m(t)] for t in front_to_back], 2).flatten(0, 1)
    x = torch.stack([found[sites.x(t)] for t in front_to_back], 2).flatten(0, 1)
    m[:, -1] = 1  # footnote 2
    painted = compose(regions_of_shapes(m), x).unflatten(0, (6, 4))
    torch.testing.assert_close(found[sites.COMPOSED], painted)
    assert len(found[sites.COMPOSED].flatten(0, 1).unique(dim=0)) == 24


def test_parallel_draws_are_distributed_as_sequential_ones(two_by_two):
    draw = [
        Predictive(two_by_two.prior, num_samples=150, parallel=parallel)(4)
        for parallel in (False, True)
    ]
    for t in (1, 2):
        for k in range(2):
            p = two_by_two.class_probs[t - 1, k].item()
            share = (draw[1][sites.k(t)] == k).double().mean().item()
            assert abs(share - p) < 4 * (p * (1 - p) / 600) ** 0.5
    for name in (sites.z(1), sites.z(2), sites.m(2), sites.COMPOSED):
        means = [found[name].flatten(2).mean(2).flatten() for found in draw]  # of each scene
        error = sum(m.var() / len(m) for m in means).sqrt()
        assert 0 < abs(means[0].mean() - means[1].mean()) < 4 * error, name


# ------------------------------------------------------------------- enumeration


@pytest.fixture
def painted(two_by_two):
    """Three scenes of K = 2, T = 2: values of all sites but the classes.

    The decoders are nearly the same, so that no assignment is out of the question.
    """
    first, second = (list(decoder.parameters()) for decoder in two_by_two.decoders)
    with torch.no_grad():
        for a, b in zip(first, second, strict=True):
            b.copy_(a + 3e-4 * torch.randn_like(a))
    found = Predictive(two_by_two.prior, num_samples=1)(3)
    return {n: v[0] for n, v in found.items() if n[0] in "zmx"}


def joint_of(model, data, k):
    """Log probability of classes (front to back) and the other sites of each scene, ``(B,)``."""
    given = data | {sites.k(2): torch.full((3,), k[0]), sites.k(1): torch.full((3,), k[1])}
    trace = poutine.trace(poutine.condition(model.prior, data=given)).get_trace(3)
    trace.compute_log_prob()
    return sum(trace.nodes[name]["log_prob"] for name in given)


def test_classes_of_the_prior_can_be_enumerated(two_by_two, painted):
    program = config_enumerate(poutine.condition(two_by_two.prior, data=painted), "parallel")
    with poutine.enum(first_available_dim=-2):
        trace = poutine.trace(program).get_trace(3)
    trace.compute_log_prob()
    assert trace.nodes[sites.k(1)]["value"].shape == (2, 1)
    assert trace.nodes[sites.k(2)]["value"].shape == (2, 1, 1)
    assert trace.nodes[sites.x(1)]["log_prob"].shape == (2, 3)
    assert trace.nodes[sites.x(2)]["log_prob"].shape == (2, 1, 3)
    names = [name for name, s in trace.nodes.items() if "log_prob" in s and "_" in name]
    total = sum(trace.nodes[name]["log_prob"] for name in names)
    assert total.shape == (2, 2, 3)  # k_2, k_1, scene
    for k_2, k_1 in itertools.product(range(2), repeat=2):
        own = joint_of(two_by_two, painted, (k_2, k_1))
        torch.testing.assert_close(total[k_2, k_1], own, rtol=1e-12, atol=0)


def test_the_marginal_over_enumerated_classes_is_a_sum_over_them(two_by_two, painted):
    each = [joint_of(two_by_two, painted, k) for k in itertools.product(range(2), repeat=2)]
    each = torch.stack(each)
    assert (each.softmax(0).amax(0) < 0.9).all()
    program = config_enumerate(poutine.condition(two_by_two.prior, data=painted), "parallel")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # Pyro multiplies by a scalar of its own
    try:
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda scenes: None, 3)
    finally:
        torch.set_default_dtype(before)
    assert loss == pytest.approx(-each.logsumexp(0).sum().item(), rel=1e-12)


# ------------------------------------------------------------------- plates with own images


def test_an_outer_plate_of_images_is_two_calls(pq):
    x, k = torch.rand(2, 5, 3, 16, 16).double(), torch.randint(3, (2, 5, T))
    q, p = traces(pq, x, k, 2)
    for n in range(2):
        values = {name: v[n] for name, v in latents(q).items()}
        alone = scored_alone(pq, x[n], k[n], values)
        for trace, own in zip((q, p), alone, strict=True):
            for name, score in scores(trace).items():
                assert score.shape == (2, 5)
                torch.testing.assert_close(score[n], own[name], rtol=1e-9, atol=1e-9)
        one = poutine.trace(pq[1]).get_trace(x[n], k[n])
        for t in (1, 2, 3):  # regions are means: no draw decides them
            torch.testing.assert_close(latents(q)[sites.r(t)][n], latents(one)[sites.r(t)])


def test_experts_alone_or_images_alone_may_have_the_outer_dimension(pq, images, k):
    many_x, many_k = images.expand(2, -1, -1, -1, -1), k.expand(2, -1, -1)
    expected = latents(poutine.trace(pq[1]).get_trace(images, k))
    for x, ks in ((many_x, k), (images, many_k), (many_x, many_k[:1])):
        q, p = traces(pq, x, ks, 2)
        assert all(score.shape == (2, 5) for score in [*scores(q).values(), *scores(p).values()])
        for n, t in itertools.product(range(2), (1, 2, 3)):
            torch.testing.assert_close(latents(q)[sites.r(t)][n], expected[sites.r(t)])


def test_particles_of_an_outer_plate(pq):
    x, k = torch.rand(2, 5, 3, 16, 16).double(), torch.randint(3, (2, 5, T))
    q, p = traces(pq, x, k, 2, 4)
    assert latents(q)["z_1"].shape[:3] == (4, 2, 5)
    for n in range(4):
        values = {name: v[n, 1] for name, v in latents(q).items()}
        own_q, own_p = scored_alone(pq, x[1], k[1], values)
        for trace, own in ((q, own_q), (p, own_p)):
            for name, score in scores(trace).items():
                torch.testing.assert_close(score[n, 1], own[name], rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("images", "experts", "message"),
    [
        ((5,), (4,), r"k of shape \(5, 3\), got \(4, 3\)"),
        ((1,), (5,), r"k of shape \(1, 3\), got \(5, 3\)"),
        ((2, 5), (2, 4), r"k of shape \(2, 5, 3\), got \(2, 4, 3\)"),
        ((2, 1), (2, 5), r"k of shape \(2, 1, 3\), got \(2, 5, 3\)"),
        ((2, 5), (3, 5), r"batch dimensions that broadcast, got \(2, 5\) and \(3, 5\)"),
    ],
)
@pytest.mark.parametrize("program", [0, 1], ids=["model", "guide"])
def test_batches_that_do_not_fit_are_refused(pq, images, experts, message, program):
    x, k = torch.rand(*images, 3, 16, 16).double(), torch.zeros(*experts, T).long()
    with pytest.raises(EconError, match=message):
        beneath(pq[program], 2)(x, k)


def test_images_of_another_size_are_refused_in_outer_plates(pq, k):
    for program in pq:
        with pytest.raises(EconError, match=r"images \(B, 3, 16, 16\).*got"):
            beneath(program, 2)(torch.rand(2, 5, 3, 8, 8).double(), k)


def test_values_of_sites_that_do_not_fit_are_refused(pq, images, k):
    model, guide = pq
    for program, name, shape in (
        (guide, sites.r(2), (7, 4, 1, 16, 16)),
        (model, sites.z(2), (7, 4, model.latent_dim)),
        (model, sites.r(3), (4, 1, 16, 16)),
    ):
        conditioned = poutine.condition(program, data={name: torch.rand(shape).double()})
        with pytest.raises((EconError, ValueError), match=rf"{name}|shape|broadcast"):
            conditioned(images, k)
