import torch
from torch.nn import functional as F

from econ_pyro.guides.norm import InstanceNormReLU2d


def make_norm(dtype):
    norm = InstanceNormReLU2d(3).to(dtype)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    return norm


def test_value_and_gradient_are_those_of_torch():
    norm = make_norm(torch.float64)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in norm.parameters())
    ours, theirs = norm(x), F.instance_norm(y, weight=weight, bias=bias).relu()
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    downstream = torch.randn_like(ours)
    ours.backward(downstream)
    theirs.backward(downstream)
    pairs = ((x, y), (norm.weight, weight), (norm.bias, bias))
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad)


def test_low_precision_input_is_normalised_in_float32():
    norm, x = make_norm(torch.float32), torch.randn(2, 3, 8, 8).bfloat16()
    x, y = x.requires_grad_(), x.detach().float().requires_grad_()
    ours, theirs = norm(x), norm(y)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs.bfloat16(), rtol=0, atol=0)
    downstream = torch.randn_like(theirs).bfloat16()
    (ours * downstream).sum().backward()
    gradients = [p.grad.clone() for p in norm.parameters()]
    norm.zero_grad()
    (theirs * downstream).sum().backward()
    torch.testing.assert_close(x.grad, y.grad.bfloat16())
    for ours, theirs in zip(gradients, norm.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)
