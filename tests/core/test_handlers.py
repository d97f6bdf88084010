"""Programs in the hands of Pyro: lifted weights, others' sites, scopes, predictions, threads."""

import copy
import threading

import pyro
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.distributions import Bernoulli, Normal
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_feasible
from pyro.infer.reparam import LocScaleReparam
from pyro.poutine.runtime import _PYRO_STACK

from econ_pyro.core import compositing, sites
from econ_pyro.core.handlers import CleanLayers, one_at_a_time, seeded
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError

K = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1], [0, 0, 0], [2, 1, 1]])


def priors(networks):
    return {
        name: Normal(torch.zeros_like(p), 0.3).to_event(p.dim())
        for name, p in networks[0].named_parameters()
    }


def with_weights(program, trace):
    """A plain copy whose weights are those that a trace drew."""
    plain = copy.deepcopy(program)
    ensembles = {"decoder": "decoders", "attention": "attentions", "encoder": "encoders"}
    drawn = {n: trace.nodes[n]["value"] for n in trace.stochastic_nodes if "$$$" in n}
    with torch.no_grad():
        for name, value in drawn.items():
            ensemble, path = name.split("$$$")
            kind, k = ensemble.rsplit("_", 1)
            network = getattr(plain, ensembles[kind])[int(k)]
            dict(network.named_parameters())[path].copy_(value)
    return plain, drawn


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", ["each", "one"])
def test_networks_run_with_lifted_weights(pq, images, local, kind):
    for program, networks in ((pq[0], pq[0].decoders), (pq[1], pq[1].attentions)):
        prior = Normal(0.0, 0.3) if kind == "one" else priors(networks)
        own = copy.deepcopy(program.state_dict())
        with pyro.settings.context(module_local_params=local):
            trace = poutine.trace(poutine.lift(program, prior=prior)).get_trace(images, K)
        if local:
            assert not list(pyro.get_param_store())
        plain, drawn = with_weights(program, trace)
        assert len(drawn) >= 3 * len(list(networks[0].named_parameters()))
        latents = trace.copy()
        for name in drawn:
            latents.remove_node(name)
        pyro.clear_param_store()
        same = poutine.trace(poutine.replay(plain, trace=latents)).get_trace(images, K)
        for t in (1, 2, 3):
            for site in (sites.z(t), sites.r(t)):
                nodes = (trace.nodes[site], same.nodes[site])
                a, b = (node["fn"].log_prob(node["value"]) for node in nodes)
                torch.testing.assert_close(a, b)
        pyro.clear_param_store()
        other = poutine.trace(poutine.replay(program, trace=latents)).get_trace(images, K)
        site = sites.r(2)
        assert not torch.allclose(other.nodes[site]["fn"].mean, trace.nodes[site]["fn"].mean)
        assert all(torch.equal(a, own[name]) for name, a in program.state_dict().items())
        assert all(isinstance(p, torch.nn.Parameter) for p in program.parameters())
        pyro.clear_param_store()


def test_a_posterior_of_weights_learns(pq, images):
    model, guide = pq
    lifted = poutine.lift(model, prior=priors(model.decoders))
    weights = poutine.block(lifted, hide_fn=lambda site: "$$$" not in site["name"])
    auto = AutoDelta(weights, init_loc_fn=init_to_feasible)

    def both(x, k):
        auto(x, k)
        guide(x, k)

    svi = SVI(lifted, both, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(images, K)]
    start = {name: p.detach().clone() for name, p in auto.named_parameters()}
    losses += [svi.step(images, K) for _ in range(8)]
    assert torch.tensor(losses).isfinite().all() and losses[-1] < losses[0]
    moved = {name for name, p in auto.named_parameters() if not torch.equal(p, start[name])}
    assert {name.split("$$$")[0] for name in moved} >= {f"decoder_{k}" for k in range(3)}


def test_substituted_weights_are_used_and_wrong_ones_refused(pq, images):
    model, _ = pq
    name = "layers.head.bias"
    bias = torch.tensor([9.0, -9.0, 9.0, -9.0], dtype=torch.float64)
    weight = torch.zeros_like(model.decoders[0].layers.head.weight)
    data = {name: bias, "layers.head.weight": weight}
    with CleanLayers():
        canvas = poutine.substitute(model.prior, data=data)(2)
    want = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(3, 1, 1).expand_as(canvas.image)
    torch.testing.assert_close(canvas.image, want, atol=1e-3, rtol=0)
    pyro.clear_param_store()
    with pytest.raises(EconError, match=r"shape \(4,\) for decoder_0\$\$\$layers.head.bias, got"):
        poutine.substitute(model.prior, data={name: bias[:3]})(2)


def test_frozen_experts_run_and_are_not_pyros(pq, images):
    model, _ = pq
    model.decoders[0].requires_grad_(False)
    model(images, K)
    assert {n.split("$$$")[0] for n in pyro.get_param_store()} == {"decoder_1", "decoder_2"}


def test_reparametrised_seeded_and_unconditioned_programs(pq, images):
    model, guide = pq
    config = {sites.z(t): LocScaleReparam(0.0) for t in (1, 2, 3)}
    for program in (model, guide):
        trace = poutine.trace(poutine.reparam(program, config=config)).get_trace(images, K)
        assert "z_2_decentered" in trace.nodes and trace.log_prob_sum().isfinite()
        pyro.clear_param_store()
    a, b = (poutine.seed(model.prior, 3)(2).image for _ in range(2))
    assert torch.equal(a, b)
    free = poutine.trace(poutine.uncondition(model)).get_trace(images, K)
    assert not torch.equal(free.nodes[sites.IMAGE]["value"], images)


