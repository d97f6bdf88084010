"""Convolution and ReLU in one give what the two give, and their gradients."""

import pytest
import torch
from torch.nn import functional as F

from econ_pyro.accel.convolution import convolve_relu

# of torch's compiler, within torch
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_graph_of_another_test():
    torch._dynamo.reset()


KERNEL = "mkldnn::_convolution_pointwise"


def used(run):
    with torch.profiler.profile() as profile:
        found = run()
    return found, {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side, groups", [(1, 1), (3, 1), (3, 2)])
def test_a_compiled_convolution_and_its_relu_are_one_kernel(learning, dtype, side, groups):
    torch.manual_seed(0)
    h = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, 8 // groups, side, side), torch.randn(6)
    args = [a.requires_grad_(learning) for a in (h, weight, bias)]
    compiled = torch.compile(convolve_relu, backend="aot_eager")

    def run(function):
        with torch.set_grad_enabled(learning):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
                out = function(*args, side // 2, groups)
            steep = torch.linspace(-1, 1, out.numel()).view_as(out).to(dtype)
            return out, *(torch.autograd.grad(out, args, steep) if learning else ())

    def plainly(h, weight, bias, padding, groups):
        return F.conv2d(h, weight, bias, padding=padding, groups=groups).relu()

    expected = run(plainly)
    found, kernels = used(lambda: run(compiled))
    assert KERNEL in kernels
    assert found[0].dtype == dtype and found[0].amin() == 0 < found[0].amax()
    for ours in (run(convolve_relu), found):
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_what_it_cannot_do_in_one_it_does_in_two():
    torch.manual_seed(0)
    h, weight, bias = (
        torch.randn(*s, dtype=torch.float64) for s in ((1, 2, 4, 4), (3, 2, 1, 1), (3,))
    )
    compiled = torch.compile(convolve_relu, backend="aot_eager")
    found, kernels = used(lambda: compiled(h, weight, bias, 0, 1))
    assert KERNEL not in kernels
    torch.testing.assert_close(found, F.conv2d(h, weight, bias).relu())
