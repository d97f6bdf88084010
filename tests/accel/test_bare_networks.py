"""The networks of a step alone: the same calls, and nothing between them."""

import pytest
import torch
from torch import nn

from econ_pyro.accel.bare_networks import BareNetworks
from econ_pyro.accel.execution import Execution
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.accel.timing import count_flops
from econ_pyro.infer import scene_model
from econ_pyro.training.learner import Learner
from helpers.small_systems import SYSTEMS

CPU = torch.device("cpu")


class Cell(nn.Module):
    """A recurrent network: what it remembers comes as a pair and goes as one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, state, scale=1.0):
        return scale * self.linear(x), (state[0] * self.linear(x), state[1])


class Programs(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.cells = nn.ModuleList([Cell()])
        self.between = nn.Linear(2, 2)  # no network of a program


def test_gradients_are_those_of_the_sums_of_all_outputs():
    programs, x = Programs(), torch.randn(3, 2)
    cell, given = programs.model.cells[0], []

    def step():
        state = torch.ones(3, 2), torch.zeros(3, 2)
        h, state = cell(x, state)
        h = programs.between(h)
        given[:] = [(x, (torch.ones(3, 2), state[1])), (h, state)]
        out, _ = cell(h, state=state, scale=2.0)
        with torch.no_grad():
            cell(out, state)
        out.sum().backward()

    bare = BareNetworks(programs, step, Execution(), CPU)
    assert len(bare) == 3
    bare()
    found = cell.linear.weight.grad.clone()
    bare()  # gradients do not add up from call to call
    torch.testing.assert_close(cell.linear.weight.grad, found)
    cell.zero_grad()
    for scale, (inputs, state) in zip((1.0, 2.0), given, strict=True):
        out, (first, _) = cell(inputs.detach(), [a.detach() for a in state], scale)
        (out.sum() + first.sum()).backward()
    torch.testing.assert_close(found, cell.linear.weight.grad)


# IODINE takes gradients within a step, and products of slots and pixels are no network
@pytest.mark.parametrize(
    ("kind", "share"),
    [("monet", 0.98), ("genesis", 0.98), ("genesis-v2", 0.95), ("slot-attention", 0.9),
     ("iodine", 0.7)],
)  # fmt: skip
def test_almost_all_operations_of_a_step_are_its_networks(kind, share):
    config = SYSTEMS[kind]
    model = scene_model.build(config)
    engine = Learner(config, model, CPU, ProcessGroup()).engine
    x = torch.rand(2, 3, config.model.size, config.model.size)
    bare = BareNetworks(model, lambda: engine.update(x), engine.execution, CPU)
    of_step, of_networks = (count_flops(job) for job in (lambda: engine.update(x), bare))
    assert share * of_step < of_networks <= of_step
