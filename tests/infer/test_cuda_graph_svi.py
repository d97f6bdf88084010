"""Steps in fixed room, and steps replayed from CUDA graphs, against the step that is neither."""

import copy
import dataclasses

import pyro
import pytest
import torch
from torch import nn

from econ_pyro.core.ensemble import Ensemble, Room, fixed_room
from econ_pyro.guides.recognition import Recognition
from econ_pyro.infer import cuda_graph_svi
from econ_pyro.infer.cuda_graph_svi import CapturedSVI, room_for
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.presets import PRESETS
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import Learner

STEPS = [
    ("random-colours", {"order_from": 2, "balance_until": 3}),
    ("paper-random-colours", {}),
    ("random-colours", {"temperature": 0.0, "temperature_end": None, "occlude": 0.0}),
    ("single-expert", {}),  # of true regions
]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def make_ensemble():
    return Ensemble(lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh()), 3).double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("room", [Room(6, 24), Room(0, 0)])
def test_room_changes_no_output_and_no_gradient(seed, room):
    torch.manual_seed(seed)
    ensemble, x = make_ensemble(), torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    k = torch.randint(2, (6, 4))  # the third network has nothing to do
    y = x.repeat_interleave(4, 0)
    if not room.looks:
        room = room_for(torch.cat([k, k[:, :1]], 1), 3)
    given = [*ensemble.parameters(), x]

    def run():
        looks, won = ensemble.of_looks(k, x), ensemble.of_winners(k.flatten(), y)
        weight = torch.linspace(1, 2, looks.numel(), dtype=x.dtype).view_as(looks)
        loss = (looks * weight).sum() + (won.square() * weight.flatten(0, 1)).sum()
        return looks, won, torch.autograd.grad(loss, given, allow_unused=True)

    looks, won, gradients = run()
    assert torch.allclose(looks.flatten(0, 1), won)
    with fixed_room(room):
        same_looks, same_won, same_gradients = run()
    torch.testing.assert_close(same_looks, looks)
    torch.testing.assert_close(same_won, won)
    for a, b in zip(same_gradients, gradients, strict=True):
        if b is None:  # a loser is in the graph, with a gradient of zero
            assert not a.any()
        else:
            torch.testing.assert_close(a, b)


def test_who_finds_no_room_takes_nobody_elses():
    ensemble, x = make_ensemble(), torch.randn(8, 5, dtype=torch.float64)
    k = torch.tensor([0, 0, 1, 0, 0, 1, 2, 2])  # the first has four images and room for two
    alone = torch.stack([ensemble[e](row) for e, row in zip(k.tolist(), x, strict=True)])
    seated = [0, 1, 2, 5, 6, 7]
    with fixed_room(Room(8, 2)):
        torch.testing.assert_close(ensemble.of_winners(k, x)[seated], alone[seated])


def test_what_all_make_of_images_leaves_no_graph():
    ensemble, x = make_ensemble(), torch.randn(2, 3, 5, dtype=torch.float64)
    out = ensemble.of_all(x)
    assert not out.requires_grad
    for e in range(3):
        torch.testing.assert_close(out[:, e], ensemble[e](x[:, e]))


def test_room_is_enough_and_comes_in_few_sizes():
    for seed in range(50):
        torch.manual_seed(seed)
        k = torch.randint(4, (16, 4))
        room = room_for(k, 4)
        counts = torch.stack([(k == e).sum() for e in range(4)])
        looks = torch.stack([(k[:, :-1] == e).any(1).sum() for e in range(4)])
        assert counts.max() <= room.layers <= 64
        assert looks.max() <= room.looks <= 16
        assert room.layers % 4 == 0
    assert room_for(torch.zeros(16, 4, dtype=torch.long), 4) == Room(16, 64)
    assert room_for(torch.zeros(2, 1, dtype=torch.long), 4).layers == 2


