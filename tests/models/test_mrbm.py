"""The M-RBM against complete enumeration, and its parts against formulas written out."""

from itertools import permutations, product
from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro import poutine

from econ_pyro.config import Config
from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.errors import EconError
from econ_pyro.guides.mrbm import MrbmSampler
from econ_pyro.infer import scene_model
from econ_pyro.model_config import MrbmConfig, SoftmaxMrbmConfig
from econ_pyro.models.mrbm import Mrbm, SoftmaxMrbm, all_orders
from econ_pyro.models.rbm import BinaryRBM, GaussianRBM, one_of
from econ_pyro.training.mrbm import divergence

# of 4 pixels, which no run's configuration may have
FOUR = SimpleNamespace(
    size=2, num_slots=3, sigma=0.5, appearance_units=2, shape_units=2, infer_sweeps=5,
    sample_sweeps=20,
)  # fmt: skip


def machine(kind=Mrbm, strength=0.3, **fields):
    torch.manual_seed(0)
    model = kind(SimpleNamespace(**vars(FOUR) | fields)).double()
    for p in model.parameters():
        p.data.add_(0.6 * torch.randn_like(p))
    # imputed pixels hold the chain back where weights are strong
    model.appearance.weight.data.mul_(strength)
    return model, MrbmSampler(model, all_orders, one_of)


def bits(n):
    return torch.tensor(list(product((0.0, 1.0), repeat=n)), dtype=torch.float64)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, 2, 2, dtype=torch.float64, generator=generator)


def enumerated(model, x):
    """Posterior of every hidden state and order, and of each pixel's layer, from energies.

    Sums over binary shapes (or masks) and integrates over appearances one pixel at a time.
    """
    sigma, h_of = model.config.sigma, bits(6).view(-1, 3, 2)  # of three appearances
    a = model.appearance
    mean = torch.einsum("nrj,rdj->nrd", h_of, a.weight) + a.visible_bias  # (64, 3, 12)
    # the integral of exp(-E) over a layer's free pixels is a constant times this, at each pixel
    free = (mean - a.visible_bias).square().view(-1, 3, 3, 4).sum(2) / (2 * sigma**2)
    gone = (x.flatten(1)[:, None] - mean).square().view(-1, 3, 3, 4).sum(2) / (2 * sigma**2)
    bias_h = (h_of * a.hidden_bias).sum((1, 2))
    weights, visible, rows = [], [], []
    s = model.shapes
    for o, order in enumerate(permutations(range(2)) if model.ordered else [()]):
        for g in bits(4).view(-1, 2, 2) if model.ordered else bits(2)[:, None]:
            if model.ordered:
                logits = torch.einsum("rj,rdj->rd", g, s.weight) + s.visible_bias
                options = list(product((0, 1), repeat=2))
            else:
                logits = torch.einsum("j,rdj->rd", g[0], s.weight) + s.visible_bias
                options = [tuple(int(k == j) for k in range(3)) for j in range(3)]
            pixel = torch.zeros(64, 3, 4, dtype=torch.float64)
            for option in options:
                energy = sum(logits[k] * on for k, on in enumerate(option))
                if model.ordered:
                    seen = next((k for k in order if option[k]), 2)
                else:
                    seen = option.index(1)
                others = free.sum(1) - free[:, seen]
                fit = free[:, seen] - gone[:, seen]
                pixel[:, seen] += (energy + others + fit).exp()
            whole = pixel.sum(1)
            prior = bias_h + (g * s.hidden_bias).sum()
            weights.append(whole.log().sum(-1) + prior)
            visible.append(pixel / whole[:, None])
            rows += [(o, *g.flatten().tolist())]
    p = torch.stack(weights).flatten().softmax(0).view(len(rows), 64)
    marginal = torch.einsum("rn,rnkd->kd", p, torch.stack(visible))
    hidden = torch.einsum("rn,nkj->kj", p, h_of)
    table = torch.tensor(rows, dtype=torch.float64)
    return p, marginal, hidden, p.sum(1) @ table[:, 1:], p.sum(1) @ table[:, :1]


