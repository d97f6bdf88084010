"""Steps at a fixed capacity, and those of CUDA graphs, against the step that is neither."""

import copy
from dataclasses import replace

import pyro
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from econ_pyro.accel.dispatch import Capacity
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.core import tensors
from econ_pyro.econ import Econ
from econ_pyro.guides import seeded
from econ_pyro.infer import cuda_graph_svi
from econ_pyro.infer.cuda_graph_svi import CudaGraphSVI, capacity_for
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.presets import PRESETS
from econ_pyro.training.learner import Learner

COLD = {"temperature": 0.0, "temperature_end": None}
STEPS = [  # preset, and options of the competition and the recipe
    ("random-colours", {"depth_order_from": 2}, {"load_balancing_until": 3}),
    ("paper-random-colours", {}, {}),
    ("random-colours", COLD, {"occlusion": 0.0}),
    ("single-expert", {}, {}),  # of true regions
    ("turned-random-colours", {}, {}),
]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_capacities_are_enough_and_come_in_few_sizes():
    for seed in range(50):
        torch.manual_seed(seed)
        k = torch.randint(4, (16, 4))
        capacity = capacity_for(k, 4)
        counts = torch.stack([(k == e).sum() for e in range(4)])
        images = torch.stack([(k[:, :-1] == e).any(1).sum() for e in range(4)])
        assert counts.max() <= capacity.layers <= 64
        assert images.max() <= capacity.images <= 16
        assert capacity.layers % 4 == 0
    assert capacity_for(torch.zeros(16, 4, dtype=torch.long), 4) == Capacity(16, 64)
    assert capacity_for(torch.zeros(2, 1, dtype=torch.long), 4).layers == 2


def make_pair(preset, device, competition, recipe, compiled=False):
    """A captured step and one as it is, in float64, of equal weights."""
    config = PRESETS[preset][1]
    model = config.model
    attention = replace(model.expert.attention, channels=(4, 4, 8), hidden=8)
    expert = replace(model.expert, features=4, attention=attention)
    competition = replace(model.competition, **competition)
    config = replace(
        config,
        model=replace(model, size=16, expert=expert, competition=competition),
        recipe=replace(config.recipe, **recipe) if recipe else config.recipe,
        seed=1,
        amp=False,
        compile=compiled,
    )
    econ = Econ(config, device).double()
    plain = copy.deepcopy(econ)
    plain.config = replace(config, cuda_graphs=False, compile=False)
    device = torch.device(device)
    return tuple(Learner(e.config, e, device, ProcessGroup()) for e in (econ, plain))


def hold_to_each_other(ours, theirs, device):
    """Six steps of both: losses, winners, gradients, and who has none; then evaluations."""
    assert type(ours.engine) is CudaGraphSVI and type(theirs.engine) is CompetitiveSVI
    regions = None
    for step in range(6):
        torch.manual_seed(step)
        x = torch.rand(8, 3, 16, 16, dtype=torch.float64, device=device)
        if step == 4:  # as if the last steps had needed less: too little now
            ours.engine._needed.clear()
            ours.engine._needed.append(Capacity(1, 4))
        if ours.config.gt_masks:
            regions = (9 * torch.rand(8, 4, 1, 16, 16, dtype=x.dtype, device=device)).softmax(1)
        losses, winners, gradients = [], [], []
        for learner in (ours, theirs):
            torch.manual_seed(step)
            with pyro.validation_enabled(False):
                result = learner.step(x, regions, step)
            losses.append(result.loss.item())
            winners.append(result.k)
            gradients.append([p.grad for p in learner.model.parameters()])
        assert losses[0] == pytest.approx(losses[1], rel=1e-8)
        assert torch.equal(*winners)
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8 * b.abs().max().item())
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pyro.validation_enabled(False):
        d, e = (learner.engine.decompose(x, regions) for learner in (ours, theirs))
    assert torch.equal(d.k, e.k)
    torch.testing.assert_close(d.region, e.region)
    torch.testing.assert_close(d.terms, e.terms)


class NeverWaiting(TorchDispatchMode):
    """Refuses what would make the host and a GPU wait for each other, which no graph can."""

    refused = {
        torch.ops.aten._local_scalar_dense.default: "a value is read",
        torch.ops.aten.nonzero.default: "a shape depends on values",
        torch.ops.aten.lift_fresh.default: "numbers are copied from the host",
    }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.refused, self.refused[func]
        return func(*args, **(kwargs or {}))


def without_capacity(keys):
    return {tuple(part for part in key if not isinstance(part, Capacity)) for key in keys}


@pytest.mark.parametrize(("preset", "competition", "recipe"), STEPS)
def test_what_is_captured_are_the_steps_themselves(monkeypatch, preset, competition, recipe):
    """On any machine: functions in place of graphs."""

    keys = []

    class Functions:
        def __call__(self, key, function, *inputs):
            keys.append(key)
            with NeverWaiting():
                return function(*inputs)

    monkeypatch.setattr(cuda_graph_svi, "Graphs", Functions)
    for module, check in ((tensors, "check_expert_range"), (seeded, "check_seed_pixels")):
        monkeypatch.setattr(module, check, lambda *given, **options: None)  # of CPUs alone
    ours, theirs = make_pair(preset, "cpu", competition, recipe)
    svi = ours.engine
    given = (svi.model, svi.guide, svi.optim, svi.elbo, svi.competition, svi.execution)
    ours.engine = svi = CudaGraphSVI(*given)
    hold_to_each_other(ours, theirs, "cpu")
    assert len(set(keys)) < len(keys)
    # neither the temperature nor the weight of L_r asks for a graph of its own
    seen = without_capacity(keys)
    svi.competition.temperature, svi.elbo.gamma = 0.3, 0.9
    with pyro.validation_enabled(False):
        x = torch.rand(8, 3, 16, 16, dtype=torch.float64)
        regions = torch.rand(8, 4, 1, 16, 16).double() if ours.config.gt_masks else None
        svi.gradients(x, svi.compete(x, regions))
        svi.decompose(x, regions)
    assert without_capacity(keys) == seen


@CUDA
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, in torch
@pytest.mark.parametrize(
    ("preset", "competition", "recipe", "compiled"),
    [(*step, False) for step in STEPS] + [(*STEPS[0], True)],
)
def test_captured_steps_are_the_steps_themselves(preset, competition, recipe, compiled):
    hold_to_each_other(*make_pair(preset, "cuda", competition, recipe, compiled), "cuda")
