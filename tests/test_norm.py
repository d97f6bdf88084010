import torch
from torch.nn import functional as F

from econ_pyro.guides.norm import InstanceNorm2d


def make_norm(dtype):
    norm = InstanceNorm2d(3).to(dtype)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    return norm


def test_value_and_gradient_are_those_of_torch():
    norm = make_norm(torch.float64)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in norm.parameters())
    ours, theirs = norm(x), F.instance_norm(y, weight=weight, bias=bias)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    downstream = torch.randn_like(ours)
    ours.backward(downstream)
    theirs.backward(downstream)
    pairs = ((x, y), (norm.weight, weight), (norm.bias, bias))
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad)


def test_low_precision_input_is_normalised_in_float32():
    norm, x = make_norm(torch.float32), torch.randn(2, 3, 8, 8).bfloat16()
    out = norm(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, norm(x.float()))
    norm(x.requires_grad_()).sum().backward()
    assert x.grad.dtype == torch.bfloat16