@pytest.mark.parametrize("kind", [Mrbm, SoftmaxMrbm])
def test_gibbs_marginals_are_those_of_complete_enumeration(kind, x):
    """2,000 chains of 100 sweeps, to within 0.015."""
    model, sampler = machine(kind)
    _, visible, hidden, shapes, second = enumerated(model, x)
    many, sums, kept = x.flatten(1).expand(2000, -1), None, 70
    with torch.no_grad():
        h, g = sampler.run(many, 3, 30)
        for _ in range(kept):
            chain = sampler.sweep(many, h, g)
            h, g = chain.h, chain.g
            found = [chain.log_visible.exp(), h, g, chain.order_probs]
            found = [part.mean(0) for part in found]
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    means = [part / kept for part in sums]
    close = {"rtol": 0, "atol": 0.015}
    torch.testing.assert_close(means[0], visible, **close)
    torch.testing.assert_close(means[1], hidden, **close)
    torch.testing.assert_close(means[2].flatten(), shapes, **close)
    if model.ordered:
        torch.testing.assert_close(means[3][1:], second, **close)
        assert 0.05 < second.item() < 0.95


@pytest.mark.parametrize("kind", [Mrbm, SoftmaxMrbm])
def test_sweeps_keep_the_posterior_where_chains_hardly_mix(kind, x):
    """Strong weights: chains that start from the enumerated posterior have its marginals still."""
    model, sampler = machine(kind, strength=1.0)
    p, visible, hidden, shapes, _ = enumerated(model, x)
    state = p.flatten().multinomial(20_000, replacement=True)
    h = bits(6).view(-1, 3, 2)[state % 64]
    g = bits(4).view(-1, 2, 2) if model.ordered else bits(2)[:, None]
    g = g[(state // 64) % len(g)]
    many = x.flatten(1).expand(len(h), -1)
    with torch.no_grad():
        for _ in range(10):
            chain = sampler.sweep(many, h, g)
            h, g = chain.h, chain.g
    found = chain.log_visible.exp().mean(0), h.mean(0), g.mean(0).flatten()
    for mean, wanted in zip(found, (visible, hidden, shapes), strict=True):
        torch.testing.assert_close(mean, wanted, rtol=0, atol=0.015)


def test_the_posterior_of_the_order_is_exact(x):
    """Given hidden units, against a sum over all shapes of all pixels."""
    model, _ = machine(num_slots=4)
    h, g = bits(8)[77].view(1, 4, 2), bits(6)[37].view(1, 3, 2)
    mean = model.appearance.field(h)
    logits, fit = model.shapes.field(g), model.fit(x.flatten(1), mean)
    found = model.order_scores(logits, fit).log_softmax(1)[0]
    totals = []
    for order in permutations(range(3)):
        total = 0.0
        for i in range(4):
            pixel = 0.0
            for shape in product((0, 1), repeat=3):
                p = 1.0
                for k, on in enumerate(shape):
                    pi = logits[0, k, i].sigmoid()
                    p = p * (pi if on else 1 - pi)
                seen = next((k for k in order if shape[k]), 3)
                pixel = pixel + p * fit[0, seen, i].exp()
            total = total + pixel.log()
        totals.append(total)
    torch.testing.assert_close(found, torch.stack(totals).log_softmax(0))


@pytest.mark.parametrize("kind", [Mrbm, SoftmaxMrbm])
def test_joint_probabilities_of_a_trace_are_those_of_enumeration(kind, x):
    """Normalised over all hidden states and orders, scores of the program are the posterior."""
    model, _ = machine(kind)
    wanted = enumerated(model, x)[0]
    found = []
    for o in range(2 if model.ordered else 1):
        for g in bits(4).view(-1, 2, 2) if model.ordered else bits(2)[:, None]:
            data = {"order": torch.full((64,), o)} if model.ordered else {"g": g.expand(64, -1)}
            if model.ordered:
                data |= {f"g_{3 - i}": g[i].expand(64, -1) for i in range(2)}
            data |= {f"h_{3 - i}": h for i, h in enumerate(bits(6).view(-1, 3, 2).unbind(1))}
            fixed = poutine.condition(model, data=data)
            trace = poutine.trace(fixed).get_trace(x.expand(64, -1, -1, -1))
            trace.compute_log_prob()
            nodes = [n["log_prob"] for n in trace.nodes.values() if "log_prob" in n]
            found.append(sum(nodes))
    torch.testing.assert_close(torch.stack(found).flatten().softmax(0).view_as(wanted), wanted)


@pytest.mark.parametrize("kind", [Mrbm, SoftmaxMrbm])
def test_one_layer_is_an_rbm(kind, x):
    model, sampler = machine(kind, num_slots=1)
    h = bits(2)
    fixed = {"h_1": h} | ({} if model.ordered else {"g": torch.zeros_like(h)})
    many = x.expand(4, -1, -1, -1)
    trace = poutine.trace(poutine.condition(model, data=fixed)).get_trace(many)
    trace.compute_log_prob()
    score = sum(trace.nodes[name]["log_prob"] for name in ("h_1", "x"))
    rbm, v = model.appearance, many.flatten(1)
    w, b = rbm.weight[0], rbm.visible_bias[0]
    energy = (v - b).square().sum(1) / 0.5 - (((v - b) @ w) * h).sum(1) / 0.25
    energy = energy - h @ rbm.hidden_bias[0]
    torch.testing.assert_close(score.log_softmax(0), (-energy).log_softmax(0))
    torch.testing.assert_close((-energy).logsumexp(0), -rbm.free_energy(v[:1, None])[0, 0])
    chain = sampler.sweep(v, h[:, None], sampler.start(v, 1)[1])
    assert torch.equal(chain.appearance[:, 0], v)


def test_layers_in_another_place_draw_the_same_images(x):
    """Summed over orders, p(x, h, g) is that of permuted layers with permuted hidden units."""
    model, _ = machine()
    other, _ = machine()
    swap = torch.tensor([1, 0, 2])
    for name, value in model.state_dict().items():
        rows = swap if name.startswith("appearance") else swap[:2]
        other.state_dict()[name].copy_(value[rows])
    h, g = bits(6)[22].view(1, 3, 2), bits(4)[9].view(1, 2, 2)

    def score(p, h, g):
        fit = p.fit(x.flatten(1), p.appearance.field(h))
        seen = p.order_scores(p.shapes.field(g), fit).logsumexp(1)
        return seen + p.appearance.hidden_score(h).sum(1) + p.shapes.hidden_score(g).sum(1)

    swapped = score(other, h[:, swap], g[:, swap[:2]])
    torch.testing.assert_close(score(model, h, g), swapped)
    assert (score(model, h[:, swap], g[:, swap[:2]]) - swapped).abs() > 0.1


@pytest.mark.parametrize("kind", [BinaryRBM, GaussianRBM])
def test_gradients_are_the_statistics_of_contrastive_divergence(kind):
    torch.manual_seed(0)
    rbm = (kind(1, 3, 2, 0.5) if kind is GaussianRBM else kind(1, 3, 2)).double()
    for p in rbm.parameters():
        p.data.normal_(std=0.5)
    data = bits(3)[:, None]
    torch.manual_seed(3)
    negative = rbm.gibbs(data, 1)
    torch.manual_seed(3)
    divergence(rbm, data, 1).mean().backward()
    scale = 0.25 if kind is GaussianRBM else 1.0
    b = rbm.visible_bias[0] if kind is GaussianRBM else torch.zeros(3, dtype=torch.float64)
    w, c, wanted = rbm.weight[0], rbm.hidden_bias[0], 0.0
    hidden = 0.0
    for v, sign in ((data[:, 0], -1), (negative[:, 0], 1)):
        on = torch.sigmoid((v - b) @ w / scale + c)
        wanted = wanted + sign * ((v - b) / scale).T @ on / 8
        hidden = hidden + sign * on.mean(0)
    torch.testing.assert_close(rbm.weight.grad[0], wanted.detach())
    torch.testing.assert_close(rbm.hidden_bias.grad[0], hidden.detach())


def test_free_energy_of_held_out_data_falls_beside_that_of_other_data():
    """Alone it may fall of everything, as Z is unknown."""
    torch.manual_seed(0)
    rbm = BinaryRBM(1, 8, 4)
    optim = torch.optim.Adam(rbm.parameters(), 0.02)

    def runs(n):  # four neighbours on, of eight
        return (torch.arange(8) - torch.randint(5, (n, 1))).div(4, rounding_mode="floor").eq(0)

    held_out = runs(200).float()[:, None]
    shuffled = held_out[..., torch.randperm(8)]

    def margin():
        return (rbm.free_energy(shuffled) - rbm.free_energy(held_out)).mean().item()

    before = margin()
    for _ in range(300):
        optim.zero_grad()
        divergence(rbm, runs(32).float()[:, None], 1).mean().backward()
        optim.step()
    assert margin() > before + 1


@pytest.mark.parametrize("kind", [Mrbm, SoftmaxMrbm])
def test_sites_of_both_programs(kind, x):
    model, sampler = machine(kind)
    names = {"h_1", "h_2", "h_3"} | ({"g_3", "g_2", "order"} if model.ordered else {"g"})
    with pyro.validation_enabled(True):
        q = poutine.trace(sampler).get_trace(x.expand(5, -1, -1, -1))
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x.expand(5, -1, -1, -1))
    assert names <= set(q.nodes) and names | {"x"} <= set(p.nodes)
    p.compute_log_prob()
    for name in names:
        assert torch.equal(p.nodes[name]["value"], q.nodes[name]["value"])
        assert p.nodes[name]["log_prob"].shape == (5,)
    layers = torch.stack([q.nodes[f"x_{t}"]["value"] for t in (3, 2, 1)], 1)
    if model.ordered:  # what was completed paints the image
        order = all_orders(3, x)[q.nodes["order"]["value"]]
        shapes = [q.nodes[f"m_{t}"]["value"] for t in (3, 2)]
        shape = torch.stack([*shapes, torch.ones_like(shapes[0])], 1)
        rows = torch.arange(5)[:, None]
        painted = compose(regions_of_shapes(shape[rows, order]), layers[rows, order])
    else:
        painted = compose(q.nodes["masks"]["value"], layers)
    torch.testing.assert_close(painted, x.expand(5, -1, -1, -1))


def test_layers_and_order_can_be_set():
    model, _ = machine()
    whole = torch.ones(4, 1, 2, 2, dtype=torch.float64)
    data = {"order": torch.tensor([0, 1, 0, 1]), "m_3": whole, "m_2": whole}
    drawn = poutine.condition(model.prior, data=data)(4)
    for i, nearest in enumerate([0, 1, 0, 1]):
        torch.testing.assert_close(drawn.image[i], drawn.mean[i, nearest])
        assert drawn.order[i, 0] == nearest
    for wrong in (torch.tensor([0, 1, 2, 0]), torch.zeros(4), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(EconError, match="an order from 0 to 1 for each of 4 scenes"):
            poutine.condition(model.prior, data={"order": wrong})(4)
    with pytest.raises(EconError, match=r"h_2 of shape \(4, 2\)"):
        poutine.condition(model.prior, data={"h_2": torch.zeros(4, 3)})(4)


@pytest.mark.parametrize("config", [MrbmConfig, SoftmaxMrbmConfig])
def test_samples_and_decompositions_are_repeatable_and_painted_from_layers(config):
    sizes = config(num_slots=3, size=8, infer_sweeps=4, sample_sweeps=5)
    model = scene_model.build(Config(model=sizes))
    drawn, again = model.sample(5, seed=3), model.sample(5, seed=3)
    assert torch.equal(drawn.image, again.image) and (drawn.shape[:, -1] == 1).all()
    regions = regions_of_shapes(drawn.shape)
    torch.testing.assert_close(compose(regions, drawn.appearance), drawn.image)
    x = torch.rand(3, 3, 8, 8)
    d, e = model.decompose(x), model.decompose(x)
    assert torch.equal(d.region, e.region)
    torch.testing.assert_close(d.region.sum(1), torch.ones(3, 1, 8, 8))
    assert (d.shape - d.region).min() > -1e-6 and (d.scope - d.region).min() > -1e-6
    assert model.decompose(x, 5).region.shape[1] == 5
    if model.model.ordered:
        with pytest.raises(EconError, match="at most 7 for slots"):
            model.decompose(x, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_slots": 8}, "at most 7 for model.num-slots"),
        ({"sigma": 0.0}, "at least 0.001 for model.sigma"),
        ({"cd_steps": 0}, "at least 1 for model.cd-steps"),
        ({"kind": "econ"}, "one of mrbm for model.kind"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        MrbmConfig(**fields)
