"""Ways into the programs: experts that do not exist, and tensors that torch would broadcast."""

import re
from dataclasses import replace

import pytest
import torch
from pyro import poutine

from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.errors import EconError
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.exhaustive import ExhaustiveCompetition
from econ_pyro.infer.oracle_competition import OracleCompetition

S = 16
K = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]])


def selected(k, **changes):
    """What a competition of these winners may have fixed for three scenes."""
    given = {
        "noise": torch.zeros(3, k.shape[1], 2).double(),
        "seed_pixel": torch.zeros(3, k.shape[1], dtype=torch.long),
        "losses": torch.zeros(3, k.shape[1], 3).double(),
        "region": torch.ones(3, k.shape[1], 1, S, S).double(),
    }
    return Selection(k, **given | changes)


@pytest.fixture
def ways(make_pq):
    """Every way in for experts ``(3,)`` of three scenes."""
    model, guide = make_pq()
    _, seeded = make_pq(seeded=True)
    x = torch.rand(3, 3, S, S).double()
    z, ones = torch.zeros(3, 2).double(), torch.ones(3, 1, S, S).double()
    pixels = torch.zeros(3, 1, dtype=torch.long)

    def regions(k):
        """Of two layers from seed pixels, of which the first has to look."""
        two = torch.stack([k, k], 1) if isinstance(k, torch.Tensor) else k
        return seeded.given(selected(torch.zeros(3, 2))).regions(x, two)

    def layers(k):
        """As the middle one of three layers, where k can be one of a program's."""
        middle = isinstance(k, torch.Tensor) and k.dim() == 1
        return torch.stack([k, k, k], 1) if middle else k

    return {
        "decode": lambda k: model.decode(z, k),
        "attend": lambda k: guide.attend(x, ones, k),
        "attend from a seed": lambda k: seeded.attend(x, ones, k, pixels[:, 0]),
        "regions": regions,
        "encode": lambda k: guide.encode(x, ones, k),
        "model": lambda k: model(x, layers(k)),
        "guide": lambda k: guide(x, layers(k)),
        "prior": lambda k: model.prior(3, layers(k)),
        "condition": lambda k: poutine.condition(model.prior, data={"k_2": k})(3),
        "do": lambda k: poutine.do(model.prior, data={"k_2": k})(3),
    }


NAMES = [
    "decode", "attend", "attend from a seed", "regions", "encode", "model", "guide", "prior",
    "condition", "do",
]  # fmt: skip


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("index", [3, 9, -1, -3])
@pytest.mark.parametrize("where", ["one", "all"])
def test_experts_that_do_not_exist(ways, way, index, where):
    ways[way](torch.tensor([0, 2, 1]))
    k = torch.tensor([0, index, 1]) if where == "one" else torch.full((3,), index)
    with pytest.raises(EconError, match=rf"from 0 to 2, got {index}\b.* the model has K = 3"):
        ways[way](k)


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize(
    "k",
    [
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([0, 1, 1]) > 0,
        torch.tensor([0]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1, 2, 0]),
        torch.zeros(3, dtype=torch.long, device="meta"),
    ],
    ids=str,
)
def test_experts_of_another_type_shape_or_place(ways, way, k):
    with pytest.raises(EconError, match="indices of experts|of shape|on cpu"):
        ways[way](k)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_integers_of_other_types_are_indices_too(ways, kind):
    for way in NAMES:
        ways[way](torch.tensor([0, 2, 1]).to(kind))


def test_an_ensemble_itself_knows_its_networks():
    ensemble = Ensemble(lambda: torch.nn.Linear(2, 2), 3)
    x = torch.rand(4, 2)
    looks = [[0, 1], [0, 1], [1, 2], [3, 0]]
    for run, k in ((ensemble.forward_selected, [0, 3, 1, 1]), (ensemble.forward_each, looks)):
        with pytest.raises(EconError, match="from 0 to 2, got 3"):
            run(torch.tensor(k), x)


@pytest.mark.parametrize("site", ["z_2", "m_2", "x_2", "z_1"])
@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_values_of_sites_are_not_broadcast(pq, site, handler):
    shapes = {"z": (2,), "m": (1, S, S), "x": (3, S, S)}
    shape = shapes[site[0]]
    right = torch.ones(3, *shape).double()
    handler(pq[0].prior, data={site: right})(3)
    for wrong in (right[:1], right[0], right[..., :1], right[:2]):
        with pytest.raises(EconError, match=rf"{site} of shape .*, got "):
            handler(pq[0].prior, data={site: wrong})(3)
    with pytest.raises(EconError, match=f"floats .* for {site}, got int64"):
        handler(pq[0].prior, data={site: right.long()})(3)


def test_regions_and_latents_of_programs_are_not_broadcast(pq):
    x = torch.rand(3, 3, S, S).double()
    wrong = {"r_2": torch.ones(1, 1, S, S).double(), "z_2": torch.ones(1, 2).double()}
    for program, site in ((pq[0], "r_2"), (pq[0], "z_2"), (pq[1], "r_2")):
        with pytest.raises(EconError, match=f"{site} of shape"):
            poutine.condition(program, data={site: wrong[site]})(x, K)


