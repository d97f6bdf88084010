"""Networks that each run on their own inputs: in groups, in slots, or all of them."""

import pytest
import torch
from torch import nn

from econ_pyro.accel.dispatch import Capacity, current_capacity, fixed_capacity
from econ_pyro.core.ensemble import Ensemble, freeze, learns
from econ_pyro.infer.cuda_graph_svi import capacity_for


def make_ensemble():
    return Ensemble(lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh()), 3).double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capacity", [Capacity(6, 24), Capacity(0, 0)])
def test_a_capacity_changes_no_output_and_no_gradient(seed, capacity):
    torch.manual_seed(seed)
    ensemble, x = make_ensemble(), torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    k = torch.randint(2, (6, 4))  # the third network has nothing to do
    y = x.repeat_interleave(4, 0)
    if not capacity.images:
        capacity = capacity_for(torch.cat([k, k[:, :1]], 1), 3)
    given = [*ensemble.parameters(), x]

    def run():
        looks, won = ensemble.forward_each(k, x), ensemble.forward_selected(k.flatten(), y)
        weight = torch.linspace(1, 2, looks.numel(), dtype=x.dtype).view_as(looks)
        loss = (looks * weight).sum() + (won.square() * weight.flatten(0, 1)).sum()
        return looks, won, torch.autograd.grad(loss, given, allow_unused=True)

    looks, won, gradients = run()
    assert torch.allclose(looks.flatten(0, 1), won)
    with fixed_capacity(capacity):
        same_looks, same_won, same_gradients = run()
    torch.testing.assert_close(same_looks, looks)
    torch.testing.assert_close(same_won, won)
    for a, b in zip(same_gradients, gradients, strict=True):
        if b is None:  # a loser is in the graph, with a gradient of zero
            assert not a.any()
        else:
            torch.testing.assert_close(a, b)


def test_who_finds_no_slot_takes_nobody_elses():
    ensemble, x = make_ensemble(), torch.randn(8, 5, dtype=torch.float64)
    k = torch.tensor([0, 0, 1, 0, 0, 1, 2, 2])  # the first has four images and slots for two
    alone = torch.stack([ensemble[e](row) for e, row in zip(k.tolist(), x, strict=True)])
    seated = [0, 1, 2, 5, 6, 7]
    with fixed_capacity(Capacity(8, 2)):
        torch.testing.assert_close(ensemble.forward_selected(k, x)[seated], alone[seated])


def test_what_all_make_of_images_leaves_no_graph():
    ensemble, x = make_ensemble(), torch.randn(2, 3, 5, dtype=torch.float64)
    out = ensemble.forward_all(x)
    assert not out.requires_grad
    for e in range(3):
        torch.testing.assert_close(out[:, e], ensemble[e](x[:, e]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_groups_come_in_multiples_of_four_and_padding_changes_nothing(n):
    ensemble, x = make_ensemble(), torch.randn(n, 5, dtype=torch.float64)
    k, sizes = torch.arange(n) % 2, []
    for network in ensemble:
        network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    found = ensemble.forward_selected(k, x)
    # a batch that one network has for itself stays as it is
    assert n == 1 or (len(sizes) == 2 and not any(size % 4 for size in sizes))
    for e, row, out in zip(k.tolist(), x, found, strict=True):
        torch.testing.assert_close(ensemble[e](row), out)


def test_a_capacity_holds_within_its_block_alone():
    assert current_capacity() is None
    with fixed_capacity(Capacity(2, 6)):
        with fixed_capacity(Capacity(1, 3)):
            assert current_capacity() == Capacity(1, 3)
        assert current_capacity() == Capacity(2, 6)
    assert current_capacity() is None


def test_a_further_input_is_made_once_for_all_that_run():
    made = []

    def shared_input(networks):
        made.append(len(networks))
        return [torch.full((1, 5), float(network.weight.detach()[0, 0])) for network in networks]

    class Adding(nn.Linear):
        def forward(self, x, further):
            return super().forward(x + further)

    ensemble = Ensemble(lambda: Adding(5, 7), 3, shared_input).double()
    x, k = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 2, 2, 0])
    found = ensemble.forward_selected(k, x)
    assert made == [2]
    for e, row, out in zip(k.tolist(), x, found, strict=True):
        own = ensemble[e]
        expected = nn.functional.linear(
            row + float(own.weight.detach()[0, 0]), own.weight, own.bias
        )
        torch.testing.assert_close(out, expected)


def test_frozen_networks_do_not_learn():
    ensembles = make_ensemble(), make_ensemble()
    freeze(ensembles, [0, 2])
    assert [[learns(network) for network in e] for e in ensembles] == 2 * [[False, True, False]]