def make_pair(preset, device, compiled=False, **objective):
    """A captured step and one as it is, in float64, of equal weights."""
    config = PRESETS[preset][1]
    expert = dataclasses.replace(config.model.expert, features=4, channels=(4, 4, 8), hidden=8)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, size=16, expert=expert),
        objective=dataclasses.replace(config.objective, **objective),
        amp=False,
        compile=compiled,
    )
    torch.manual_seed(1)
    parts = DeadLeaves(config.model), Recognition(config.model)
    parts = [part.to(device, torch.float64) for part in parts]
    others = copy.deepcopy(parts)
    plain = dataclasses.replace(config, graphs=False, compile=False)
    ours = Learner(config, *parts, torch.device(device), World())
    return ours, Learner(plain, *others, torch.device(device), World())


def hold_to_each_other(ours, theirs, device):
    """Six steps of both: losses, winners, gradients, and who has none; then evaluations."""
    assert type(ours.svi) is CapturedSVI and type(theirs.svi) is CompetitiveSVI
    regions = None
    for step in range(6):
        torch.manual_seed(step)
        x = torch.rand(8, 3, 16, 16, dtype=torch.float64, device=device)
        if step == 4:  # as if the last steps had needed less: too little now
            ours.svi._needed.clear()
            ours.svi._needed.append(Room(1, 4))
        if ours.config.true_regions:
            regions = (9 * torch.rand(8, 4, 1, 16, 16, dtype=x.dtype, device=device)).softmax(1)
        losses, gradients = [], []
        for learner in (ours, theirs):
            torch.manual_seed(step)
            with pyro.validation_enabled(False):
                losses.append(learner.step(x, regions, step).loss.item())
            parameters = [*learner.model.parameters(), *learner.guide.parameters()]
            gradients.append([p.grad for p in parameters])
        assert losses[0] == pytest.approx(losses[1], rel=1e-8)
        assert torch.equal(ours.svi.last.k, theirs.svi.last.k)
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8 * b.abs().max().item())
    for a, b in zip(ours.guide.parameters(), theirs.guide.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pyro.validation_enabled(False):
        d, e = (learner.svi.explain(x, regions) for learner in (ours, theirs))
    assert torch.equal(d.k, e.k)
    torch.testing.assert_close(d.region, e.region)
    torch.testing.assert_close(d.terms, e.terms)


@pytest.mark.parametrize(("preset", "objective"), STEPS)
def test_what_is_captured_are_the_steps_themselves(monkeypatch, preset, objective):
    """On any machine: functions in place of graphs."""

    keys = []

    class Functions:
        def __call__(self, key, function, *inputs):
            keys.append(key)
            return function(*inputs)

    monkeypatch.setattr(cuda_graph_svi, "Graphs", Functions)
    ours, theirs = make_pair(preset, "cpu", **objective)
    svi = ours.svi
    given = (svi.model, svi.guide, svi.optim, svi.elbo, svi.rules, svi.latent)
    ours.svi = CapturedSVI(*given, occlude=svi.occlude)
    hold_to_each_other(ours, theirs, "cpu")
    assert len(set(keys)) < len(keys)
    # neither the temperature nor the weight of L_r asks for a graph of its own
    seen = set(keys)
    ours.svi.rules = dataclasses.replace(ours.svi.rules, temperature=0.3)
    ours.svi.elbo.gamma = 0.9
    with pyro.validation_enabled(False):
        x = torch.rand(8, 3, 16, 16, dtype=torch.float64)
        regions = torch.rand(8, 4, 1, 16, 16).double() if ours.config.true_regions else None
        ours.svi.elect(x, regions)
        ours.svi.explain(x, regions)
    assert set(keys) == seen


@CUDA
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, in torch
@pytest.mark.parametrize(
    ("preset", "compiled", "objective"),
    [(preset, False, objective) for preset, objective in STEPS]
    + [("random-colours", True, STEPS[0][1])],
)
def test_captured_steps_are_the_steps_themselves(preset, compiled, objective):
    hold_to_each_other(*make_pair(preset, "cuda", compiled, **objective), "cuda")
