"""Slot Attention: its programs, one iteration against loops, and what slots cannot do."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from econ_pyro.config import Config
from econ_pyro.errors import EconError
from econ_pyro.guides.slot_attention import PixelEncoder, SlotAttentionGuide, SlotUpdate
from econ_pyro.infer import scene_model
from econ_pyro.infer.slot_elbo import explained
from econ_pyro.model_config import SlotAttentionConfig
from econ_pyro.models.slot_attention import NoPrior, SlotAttention

TINY = SlotAttentionConfig(num_slots=3, size=16, latent_dim=4, layers=2, features=5, hidden=6)


@pytest.fixture
def pair():
    model, guide = SlotAttention(TINY).double(), SlotAttentionGuide(TINY).double()
    for parameter in guide.updates.parameters():  # norms and the start are not what they were
        torch.nn.init.normal_(parameter, std=0.5)
    return model, guide


@pytest.fixture
def x(images):
    return images[:2]


def test_sites_of_both_programs(pair, x):
    model, guide = pair
    with pyro.validation_enabled(True):
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    latents, starts = {"z_1", "z_2", "z_3"}, {"z_start_1", "z_start_2", "z_start_3"}
    assert latents | starts == set(q.stochastic_nodes) - {"scenes"}
    assert latents | {"masks"} == set(p.stochastic_nodes) - {"scenes"}
    assert q.observation_nodes == ["attention"] and p.observation_nodes == ["x"]
    p.compute_log_prob()
    assert {tuple(p.nodes[name]["log_prob"].shape) for name in latents | {"masks", "x"}} == {(2,)}
    for m in (q.nodes["attention"]["value"], p.nodes["masks"]["value"]):
        assert m.shape == (2, 3, 1, 16, 16) and m.min() >= 0
        torch.testing.assert_close(m.sum(1), torch.ones_like(m[:, 0]))


def test_an_iteration_is_that_of_loops_over_slots_and_pixels(pair):
    update = pair[1].updates[0]
    z, features = torch.randn(1, 3, 4).double(), torch.randn(1, 7, 5).double()
    keys, values = update.key(features), update.value(features)
    found, attention = update(z, keys, values)

    def affine(layer, value):
        bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
        rows = zip(layer.weight.tolist(), bias, strict=True)
        return [sum(w * v for w, v in zip(row, value, strict=True)) + b for row, b in rows]

    def normed(layer, value):
        mean = sum(value) / len(value)
        scale = math.sqrt(sum((v - mean) ** 2 for v in value) / len(value) + layer.eps)
        scaled = zip(value, layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [(v - mean) / scale * w + b for v, w, b in scaled]

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    slots, pixels = z[0].tolist(), features[0].tolist()
    queries = [affine(update.query, normed(update.norm, slot)) for slot in slots]
    shares = []
    for pixel in pixels:
        key = affine(update.key, pixel)
        scores = [math.exp(sum(a * b for a, b in zip(q, key, strict=True)) / 2) for q in queries]
        shares.append([score / sum(scores) for score in scores])
    torch.testing.assert_close(attention[0].T, torch.tensor(shares).double())
    for t, slot in enumerate(slots):
        whole = sum(share[t] for share in shares)
        moved = [0.0] * 4
        for share, pixel in zip(shares, pixels, strict=True):
            value = affine(update.value, pixel)
            moved = [a + share[t] / whole * b for a, b in zip(moved, value, strict=True)]
        cell = update.cell  # reset, update and new state, in torch's order
        of_input = [
            sum(w * v for w, v in zip(row, moved, strict=True)) + b
            for row, b in zip(cell.weight_ih.tolist(), cell.bias_ih.tolist(), strict=True)
        ]
        of_state = [
            sum(w * v for w, v in zip(row, slot, strict=True)) + b
            for row, b in zip(cell.weight_hh.tolist(), cell.bias_hh.tolist(), strict=True)
        ]
        state = []
        for j in range(4):
            reset = sigmoid(of_input[j] + of_state[j])
            keep = sigmoid(of_input[4 + j] + of_state[4 + j])
            new = math.tanh(of_input[8 + j] + reset * of_state[8 + j])
            state.append((1 - keep) * new + keep * slot[j])
        norm, first, _, second = update.residual
        inner = [max(v, 0.0) for v in affine(first, normed(norm, state))]
        wanted = [a + b for a, b in zip(state, affine(second, inner), strict=True)]
        assert found[0, t].tolist() == pytest.approx(wanted)


def test_slots_whose_starts_are_permuted_come_out_permuted(pair, x):
    model, guide = pair
    start, order = torch.randn(3, 2, 4).double(), [2, 0, 1]

    def run(start):
        given = {f"z_start_{t}": start[3 - t] for t in (3, 2, 1)}
        found, _ = explained(model, poutine.condition(guide, data=given), x, 3)
        return found

    one, other = run(start), run(start[order])
    assert not torch.allclose(one.z[:, 0], one.z[:, 1])
    for name in ("z", "mask", "mean"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name)[:, order])


def test_features_know_where_a_pixel_is():
    encoder = PixelEncoder(TINY).double()
    features = encoder(torch.full((1, 3, 16, 16), 0.5).double()).unflatten(1, (16, 16))
    inner = features[0, 5:11, 5:11]  # far from the padding
    assert (inner - inner[0, 0]).abs().amax(-1).flatten()[1:].min() > 1e-3
    torch.testing.assert_close(features.mean(-1), torch.zeros_like(features[..., 0]))


def test_starts_are_samples_of_the_learnt_gaussian(pair, x):
    _, guide = pair
    update = guide.updates[0]
    assert isinstance(update, SlotUpdate)
    fn = poutine.trace(guide).get_trace(x).nodes["z_start_2"]["fn"]
    torch.testing.assert_close(fn.mean, update.mean.expand(2, -1))
    torch.testing.assert_close(fn.variance, (2 * update.log_scale).exp().expand(2, -1))


def test_decompositions_start_alike_whenever_they_are_asked_for(x):
    model = scene_model.build(Config(model=TINY))
    d = model.decompose(x.float())
    torch.rand(3)
    again = model.decompose(x.float(), batch=1)
    torch.testing.assert_close(d.region, again.region)
    assert model.decompose(x.float(), 1).region.eq(1).all()
    assert model.decompose(x.float(), 6).region.shape[1] == 6
    torch.testing.assert_close(d.shape, d.region)


def test_the_loss_is_the_squared_error_of_the_blend(pair, x):
    model, guide = pair
    found, terms = explained(*pair, x, 3, mean=True)
    wanted = (x - (found.mask * found.mean).sum(1)).square().sum((1, 2, 3)) / (2 * 0.1**2)
    torch.testing.assert_close(terms.x.sum(1), wanted)
    assert not terms.z.any() and not terms.r.any()
    # in Pyro's terms: minus a log likelihood, and nothing of the slots
    constant = 3 * 16**2 * (math.log(0.1) + 0.5 * math.log(2 * math.pi))
    with pyro.validation_enabled(False):
        loss = Trace_ELBO().loss(model, lambda x: guide(x, None, True), x)
    assert loss == pytest.approx((wanted + constant).sum().item())


def test_an_iteration_moves_slots_and_its_number_counts(x):
    few, many = (SlotAttentionGuide(replace(TINY, iterations=n)) for n in (1, 3))
    many.load_state_dict(few.state_dict())
    features = few.encoders[0](x.float())
    start = torch.randn(2, 3, 4)
    by_hand = start
    for _ in range(3):
        by_hand, _ = few.refine(by_hand, features)
    torch.testing.assert_close(many.refine(start, features)[0], by_hand)


def test_scenes_are_drawn_of_given_slots_alone(pair):
    model, _ = pair
    given = {f"z_{t}": torch.randn(2, 4).double() for t in (1, 2, 3)}
    drawn = poutine.condition(model, data=given)(None, scenes=2)
    assert drawn.image.shape == (2, 3, 16, 16)
    noise = drawn.image - (drawn.mask * drawn.mean).sum(1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    for draw in (model, model.prior, lambda: scene_model.build(Config(model=TINY)).sample()):
        with pytest.raises(EconError, match="a generative model.* slots have no prior"):
            draw()
    with pytest.raises(ValueError, match="outside|support|expected"):
        NoPrior(torch.Size((1,)), torch.Size((2,)), True).log_prob(torch.full((1, 2), math.nan))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "at least 1 for model.iterations"),
        ({"latent_dim": 0}, "at least 1 for model.latent-dim"),
        ({"sigma": -1.0}, "a positive model.sigma"),
        ({"kind": "monet"}, "one of slot-attention for model.kind"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(EconError, match=message):
        replace(TINY, **fields)


def test_programs_check_what_they_are_given(pair, x):
    for program in pair:
        with pytest.raises(EconError, match="add the batch axis"):
            program(x[0])
        with pytest.raises(EconError, match="at least 1 for slots"):
            program(x, 0)
    start = {"z_start_2": torch.zeros(2, 9).double()}
    with pytest.raises(EconError, match="z_start_2"):
        poutine.condition(pair[1], data=start)(x)
    with pytest.raises(EconError, match="z_3"):
        poutine.condition(pair[0], data={"z_3": torch.zeros(2, 9).double()})(x)