def test_clean_layers_leaves_others_sites_alone(pq):
    model, _ = pq
    half = torch.full((50,), 0.5)

    def program():
        pyro.sample("m_own", Bernoulli(half).to_event())
        pyro.sample("x_1x", Normal(half, 1).to_event())
        pyro.sample("m_9", Bernoulli(half).to_event())
        with scope(prefix="left"):
            left = model.prior(2)
        with scope(prefix="right"):
            right = model.prior(2)
        return left, right

    with CleanLayers():
        trace = poutine.trace(program).get_trace()
    for name in ("m_own", "m_9"):
        assert 5 < trace.nodes[name]["value"].sum() < 45
    assert trace.nodes["x_1x"]["value"].std() > 0.3
    for canvas, prefix in zip(trace.nodes["_RETURN"]["value"], ("left", "right"), strict=True):
        for i, t in enumerate(sites.front_to_back(3)):
            value = trace.nodes[f"{prefix}/{sites.x(t)}"]["value"]
            assert torch.equal(value, model.decode(canvas.z[:, i], canvas.k[:, i]).mean)


def test_clean_layers_leaves_what_is_given(pq):
    m = torch.rand(2, 1, 16, 16).double().round()
    for order in (lambda f: poutine.condition(f, {"m_2": m}), lambda f: poutine.do(f, {"m_2": m})):
        with CleanLayers():
            assert torch.equal(order(pq[0].prior)(2).shape[:, 1], m)


def test_predictions_have_the_composed_image(pq):
    model, _ = pq
    trace = poutine.trace(model.prior).get_trace(4)
    canvas, node = trace.nodes["_RETURN"]["value"], trace.nodes[sites.COMPOSED]
    regions = compositing.regions_of_shapes(canvas.shape)
    torch.testing.assert_close(node["value"], compositing.compose(regions, canvas.appearance))
    total = trace.log_prob_sum()
    assert node["log_prob_sum"] == 0 and node["fn"].batch_shape == (4,)
    trace.remove_node(sites.COMPOSED)
    assert torch.equal(trace.log_prob_sum(), total)
    drawn = Predictive(model.prior, num_samples=3, return_sites=(sites.COMPOSED,))(2)
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {"image": (3, 2, 3, 16, 16)}
    samples = {sites.k(1): torch.tensor([[0, 1], [2, 2]])}
    names = (sites.COMPOSED, sites.k(1))
    drawn = Predictive(model.prior, posterior_samples=samples, return_sites=names)(2)
    assert drawn["image"].shape == (2, 2, 3, 16, 16)
    assert torch.equal(drawn["k_1"], samples["k_1"])


def in_threads(*jobs):
    """Run jobs at once; what they gave, or the error."""
    found, start = [None] * len(jobs), threading.Barrier(len(jobs))

    def run(i):
        start.wait()
        try:
            found[i] = jobs[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_threads_give_what_one_gives_after_another(tiny):
    econ = Econ(tiny)
    x = torch.rand(3, 3, 16, 16)
    jobs = [lambda i=i: [econ.sample(2, seed=i).image for _ in range(10)] for i in range(4)]
    jobs.append(lambda: [econ.decompose(x, batch=2).z for _ in range(3)])
    jobs.append(lambda: [econ.sample_experts(3, seed=5)[0] for _ in range(5)])
    jobs.append(lambda: [Econ(tiny).model.decoders[0].layers.head.weight for _ in range(3)])
    state = torch.get_rng_state()
    want = [job() for job in jobs]
    for got, right in zip(in_threads(*jobs), want, strict=True):
        assert not isinstance(got, Exception), got
        assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not _PYRO_STACK and not pyro.settings.get("module_local_params")
    assert not list(pyro.get_param_store())


def test_bare_programs_wait_for_each_other(pq, images):
    model, guide = pq
    jobs = [lambda: model.prior(2).image, lambda: guide(images, K), lambda: model(images, K)]
    for _ in range(5):
        assert not any(isinstance(got, Exception) for got in in_threads(*2 * jobs))
    assert not _PYRO_STACK


def test_programs_under_handlers_are_told_of_the_global_stack(pq, monkeypatch):
    model, _ = pq
    inside, go_on = threading.Event(), threading.Event()

    def slow(msg):
        inside.set()
        go_on.wait(20)
        return {}

    def first():
        return poutine.infer_config(poutine.trace(model.prior).get_trace, slow)(2)

    def second():
        inside.wait(20)
        threading.Timer(0.2, go_on.set).start()  # when it waits for the first
        return poutine.trace(model.prior).get_trace(2)

    found = in_threads(first, second)
    assert not _PYRO_STACK
    for error in found:
        with pytest.raises(EconError, match=r"stack of handlers is global.*one_at_a_time\(\)"):
            raise error

    inside.clear()
    go_on.clear()
    decode = model.decode

    def waits(z, k):
        slow(None)
        return decode(z, k)

    monkeypatch.setattr(model, "decode", waits)  # of a program without handlers of its own
    found = in_threads(lambda: model.prior(2), second)
    assert not _PYRO_STACK and all(isinstance(error, EconError) for error in found)
    monkeypatch.undo()

    def together():
        with one_at_a_time():
            return set(poutine.trace(model.prior).get_trace(2).nodes)

    pyro.clear_param_store()
    want = together()
    assert all(names == want for _ in range(5) for names in in_threads(*4 * [together]))


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, True])
def test_seeded_takes_seeds_of_torch_alone(seed):
    with pytest.raises(EconError, match="for seed"), seeded(seed, torch.device("cpu")):
        pass