def test_arguments_of_programs_are_not_broadcast(make_pq):
    model, guide = make_pq(seeded=True)
    x = torch.rand(3, 3, S, S).double()
    given = {
        "noise": torch.zeros(3, 3, 2).double(),
        "evidence": torch.rand(3, 3, 1, S, S).double().softmax(1),
        "seed_pixel": torch.zeros(3, 3, dtype=torch.long),
        "occluder": torch.zeros(3, 3, 4, S, S).double(),
    }
    for name, right in given.items():
        guide.given(selected(K, **{name: right}))(x, K)
        for wrong in (right[:1], right[:, :1], right[0]):
            with pytest.raises(EconError, match=f"{name} of shape"):
                guide.given(selected(K, **{name: wrong}))(x, K)
    for pixel in (-1, S * S):
        pixels = guide.given(selected(K, seed_pixel=torch.full((3, 3), pixel)))
        for call in (pixels, pixels.regions):
            with pytest.raises(
                EconError, match=f"pixels from 0 to 255 for seed_pixel, got {pixel}"
            ):
                call(x, K)
    for k in (K[:1], K[0], K[:, :0]):
        for program in (model, guide):
            with pytest.raises(EconError, match="k of shape"):
                program(x, k)
    with pytest.raises(EconError, match=r"k of shape \(1, 3\), got \(3, 3\)"):
        model.prior(k=K)
    for slots in (2, 4):
        with pytest.raises(EconError, match=f"3 for slots, the layers of k, got {slots}"):
            model.prior(3, K, slots)
    x_1, r = x[:1], torch.ones(3, 1, S, S).double()
    for call in (
        lambda: guide.attend(x, r[:1], K[:, 0]),
        lambda: guide.attend(x_1, r, K[:, 0]),
        lambda: guide.attend(x, r, K[:, 0], torch.zeros(1, dtype=torch.long)),
        lambda: guide.encode(x, r[:1], K[:, 0]),
        lambda: guide.encode(x_1, r, K[:, 0]),
        lambda: guide.encode(x, r, K[:, 0], torch.zeros(1, 2).double()),
        lambda: guide.encode_all(x, r[:, None], torch.zeros(3, 2).double()),
        lambda: model.decode(torch.zeros(1, 2).double(), K[:, 0]),
        lambda: model.decode(torch.zeros(3, 1).double(), K[:, 0]),
        lambda: model.decode_all(torch.zeros(3, 4, 2).double()),
    ):
        with pytest.raises(EconError, match="of shape"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x * 255).byte(), "divide by 255"),
        (lambda x: x.permute(0, 2, 3, 1), r"images.permute\(0, 3, 1, 2\)"),
        (lambda x: x[:, :1], r"images.expand\(-1, 3, -1, -1\)"),
        (lambda x: x[0], r"images\[None\]"),
        (lambda x: x.numpy(), "torch.from_numpy"),
        (lambda x: x.to("meta"), "meta"),
    ],
)
def test_images_of_programs(pq, change, message):
    for program in pq:
        with pytest.raises(EconError, match=message):
            program(change(torch.rand(3, 3, S, S)), K)


def test_programs_score_noisy_images_of_the_prior(pq):
    model, _ = pq
    image = 3 * model.prior(3).image - 1
    assert image.min() < 0 and image.max() > 1
    assert poutine.trace(model).get_trace(image, K).log_prob_sum().isfinite()


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 2, 2)])
def test_exhaustive_search_is_of_what_there_is(pq, shape):
    x = torch.rand(3, 3, S, S).double()
    with pytest.raises(EconError, match="noise of shape"):
        ExhaustiveCompetition(3).search(*pq, x, torch.zeros(shape).double())


@pytest.mark.parametrize("competition", [GreedyCompetition(3), ExhaustiveCompetition(3)])
def test_random_numbers_of_a_competition_are_not_broadcast(pq, competition):
    x = torch.rand(3, 3, S, S).double()
    right = {"noise": torch.zeros(3, 3, 2).double(), "gumbel": torch.zeros(3, 3, 3).double()}
    competition(*pq, x, draws=Draws(**right))
    for name, value in right.items():
        for wrong in (value[:1], value[:, :1], value[0], value[:, :2]):
            with pytest.raises(EconError, match=f"{name} of shape"):
                competition(*pq, x, draws=Draws(**right | {name: wrong}))
    with pytest.raises(EconError, match="gumbel of shape"):
        competition(*pq, x, draws=Draws(**right | {"gumbel": right["gumbel"][..., :1]}))
    biased = replace(competition, expert_bias=torch.zeros(4))
    with pytest.raises(EconError, match="expert_bias of shape"):
        biased(*pq, x)


def test_competitions_are_told_of_true_regions_they_do_not_take_and_lack(pq):
    x, r = torch.rand(3, 3, S, S).double(), torch.ones(3, 3, 1, S, S).double() / 3
    with pytest.raises(EconError, match="no true regions for GreedyCompetition, got some"):
        GreedyCompetition(3)(*pq, x, r)
    with pytest.raises(EconError, match="true regions for OracleCompetition, got none"):
        OracleCompetition(3)(*pq, x)
    for wrong in (r[:1], r[:, :1], r[0]):
        with pytest.raises(EconError, match="evidence of shape"):
            OracleCompetition(3)(*pq, x, wrong)


def test_messages_are_one_line(ways):
    for way in NAMES:
        with pytest.raises(EconError) as error:
            ways[way](torch.full((3,), 7))
        assert "\n" not in str(error.value) and re.match("expected .*, got 7", str(error.value))
